"""P2 and RCR: slow loops from their papers, the budget, and the limits in which nothing is masked again."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.rules import keep_best, select_top_k
from jaxdlm.rules.keep_best import share_left
from tests.rules.drive import blocks_of_draws, drive, slowly, sorted_by

WIDTH = 10


def oracle(steps, eta, judge):
    then = {}

    def step(p, token, left, tokens, tick):
        top, columns = p.max(1), len(p)
        own = {"token": lambda i: p[i, tokens[i]], "proposal": lambda i: top[i], "record": lambda i: then[i]}[judge]
        rank = {i: np.log(top[i]) for i in left}
        rank |= {i: eta * np.log(own(i)) if eta else np.inf for i in range(columns) if i not in left}
        stays = set(sorted_by(range(columns), rank)[: columns - columns * (steps - 1 - tick) // steps])
        then.update({i: top[i] for i in left if i in stays})
        return [i for i in left if i in stays], [i for i in range(columns) if i not in left and i not in stays], False

    return step


@pytest.mark.parametrize("judge", ["token", "proposal", "record"])
def test_slow_oracle(judge):
    again = 0
    for steps, eta in ((WIDTH, 1.0), (4, 1.0), (7, 2.0), (1, 0.5)):
        for draws in blocks_of_draws(3, WIDTH):
            run = drive(keep_best(jnp.int32(steps), jnp.float32(eta), judge=judge), draws)
            run.same(slowly(oracle(steps, eta, judge), draws))
            left = [int(mask.sum()) for mask in run.masks]
            assert left == [WIDTH, *(WIDTH * (steps - i) // steps for i in range(1, len(left)))]
            again += any((after & ~before).any() for before, after in zip(run.masks, run.masks[1:]))
    assert again, "nothing was masked again: the case would show nothing"


def test_without_doubt_it_is_the_most_probable_one_by_one():
    for draws in blocks_of_draws(3, WIDTH):
        drive(keep_best(eta=jnp.float32(0.0)), draws).same(drive(select_top_k(), draws))


def test_the_budget_is_exact_however_large_the_numbers():
    for columns, steps in ((10, 3), (1, 2**16), (2**20, 2**16), (2**16 - 1, 2**16), (2**20 - 1, 2**16 - 1), (7, 7)):
        for tick in {0, 1, steps // 3, steps - 2, steps - 1, steps} - {-1}:
            left = int(share_left(jnp.int32(columns), jnp.int32(tick), jnp.int32(steps)))
            assert left == columns * max(steps - 1 - tick, 0) // steps


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"eta": -1}, {"eta": 1001}, {"judge": "nobody"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        keep_best(**wrong)
    if "judge" not in wrong:
        with pytest.raises(InputError, match=next(iter(wrong))):
            policies.RECIPES["p2"](**wrong)
