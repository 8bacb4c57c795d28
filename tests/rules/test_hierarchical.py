"""The surest of every run of masks: by hand, a slow loop, its limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.rules import select_above, select_by_runs
from tests.rules.drive import blocks_of_draws, drive, slowly
from tests.rules.hand import row, scored

RULE = select_by_runs(jnp.float32(0.9), jnp.float32(0.4))


def test_one_of_every_run_by_hand():
    p = [0.5, 0.7, 0.1, 0.2, 0.3, 0.1, 0.6, 0.95, 0.6]
    can = [True, True, False, True, True, False, True, True, True]
    commit, _ = scored(RULE, np.log(p), row(can))
    np.testing.assert_array_equal(np.flatnonzero(commit), [1, 7])  # the middle run is not sure enough
    commit, _ = scored(RULE, np.log([0.1, 0.2, 0.3]), row([True] * 3))
    np.testing.assert_array_equal(commit, [False, False, True])  # the surest of all, whatever it is
    commit, _ = scored(RULE, np.log([0.5, 0.5, 0.5]), row([True] * 3))
    np.testing.assert_array_equal(commit, [True, False, False])
    assert not scored(RULE, np.log([0.5, 0.5]), row([False] * 2))[0].any()


def oracle(tau, low):
    def step(p, token, left, tokens, tick):
        top, runs = p.max(1), []
        for i in left:
            if i - 1 in left:
                runs[-1].append(i)
            else:
                runs.append([i])
        best = [max(run, key=lambda i: (top[i], -i)) for run in runs]
        write = {i for i in best if top[i] > low} | {i for i in left if top[i] > tau}
        return write | {max(left, key=lambda i: top[i])}, [], False

    return step


@pytest.mark.parametrize(("tau", "low"), [(0.92, 0.62), (0.8, 0.0), (0.95, 0.95)])
def test_slow_oracle(tau, low):
    for draws in blocks_of_draws(5, 12):
        rule = select_by_runs(jnp.float32(tau), jnp.float32(low))
        drive(rule, draws).same(slowly(oracle(tau, low), draws))


def test_a_low_bar_as_high_as_the_other_is_the_threshold():
    for draws in blocks_of_draws(3, 12):
        drive(select_by_runs(jnp.float32(0.8), jnp.float32(1.0)), draws).same(drive(select_above(0.8), draws))


@pytest.mark.parametrize("wrong", [{"tau": 1.1}, {"low": -0.1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["hierarchical"](**wrong)
