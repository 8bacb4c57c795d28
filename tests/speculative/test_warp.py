"""The distribution that tokens are drawn from: against float64, from temperatures that are as good as 0 to ones that
level all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.speculative import autoregressive, verify
from jaxdlm.speculative.warp import draw, warp

RAW = np.float32([[3, 7, 7, 1, -np.inf], [900, 0, -np.inf, 901, 901], [1e30, 1e38, -1e38, -np.inf, 0]])
PARTS = {"plain": {}, "top_p": {"top_p": 0.95}, "top_k": {"top_k": 4}}


def distribution(temperature, **parts):
    return np.asarray(jax.jit(lambda w, x: w.log_prob(x))(warp(temperature, **parts), RAW))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("temperature", [1e-30, 9e-9, np.float32(1e-30), np.float32(0)], ids=repr)
def test_a_tiny_temperature_is_the_best_token_the_lowest_of_equals(parts, temperature):
    np.testing.assert_array_equal(distribution(temperature, **PARTS[parts]), distribution(0.0))
    np.testing.assert_array_equal(distribution(0.0).argmax(1), [1, 3, 1])


@pytest.mark.parametrize("temperature", [1e-8, 0.5, 1.0, 20.0, 1e30])
def test_the_distribution_is_softmax_of_the_quotient(temperature):
    gap = (RAW.astype(np.float64) - RAW.max(1, keepdims=True)) / np.float32(temperature)
    expected = gap - np.log(np.exp(gap).sum(1, keepdims=True))
    found = distribution(jnp.float32(temperature))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, expected.astype(np.float32), rtol=1e-5, atol=1e-6)
    assert (found[np.isneginf(RAW)] == -np.inf).all()


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("temperature", [1e30, jnp.float32(np.inf)], ids=repr)
def test_no_temperature_draws_a_banned_token(parts, temperature):
    logp = jnp.asarray(distribution(temperature, **PARTS[parts]))
    keys = jax.random.split(jax.random.key(0), 500)
    tokens = np.asarray(jax.jit(jax.vmap(jax.vmap(draw, (0, None)), (None, 0)))(logp, keys))
    for row in (0, 1):
        assert set(tokens[:, row].tolist()) == set(np.flatnonzero(np.isfinite(RAW[row])).tolist())
    assert np.isfinite(RAW[2][tokens[:, 2]]).all()


def test_nan_is_not_hidden():
    assert np.isnan(distribution(jnp.float32(np.nan))).any()


def test_a_temperature_that_counts_as_zero_is_verified_greedily():
    for temperature, expected in ((1e-30, verify.greedy), (0, verify.greedy), (0.1, verify.rejection)):
        assert autoregressive(temperature).acceptance is expected


@pytest.mark.parametrize(
    "wrong", [{"temperature": 1.1e30}, {"temperature": None}, {"top_k": -1}, {"top_p": 2}], ids=str
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be"):
        warp(**wrong)
