"""Ranks with static shapes against sorting in Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.rules import best_columns, ranks


def test_best_column_has_rank_zero_and_ineligible_come_last():
    score, eligible = jnp.float32([0.1, 0.9, 0.5, 2.0]), jnp.array([True, True, True, False])
    np.testing.assert_array_equal(ranks(score, eligible), [2, 0, 1, 3])


def test_ties_go_to_the_lowest_column():
    np.testing.assert_array_equal(ranks(jnp.zeros(5), jnp.array([0, 1, 1, 0, 1], bool)), [3, 0, 1, 4, 2])
    np.testing.assert_array_equal(best_columns(jnp.zeros(4), jnp.ones(4, bool), 2), [1, 1, 0, 0])


@pytest.mark.parametrize("k", [0, 1, 3, 9])
def test_best_takes_no_more_than_there_are(k):
    eligible = jnp.array([True, False, True, False])
    chosen = best_columns(jnp.float32([0.0, 9.0, 1.0, 9.0]), eligible, k)
    assert int(chosen.sum()) == min(k, 2)
    assert not (chosen & ~eligible).any()


def test_none_eligible_and_minus_infinity():
    assert not best_columns(jnp.zeros(3), jnp.zeros(3, bool), 2).any()
    np.testing.assert_array_equal(
        best_columns(jnp.float32([-np.inf, -np.inf]), jnp.array([False, True]), 1), [False, True]
    )


def test_random_scores_with_ties_against_sorted():
    rng = np.random.default_rng(0)
    for _ in range(30):
        score, eligible = rng.integers(0, 4, 9).astype(np.float32), rng.random(9) < 0.6
        order = sorted(range(9), key=lambda i: (not eligible[i], -score[i], i))
        expected = np.empty(9, int)
        expected[order] = range(9)
        np.testing.assert_array_equal(ranks(jnp.asarray(score), jnp.asarray(eligible)), expected)
