"""Several blocks at once: a loop written from the paper, and the limit of one block after the other."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, policies
from jaxdlm.core.carry import Status, Update
from jaxdlm.rules.multi_block import multi_block
from tests.conformance.toys import GRID, PROMPTS, model
from tests.rules.hand import IDS, call, row, scored

BLOCK, BLOCKS = 4, 3
WIDTH = BLOCK * BLOCKS
MASK, END = IDS.mask, IDS.eos[0]


def oracle(entropies, tau, add):
    """(columns written, blocks open) after each forward of a loop over blocks, entropies [T, W]."""
    open_blocks, left, seen = 1, np.ones(BLOCK * BLOCKS, bool), []
    for entropy in entropies:
        if not left.any():
            break
        last = left[(open_blocks - 1) * BLOCK : open_blocks * BLOCK]
        if open_blocks < BLOCKS and (~last).sum() >= np.float32(add) * BLOCK:
            open_blocks += 1
        columns = [i for i in range(open_blocks * BLOCK) if left[i]]
        chosen = {i for i in columns if entropy[i] <= tau} | {min(columns, key=lambda i: (entropy[i], i))}
        first = [i for i in columns if i // BLOCK == columns[0] // BLOCK]
        if not chosen & set(first):
            chosen.add(min(first, key=lambda i: (entropy[i], i)))
        left[list(chosen)] = False
        seen.append((sorted(chosen), open_blocks))
    return seen


@pytest.mark.parametrize(("tau", "add"), [(0.5, 0.1), (0.5, 0.5), (0.2, 1.0), (0.0, 0.0), (2.0, 0.25)])
def test_slow_oracle(tau, add):
    random = np.random.default_rng(0)
    for _ in range(4):
        entropies = random.uniform(0, 2, (BLOCK * BLOCKS, BLOCK * BLOCKS)).round(1)
        rule, left = multi_block(tau, add), np.ones(BLOCK * BLOCKS, bool)
        state, expected = rule.init(len(left), 5), oracle(np.float32(entropies), np.float32(tau), add)
        for entropy, (columns, blocks) in zip(entropies, expected, strict=False):
            done = ~left.reshape(BLOCKS, BLOCK).any(1)
            view = row(left, blocks=BLOCKS)._replace(block=jnp.int32(np.argmin(done)))
            commit, state = scored(rule, -entropy, view, state)
            assert list(np.flatnonzero(commit)) == columns
            assert int(state.blocks) == blocks
            left &= ~commit
        assert not left.any(), "every forward writes a column"


@pytest.mark.parametrize("official", [False, True])
def test_blocks_open_behind_the_end_of_the_text_only_without_early_stop(official):
    left = np.arange(WIDTH) > 0
    for token, early_stop, blocks in ((END, True, 1), (END, False, 2), (1, True, 2), (1, False, 2)):
        view = row(left, blocks=BLOCKS, tokens=np.where(left, MASK, token))
        rule = multi_block(0.5, 0.1, early_stop=early_stop, official=official)
        _, state = scored(rule, -np.ones(WIDTH), view)
        assert int(state.blocks) == blocks


def test_as_released_only_the_first_end_of_text_counts():
    """Others, such as the end of a turn, are known here and not to the release."""
    left = np.arange(WIDTH) > 0
    for official, blocks in ((False, 1), (True, 2)):
        view = row(left, blocks=BLOCKS, tokens=np.where(left, MASK, 4))
        view = view._replace(ids=dataclasses.replace(IDS, eos=(END, 4)))
        _, state = call(
            multi_block(0.5, 0.1, official=official),
            Update(
                np.zeros((WIDTH, 8), np.float32), token=np.full(WIDTH, 2, np.int32), score=-np.ones(WIDTH, np.float32)
            ),
            multi_block().init(WIDTH, 8),
            view,
        )
        assert int(state.blocks) == blocks and not state.filled.any()


def released(entropies, proposals, tau, add, early_stop, shifted):
    """The canvas after each forward of the released loop: entropies and proposals [T, W], for one row."""
    text, opened, filled, seen = [MASK] * WIDTH, 1, set(), []
    for entropy, token in zip(entropies, proposals, strict=True):
        last = text[(opened - 1) * BLOCK : opened * BLOCK]
        share = sum(t != MASK for t in last) / BLOCK
        if opened < BLOCKS and share >= add and not (early_stop and END in text):
            opened += 1
        masked = [i for i in range(opened * BLOCK) if text[i] == MASK]
        taken = sorted({*masked, *filled})
        here = [i for i in taken if i // BLOCK == masked[0] // BLOCK]
        surest = lambda columns: min(columns, key=lambda i: (entropy[i], i))  # noqa: E731
        if shifted:
            chosen = {i for i in taken if entropy[i] < tau}
        else:
            chosen = {i for i in taken if entropy[i] <= tau} | {surest(taken)}
        if not chosen & set(here):
            chosen.add(surest(here))
        for i in chosen:
            text[i] = int(token[i])
        if early_stop and END in text and MASK in text:
            end = text.index(END)
            filled = {i for i in range(end + 1, WIDTH) if text[i] == MASK}
            text[end + 1 :] = [END] * (WIDTH - end - 1)
        else:
            filled = set()
        seen.append(list(text))
        if MASK not in text:
            return seen
    raise AssertionError("every canvas is written in as many forwards as it has columns")


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("early_stop", [False, True])
def test_the_released_loops(early_stop, shifted):
    random, kept, replaced = np.random.default_rng(1), 0, 0
    rule = multi_block(0.5, 0.25, early_stop=early_stop, official=True)
    for _ in range(40):
        entropies = random.uniform(0, 4, (WIDTH, WIDTH)).round(1).astype(np.float32)
        entropies[entropies == 1] = 0.5  # many exactly at the bar
        proposals = np.where(random.uniform(size=(WIDTH, WIDTH)) < 0.12, END, random.integers(0, 6, (WIDTH, WIDTH)))
        expected = released(entropies, proposals, np.float32(0.5), 0.25, early_stop, shifted)
        text, state = np.full(WIDTH, MASK, np.int32), rule.init(WIDTH, 5)
        for entropy, token, after in zip(entropies, proposals, expected, strict=False):
            left = text == MASK
            view = row(left, blocks=BLOCKS, tokens=text)
            view = view._replace(block=jnp.int32(np.argmax(left) // BLOCK), shifted=shifted)
            update = Update(np.zeros((WIDTH, 8), np.float32), token=token.astype(np.int32), score=-entropy)
            update, state = call(rule, update, state, view)
            new = text if update.fill is None else np.asarray(update.fill)
            new = np.where(np.asarray(update.commit) & left, update.token, new)
            replaced += int(((text != new) & ~left).sum())
            text = new
            np.testing.assert_array_equal(text, after)
            ended = not (text == MASK).any() and bool(update.halt)
            assert int(update.status) == (Status.EOS if ended else Status.FINISHED)
        assert not (text == MASK).any()
        kept += END in text and bool((text[np.argmax(text == END) :] != END).any())
    assert (replaced > 0) == early_stop
    assert kept > 0, "text stands behind the end of the text at times, with the early stop too"


def test_what_was_given_stands_behind_the_end_of_the_text():
    left, prefilled = np.arange(WIDTH) > 1, np.arange(WIDTH) == WIDTH - 1
    view = row(left & ~prefilled, blocks=BLOCKS, tokens=np.where(left & ~prefilled, MASK, 3), prefilled=prefilled)
    update = Update(
        np.zeros((WIDTH, 8), np.float32), token=np.full(WIDTH, END, np.int32), score=-np.arange(WIDTH) * 1.0
    )
    update, state = call(multi_block(0.5, 1.0, official=True), update, multi_block(official=True).init(WIDTH, 8), view)
    assert list(np.flatnonzero(update.commit)) == list(range(2, WIDTH - 1)), (
        "column 2 holds the end, the rest is filled"
    )
    assert update.fill[-1] == 3 and update.halt and int(update.status) == Status.EOS
    assert list(np.flatnonzero(state.filled)) == list(range(3, WIDTH - 1))


@pytest.mark.slow
def test_one_block_after_the_other_is_the_decoder_of_dparallel():
    settings = {"temperature": jnp.float32(0.0)}
    one = decode(
        model("same"), PROMPTS, policies.RECIPES["d3llm"](jnp.float32(0.7), jnp.float32(1.0), **settings), **GRID
    )
    other = decode(model("same"), PROMPTS, policies.RECIPES["dparallel"](jnp.float32(0.7), **settings), **GRID)
    for field in ("tokens", "forwards", "commit_step"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("wrong", [{"tau": -1}, {"add": -0.1}, {"tau": "low"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match="must be"):
        multi_block(**wrong)
