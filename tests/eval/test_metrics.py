"""Golden values and invariants of the metrics."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdlm import InputError
from jaxdlm.eval import metrics


@pytest.mark.parametrize(
    "points, y_max, expected",
    [  # computed with the official function
        ([(1, 74.02), (9.11, 73.09)], 74.98, 637.65),
        ([(1, 80), (2, 79), (4, 77), (8, 76)], 80, 571.39),
        ([(1, 80), (2, 74), (4, 79)], 80, 314.14),
    ],
)
def test_aup_is_the_official_one(points, y_max, expected):
    rho, y = zip(*points)
    assert metrics.aup(rho, y, y_max) == pytest.approx(expected, abs=0.005)
    assert metrics.aup(rho[::-1], y[::-1], y_max) == pytest.approx(expected, abs=0.005)


def test_aup_of_one_point_is_its_accuracy():
    assert metrics.aup([1], [63.5], 90) == 63.5
    assert metrics.aup_self([1], [63.5]) == 63.5
    assert metrics.aup([1, 2], [0, 0], 0) == 0
    with pytest.raises(InputError):
        metrics.aup([], [], 80)


def test_aup_of_drawn_problems_lies_around_aup_and_is_it_where_problems_are_alike():
    random = np.random.default_rng(1)
    correct = random.random((3, 200)) < np.array([[0.95], [0.93], [0.91]])
    tokens, forwards = np.full((3, 200), 8), np.repeat([[8], [4], [2]], 200, axis=1)
    draws = metrics.aup_draws(tokens, forwards, correct, 95.0)
    low, high = np.quantile(draws, (0.025, 0.975))
    assert low < metrics.aup([1, 2, 4], 100 * correct.mean(1), 95.0) < high
    alike = metrics.aup_draws(tokens, forwards, np.ones((3, 200)), 100.0)
    np.testing.assert_allclose(alike, metrics.aup([1, 2, 4], [100] * 3, 100.0))
    np.testing.assert_array_equal(draws, metrics.aup_draws(tokens, forwards, correct, 95.0))


def test_aup_self_ends_where_the_curve_falls():
    """The dip that AUP bridges ends the curve; a better method changes AUP only."""
    rho, y = [1, 2, 4], [80, 74, 79]
    assert metrics.aup_self(rho, y) == 80
    assert metrics.aup(rho, y, 80) != metrics.aup(rho, y, 90)
    assert metrics.aup_self([1, 4], [80, 79]) == pytest.approx(metrics.aup([1, 4], [80, 79], 80))


@pytest.mark.parametrize("right, n", [(0, 10), (7, 10), (10, 10), (187, 200)])
def test_wilson_is_that_of_scipy(right, n):
    ours = metrics.wilson(right, n)
    theirs = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-5)


@pytest.mark.parametrize("b, c", [(0, 0), (1, 0), (3, 9), (12, 12), (40, 25)])
def test_mcnemar_is_the_sign_test(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert metrics.mcnemar(b, c) == pytest.approx(expected)


def test_paired_by_hand():
    old = np.array([1] * 90 + [0] * 10, bool)
    new = old.copy()
    new[:3], new[90:91] = False, True
    found = metrics.paired(old, new)
    assert (found.n, found.b, found.c) == (100, 3, 1)
    assert found.delta == pytest.approx(-2 / 102)
    assert found.se == pytest.approx(math.sqrt(5 - 4 / 102) / 102)
    assert not found.noninferior(0.05)
    assert found.noninferior(0.06)
    assert found.p_inferior(0.06) < 0.05 < found.p_inferior(0.05)
    with pytest.raises(InputError):
        metrics.paired(old, new[:5])


def test_equal_policies_need_rows_enough():
    """Even without one discordant row a margin of a point is not shown by 100 rows, and is by 200."""
    for n, shown in ((100, False), (200, True)):
        assert metrics.paired(np.ones(n, bool), np.ones(n, bool)).noninferior(0.01) == shown


def test_the_interval_covers(seeds=2000, n=200, psi=0.06):
    """Simulated: a true difference of 0 at 6 % discordant rows is inside the 95 % interval nearly 95 % of the time."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(seeds):
        kind = rng.choice(3, n, p=[psi / 2, psi / 2, 1 - psi])
        low, high = metrics.paired(kind != 1, kind != 0).interval
        inside += low <= 0 <= high
    assert 0.935 < inside / seeds < 0.975


def test_holm():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_bootstrap_agrees_with_the_paired_interval():
    rng = np.random.default_rng(1)
    old = rng.random(400) < 0.8
    new = old ^ (rng.random(400) < 0.1)
    low, high = metrics.bootstrap(old[None], new[None])
    assert (low, high) == pytest.approx(metrics.paired(old, new).interval, abs=0.01)


def test_tokens_are_counted_to_the_first_end():
    tokens = np.array([[20, 21, 2, 2], [20, 21, 22, 23], [2, 2, 2, 2]])
    assert metrics.tokens_to_end(tokens, (2,)).tolist() == [3, 4, 1]
    padded = np.concatenate([tokens[[0, 2]], np.full((2, 9), 2)], axis=1)
    assert metrics.tokens_to_end(padded, (2,)).tolist() == [3, 1], "more padding counts nothing"


def test_kendall_is_that_of_scipy():
    rng = np.random.default_rng(2)
    steps, counted = rng.integers(0, 4, (30, 9)), rng.integers(2, 10, 30)
    steps[0], counted[0] = 3, 9
    ours = metrics.kendall(steps, counted)
    assert ours[0] is None
    for row, m, tau in zip(steps, counted, ours):
        expected = stats.kendalltau(np.arange(m), row[:m]).statistic
        assert (tau is None and math.isnan(expected)) or tau == pytest.approx(expected)


def test_oracle_takes_the_cheapest_right_setting():
    correct = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
    forwards = np.array([[8, 8, 8, 8], [2, 2, 2, 2]])
    tokens = np.array([[10, 10, 10, 10], [10, 10, 10, 4]])
    found = metrics.oracle(correct, tokens, forwards)
    assert found == (0.75, 34 / 14)


def test_small_sums():
    assert metrics.parallelizability([1, 2], [1.0, 0.5]) == pytest.approx(2 / 1.5)
    assert metrics.parallelizability([1, 2], [0, 0]) is None
    assert metrics.committed(np.array([[0, 0, 1, 2], [0, 1, 1, 1]]), np.array([3, 2])) == [1.5, 1.0]
