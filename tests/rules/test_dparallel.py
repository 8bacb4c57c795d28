"""The entropy threshold: known entropies and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.rules import neg_entropy, sample, select_below_entropy
from jaxdlm.rules.dparallel import shifted_neg_entropy
from tests.rules.hand import apply, row, scored

OPEN = [True] * 4


def commit(threshold, raw, can=OPEN, **options):
    rule = chain(sample(measure=neg_entropy), select_below_entropy(threshold, **options))
    return np.asarray(apply(rule, jnp.asarray(raw, jnp.float32), row(can)).commit)


def two_way(p):
    return [np.log(p), np.log(1 - p), -1e9]


def test_a_two_way_split_passes_half_a_nat_from_four_fifths_on():
    raw = [two_way(0.80), two_way(0.81), two_way(0.5), two_way(0.99)]
    np.testing.assert_array_equal(commit(0.5, raw), [False, True, False, True])


def test_slow_oracle_and_monotone_growth():
    raw = np.random.default_rng(1).normal(size=(12, 6)) * 3
    p = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1)
    can = np.random.default_rng(2).random(12) < 0.7
    before = np.zeros(12, bool)
    for threshold in (0.0, 0.2, 0.7, 1.2, np.log(6) + 1e-3):
        expected = can & (entropy <= threshold)
        expected[np.argmin(np.where(can, entropy, np.inf))] = True
        got = commit(threshold, raw, can)
        np.testing.assert_array_equal(got, expected)
        assert (before <= got).all()
        before = got
    np.testing.assert_array_equal(before, can)
    np.testing.assert_array_equal(commit(0.7, raw + 5.0, can), commit(0.7, raw, can))


def test_equality_counts_unless_strict():
    score = [-0.5, -0.25, -0.75]
    np.testing.assert_array_equal(scored(select_below_entropy(0.5), score, row(OPEN[:3]))[0], [True, True, False])
    strict = scored(select_below_entropy(0.5, strict=True), score, row(OPEN[:3]))[0]
    np.testing.assert_array_equal(strict, [False, True, False])


@pytest.mark.slow
def test_the_shifted_measure_differs_in_the_last_digits_only():
    raw, view = jnp.asarray(np.random.default_rng(3).normal(size=(4, 9)), jnp.float32), row(OPEN)
    token, key = jnp.zeros(4, jnp.int32), jax.random.key(0)
    np.testing.assert_allclose(
        shifted_neg_entropy(raw, token, view, key), neg_entropy(raw, token, view, key), atol=1e-6
    )


def test_bad_argument():
    with pytest.raises(InputError, match="threshold"):
        select_below_entropy(float("nan"))
