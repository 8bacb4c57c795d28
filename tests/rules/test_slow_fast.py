"""SlowFast: a slow loop from the released one, phase by phase, and its limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.rules import select_above, select_in_region
from tests.rules.drive import blocks_of_draws, drive, slowly

WIDTH = 14


class Oracle:
    """One sub-cycle after the other: `explore` looks at where the model is sure, then the region is filled."""

    def __init__(self, tau, tau_min, sigma, explore, history, official) -> None:
        self.numbers, self.begin, self.cycle = (tau, tau_min, sigma, explore, history, official), 0, self.sub_cycle()
        next(self.cycle)

    def __call__(self, p, token, left, tokens, tick):
        return self.cycle.send((p.max(1), left))

    def fill(self, top, left, end):
        tau, region = self.numbers[0], [i for i in left if self.begin <= i < end]
        sure = [i for i in region if top[i] >= tau]
        return sure if len(sure) > 1 else sorted(region, key=lambda i: (-top[i], i))[:1]

    def sub_cycle(self):
        _, tau_min, sigma, explore, history, official = self.numbers
        top, left = yield
        while True:
            guesses, end = [], None
            for look in range(explore):
                if end is None:
                    beyond = [i for i in left if i >= self.begin and top[i] >= tau_min]
                    guesses.append(max(beyond) + 1 if beyond else self.begin + 1)
                    recent = guesses[-history:]
                    if len(recent) == history and np.std(recent) < sigma:
                        end = guesses[-1]
                write, last = self.fill(top, left, WIDTH), look == explore - 1 or (end is not None and not official)
                top, left = yield write, [], official and not last
                if last:
                    break
            end = int(np.mean(guesses[-history:])) if end is None else end
            while any(self.begin <= i < end for i in left):
                top, left = yield self.fill(top, left, end), [], False
            self.begin = end


NUMBERS = [(0.8, 0.3, 1.0, 6, 2), (0.9, 0.5, 2.0, 3, 3), (0.6, 0.7, 0.0, 2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_slow_oracle(numbers, official):
    tau, tau_min, sigma, explore, history = numbers
    for draws in blocks_of_draws(4, WIDTH):
        three = (jnp.float32(x) for x in (tau, tau_min, sigma))
        run = drive(select_in_region(*three, explore, history, official=official), draws)
        run.same(slowly(Oracle(*numbers, official), draws))
        assert official or len(run.masks) <= WIDTH


def test_a_region_up_to_the_end_is_the_threshold():
    for draws in blocks_of_draws(3, WIDTH):
        three = (jnp.float32(x) for x in (0.8, 0.0, 1.0))
        drive(select_in_region(*three), draws).same(drive(select_above(jnp.float32(0.8)), draws))


@pytest.mark.slow
def test_released_code_explores_where_nothing_is_left():
    draws = next(blocks_of_draws(1, 4))
    three = [jnp.float32(x) for x in (0.0, 0.3, 1.0)]
    assert len(drive(select_in_region(*three, official=True), draws).masks) == 6
    assert len(drive(select_in_region(*three), draws).masks) == 1


@pytest.mark.parametrize("wrong", [{"tau": 2}, {"tau_min": -1}, {"sigma": -1}, {"explore": 0}, {"history": 65}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["slow_fast"](**wrong)
