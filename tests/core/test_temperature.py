"""softmax(l / T) over the whole range of T, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.temperature import divisor_of, is_cold, scale_logits

RAW = np.float32([[1.0, 0.0, -np.inf, 1.5, 1.5], [-3e38, 3e38, 0, -np.inf, 1], [-np.inf] * 5])


@pytest.mark.parametrize("temperature", [1e-8, 0.3, 1.0, 7.0, 1e30])
def test_tempered_logits_are_those_below_the_best(temperature):
    got = jax.jit(lambda x, t: scale_logits(x, divisor_of(t)))(RAW[:1], jnp.float32(temperature))
    expected = (RAW[:1].astype(np.float64) - 1.5) / np.float32(temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-8, 1.0, 1e30, 3e38, np.inf])
def test_nothing_overflows_and_what_is_banned_stays_so(temperature):
    got = np.asarray(jax.jit(lambda x, t: scale_logits(x, divisor_of(t)))(RAW, jnp.float32(temperature)))
    assert not np.isnan(got).any()
    assert (got[np.isneginf(RAW)] == -np.inf).all()
    np.testing.assert_array_equal(got[:2].max(1), [0, 0])


def test_what_counts_as_zero():
    temperature = jnp.float32([-1, 0, 1e-45, 1e-30, 9.9e-9, 1e-8, 1, np.nan])
    np.testing.assert_array_equal(is_cold(temperature), [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(divisor_of(temperature)[:7], np.float32([1, 1, 1, 1, 1, 1e-8, 1]))
    assert np.isnan(divisor_of(temperature)[7]), "a row with such a temperature is not finite"
