"""KLASS: a slow loop from the paper's, its limits, and what the release does from block to block."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.core.carry import Update
from jaxdlm.rules import select_converged, select_top_k
from tests.rules.drive import VOCAB, blocks_of_draws, drive, slowly, sorted_by
from tests.rules.hand import call, row


def oracle(tau, eps, history):
    past, divergences = [None], []

    def step(p, token, left, tokens, tick):
        if past[0] is not None:
            divergences.append((p * (np.log(p + 1e-12) - np.log(past[0] + 1e-12))).sum(1))
        past[0], top = p, p.max(1)
        stable = lambda i: len(divergences) >= history and all(kl[i] < eps for kl in divergences[-history:])  # noqa: E731
        ready = [i for i in left if stable(i) and top[i] > tau]
        return ready or sorted_by(left, top)[:1], [], False

    return step


@pytest.mark.parametrize(("tau", "eps", "history"), [(0.6, 0.1, 2), (0.3, 0.5, 2), (0.0, 1e9, 2), (0.5, 0.2, 1)])
def test_slow_oracle(tau, eps, history):
    several = 0
    for draws in blocks_of_draws(6, 10, settling=0.6):
        run = drive(select_converged(jnp.float32(tau), jnp.float32(eps), history), draws)
        run.same(slowly(oracle(tau, eps, history), draws))
        assert all(np.sum(run.when == forward) == 1 for forward in range(history)), "nothing is known to be stable yet"
        several += len(run.masks) < 10
    assert several, "the case would show nothing"


@pytest.mark.parametrize("numbers", [(0.3, 0.0), (1.0, 1e9)])
def test_where_nothing_may_be_ready_it_writes_one_by_one(numbers):
    """eps = 0: no divergence is below it, those that round below 0 included; tau = 1: no probability is above it."""
    for draws in (*blocks_of_draws(2, 8), np.repeat(next(blocks_of_draws(1, 8, 1)), 16, 0)):
        run = drive(select_converged(*(jnp.float32(x) for x in numbers)), draws)
        run.same(drive(select_top_k(), draws))


def test_a_model_that_looks_at_nothing_else_is_done_with_forward_h():
    draws = np.repeat(next(blocks_of_draws(1, 9, 1)), 16, axis=0)
    assert len(drive(select_converged(jnp.float32(0.0), jnp.float32(0.01)), draws).masks) == 3


@pytest.mark.slow
def test_released_code_remembers_the_block_before():
    """In a block's second forward, and not before, a column may be ready, as its divergences are known."""
    draws, can = np.repeat(next(blocks_of_draws(1, 4, 1)).astype(np.float32), 4, axis=0), [True] * 4
    for official, first in ((False, 2), (True, 1)):
        rule = select_converged(jnp.float32(0.0), jnp.float32(0.01), official=official)
        assert rule.traits.view == ("canvas" if official else "block")
        state, counts = rule.init(4, VOCAB), []
        for tick in (0, 1, 2, 3) * 2:
            update = Update(draws[tick], token=np.zeros(4, np.int32), score=np.float32([-0.1, -0.2, -0.3, -0.4]))
            update, state = call(rule, update, state, row(can, tick=tick))
            counts.append(int(np.sum(update.commit)))
        assert counts[:4] == [1, 1, 4, 4] and counts[4:] == [1] * first + [4] * (4 - first)


@pytest.mark.parametrize("wrong", [{"tau": -0.1}, {"tau": 1.1}, {"eps": -1}, {"history": 0}, {"history": 65}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["klass"](**wrong)
