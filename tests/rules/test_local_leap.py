"""LocalLeap: the hand case, its limits, and a slow oracle."""

import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.rules import select_above, select_near_anchors
from tests.rules.hand import row, scored

HAND = np.array([0.8, 0.5, 0.76, 0.95, 0.74, 0.75, 0.8, 0.1, 0.76, 0.2])


def slow(p, can, kappa, tau, radius):
    anchors = [i for i in range(len(p)) if can[i] and p[i] >= kappa]
    commit = np.zeros(len(p), bool)
    for i in np.flatnonzero(can):
        close = any(abs(i - j) <= radius for j in anchors)
        commit[i] = p[i] >= (tau if close else kappa)
    if can.any():
        commit[np.argmax(np.where(can, p, -1))] = True
    return commit


def draws():
    generator = np.random.default_rng(0)
    for _ in range(20):
        yield np.round(generator.uniform(0.3, 1, 12), 3), generator.random(12) < 0.7


def test_the_hand_case():
    # exp(log x) may fall short of x by one bit: compare against the probability that the rule sees
    tau = float(np.exp(np.float32(np.log(0.75)))) - 1e-7
    commit, _ = scored(select_near_anchors(0.9, tau, 2), np.log(HAND), row([True] * 10))
    np.testing.assert_array_equal(np.flatnonzero(commit), [2, 3, 5])


@pytest.mark.parametrize(("kappa", "tau", "radius"), [(0.9, 0.75, 4), (0.8003, 0.4003, 2), (0.7, 0.55, 0)])
def test_slow_oracle(kappa, tau, radius):
    for p, can in draws():
        commit, _ = scored(select_near_anchors(kappa + 1e-5, tau + 1e-5, radius), np.log(p), row(can))
        np.testing.assert_array_equal(commit, slow(p, can, kappa + 1e-5, tau + 1e-5, radius))


def test_limits_and_sandwich():
    for p, can in draws():
        view, score = row(can), np.log(p)
        of = lambda rule: scored(rule, score, view)[0]  # noqa: E731
        np.testing.assert_array_equal(of(select_near_anchors(0.9, 0.5, 0)), of(select_above(0.9)))
        np.testing.assert_array_equal(of(select_near_anchors(0.6, 0.8, 3)), of(select_above(0.8)))
        wide = select_above(0.5) if (can & (p >= 0.9)).any() else select_above(0.9)
        np.testing.assert_array_equal(of(select_near_anchors(0.9, 0.5, 11)), of(wide))
        np.testing.assert_array_equal(of(select_near_anchors(1.0, 0.5, 4)), of(select_above(1.0)))
        between = of(select_near_anchors(0.9, 0.5, 2))
        assert (of(select_above(0.9)) <= between).all() and (between <= of(select_above(0.5))).all()


def test_a_written_column_is_no_anchor():
    commit, _ = scored(select_near_anchors(0.9, 0.5, 1), np.log([0.99, 0.6, 0.7]), row([False, True, True]))
    np.testing.assert_array_equal(commit, [False, False, True])


@pytest.mark.parametrize("wrong", [{"kappa": -0.1}, {"kappa": 1.1}, {"tau": -1}, {"radius": -1}, {"radius": 1.5}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        select_near_anchors(**wrong)
