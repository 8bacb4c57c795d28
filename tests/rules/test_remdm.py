"""ReMDM's form for LLaDA: a slow loop from the paper's, its count of forwards, and the case in which nothing is revisited."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.rules import select_and_revisit, select_top_k
from tests.rules.drive import blocks_of_draws, drive, slowly, sorted_by

WIDTH = 12


def oracle(steps, again):
    then, begin = {}, 7 * steps // 8

    def step(p, token, left, tokens, tick):
        top, inside = p.max(1), lambda t: begin <= t < begin + steps
        usual = tick if tick < begin else tick - steps
        count = again if inside(tick) else WIDTH // steps + (usual < WIDTH % steps)
        write = sorted_by(left, top)[:count]
        then.update({i: top[i] for i in write})
        mine = [i for i in range(WIDTH) if i not in left or i in write]
        least = sorted(mine, key=lambda i: (then[i], i))
        return write, least[:again] if inside(tick + 1) else [], False

    return step


@pytest.mark.parametrize(("steps", "again"), [(12, 1), (12, 3), (4, 1), (6, 2), (5, 1)])
def test_slow_oracle(steps, again):
    for draws in blocks_of_draws(4, WIDTH):
        run = drive(select_and_revisit(jnp.int32(steps), jnp.int32(again)), draws)
        run.same(slowly(oracle(steps, again), draws))
        assert len(run.masks) == 2 * steps
        left = np.array([mask.sum() for mask in run.masks])
        begin = 7 * steps // 8
        assert (left[begin : begin + steps] == left[begin]).all(), "as many are written as were masked"


def test_where_nothing_is_masked_again_it_is_the_most_probable():
    for draws in blocks_of_draws(3, WIDTH):
        run = drive(select_and_revisit(jnp.int32(5), jnp.int32(0)), draws)
        run.same(drive(select_top_k(jnp.int32(5)), draws))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"again": -1}, {"again": 0.5}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["remdm"](**wrong)
