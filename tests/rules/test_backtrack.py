"""Saber: a slow loop from the released one, and the bounds that follow from its numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, policies
from jaxdlm.rules import sample, select_and_backtrack
from tests.rules.drive import blocks_of_draws, drive, slowly, sorted_by
from tests.rules.hand import apply, logits, row


def oracle(least, mu, official):
    then, last, counts = {}, [None], []

    def step(p, token, left, tokens, tick):
        top = p.max(1)
        bar = np.mean(list(then.values())) if then else 1.0
        write = [i for i in left if top[i] > bar]
        if len(write) < least:
            write = sorted_by(left, top)[:least]
        then.update({i: top[i] for i in write})
        fall = (0 if last[0] is None else last[0]) - top
        last[0] = top
        counts.append(len(write))
        if set(write) == set(left):
            return write, [], False
        back = min(max(least // 2, -(-len(write) // mu)), len(write) - 1)
        again = sorted_by([i for i in range(len(p)) if i not in left or i in write], fall)[:back]
        for i in again if not official else ():
            del then[i]
        return write, again, False

    return step


@pytest.mark.parametrize(("least", "mu", "official"), [(2, 8, False), (2, 8, True), (1, 2, False), (3, 4, True)])
def test_slow_oracle(least, mu, official):
    for draws in blocks_of_draws(6, 12):
        rule = select_and_backtrack(jnp.int32(least), jnp.int32(mu), official=official)
        run = drive(rule, draws)
        run.same(slowly(oracle(least, mu, official), draws))
        left = [mask.sum() for mask in run.masks] + [0]
        assert (np.diff(left) < 0).all(), "every forward leaves fewer masks"
        assert left[0] - left[1] == max(1, least - max(least // 2, -(-least // mu))), "the first bar is 1"


def test_what_was_written_and_fell_most_is_masked_again_what_was_given_is_not():
    """Column 0 fell most, and was given; column 1 was written, with a probability that the next ones do not reach."""
    rule = chain(sample(), select_and_backtrack(jnp.int32(2), jnp.int32(8)))
    view = row([False, False, True, True, True], prefilled=[True, False, False, False, False], tick=2)
    state = rule.init(5, 5)
    state = (state[0], state[1]._replace(last=np.float32([1, 0.9, 0, 0, 0]), then=np.float32([0, 0.9, 0, 0, 0])))
    update = apply(rule, logits([0.3, 0.3, 0.6, 0.5, 0.4]), view, state)
    np.testing.assert_array_equal(update.reopen, [False, True, False, False, False])
    np.testing.assert_array_equal(update.commit, [False, False, True, True, False])


@pytest.mark.parametrize("wrong", [{"least": 0}, {"mu": 0}, {"least": 1.5}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["saber"](**wrong)
