"""D2F: a slow loop over the states of blocks from the released one, and the limit in which blocks come one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, policies
from jaxdlm.core.carry import Update
from jaxdlm.rules import sample, select_above, select_in_pipeline
from tests.rules.drive import MASK, VOCAB, blocks_of_draws, probabilities
from tests.rules.hand import IDS, call, row

BLOCK, BLOCKS = 6, 4
END = IDS.eos[0]


def drive(rule, draws):
    """Forwards of columns: what the rule commits in each, the whole canvas in view."""
    rule, columns = chain(sample(), rule), BLOCK * BLOCKS
    tokens, when, state = np.full(columns, MASK), np.full(columns, -1), rule.init(columns, VOCAB)
    for tick, raw in enumerate(draws.astype(np.float32)):
        pending = tokens == MASK
        if not pending.any():
            break
        view = row(pending, tokens=tokens, tick=tick, blocks=BLOCKS)
        update, state = call(rule, Update(raw), state, view._replace(block=np.int32(np.argmax(pending) // BLOCK)))
        commit = np.asarray(update.commit) & pending
        tokens, when = np.where(commit, np.asarray(update.token), tokens), np.where(commit, tick, when)
    return tokens, when


def slowly(draws, tau, add, full, early_stop):
    """The states of blocks as released: masks left, and whether one may be completed."""
    left, complete, tokens = {}, {0: True}, np.full(BLOCK * BLOCKS, MASK)
    when, ended = np.full(BLOCK * BLOCKS, -1), False
    for tick, raw in enumerate(draws):
        if (tokens != MASK).all():
            break
        share = lambda b: 1 - left[b] / BLOCK  # noqa: E731
        last = len(left) - 1
        going = last < 0 or share(last) >= add
        behind = last < 0 or all(count == 0 for count in left.values())  # the text would stay unfinished
        if len(left) < BLOCKS and going and (not ended or behind):
            left[last + 1] = BLOCK
            complete.setdefault(last + 1, False)
        for b in list(left):
            if share(b) >= full and b + 1 in left:
                complete[b + 1] = True
        p = probabilities(raw)
        for b in left:
            masks = [i for i in range(b * BLOCK, (b + 1) * BLOCK) if tokens[i] == MASK]
            write = [i for i in masks if p[i].max() > tau]
            if masks and complete[b] and not write:
                write = [max(masks, key=lambda i: (p[i].max(), -i))]
            for i in write:
                tokens[i], when[i] = p[i].argmax(), tick
                ended |= early_stop and tokens[i] == END
            left[b] -= len(write)
    return tokens, when


NUMBERS = [(0.9, 0.1, 0.95), (0.6, 0.5, 0.5), (0.8, 1.0, 1.0), (0.5, 0.0, 0.0)]


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_slow_oracle(numbers, early_stop):
    for draws in blocks_of_draws(4, BLOCK * BLOCKS):
        rule = select_in_pipeline(*(jnp.float32(x) for x in numbers), early_stop=early_stop)
        for mine, slow in zip(drive(rule, draws), slowly(draws, *numbers, early_stop)):
            np.testing.assert_array_equal(mine, slow)


def test_shares_of_one_are_the_threshold_block_by_block():
    for draws in blocks_of_draws(3, BLOCK * BLOCKS):
        _, when = drive(select_in_pipeline(*(jnp.float32(x) for x in (0.7, 1.0, 1.0))), draws)
        tick = 0
        for block in range(0, BLOCK * BLOCKS, BLOCK):
            here = slice(block, block + BLOCK)
            pending = np.ones(BLOCK, bool)
            while pending.any():
                rule = chain(sample(), select_above(jnp.float32(0.7)))
                raw = draws[tick, here].astype(np.float32)
                update, _ = call(rule, Update(raw), rule.init(BLOCK, VOCAB), row(pending))
                np.testing.assert_array_equal(when[here] == tick, update.commit)
                pending, tick = pending & ~np.asarray(update.commit), tick + 1
        assert (when >= 0).all() and tick == when.max() + 1


@pytest.mark.parametrize("wrong", [{"tau": 1.1}, {"add": -0.1}, {"full": 2}, {"early_stop": 1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["d2f"](**wrong)
