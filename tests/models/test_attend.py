"""Attention in parts and in chunks is the attention over everything at once; NumPy in float64 says what that is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.models.layers import attend

B, T, N, K, H, S = 2, 64, 4, 2, 8, 96
RNG = np.random.default_rng(0)
Q, KEYS, VALUES = (RNG.normal(size=(B, t, n, H)).astype(np.float32) for t, n in ((T, N), (S, K), (S, K)))
ALLOW = RNG.random((B, T, S)) < 0.6
ALLOW[1, :, :40] = False  # a row with pads on its left


def oracle():
    out = np.zeros((B, T, N, H))
    for b in range(B):
        for n in range(N):
            scores = Q[b, :, n].astype(np.float64) @ KEYS[b, :, n // (N // K)].T * 0.3
            weights = np.where(ALLOW[b], np.exp(scores - scores.max(1, keepdims=True)), 0)
            out[b, :, n] = weights / weights.sum(1, keepdims=True) @ VALUES[b, :, n // (N // K)]
    return out


@pytest.mark.parametrize("limit", [2**28, 4 * B * N * S * 32], ids=["at once", "two chunks"])
@pytest.mark.parametrize("cut", [(), (70,)], ids=["whole", "parts"])
def test_attention_against_float64(limit, cut):
    parts = [tuple(jnp.asarray(x) for x in np.split(array, cut, axis=1)) for array in (KEYS, VALUES)]
    run = jax.jit(lambda q, k, v, allow: attend(q, k, v, allow, 0.3, limit))
    inputs = (jnp.asarray(Q), *parts, jnp.asarray(ALLOW))
    np.testing.assert_allclose(run(*inputs), oracle(), rtol=2e-5, atol=2e-6)
    program = run.lower(*inputs).compile().as_text()
    # two chunks never hold the scores of all queries
    shapes = (f"f32[{B},{K},{N // K},{T},{S}]", f"f32[{B},{K},{T * N // K},{S}]")
    assert any(shape in program for shape in shapes) == (limit == 2**28)


@pytest.mark.slow
def test_forbidden_keys_are_worth_nothing():
    """Pads may hold anything, NaN excepted: not a bit of the others changes."""
    wild = np.where(np.arange(S)[None, :, None, None] < 40, 1e4, KEYS)
    mixed = [
        attend(jnp.asarray(Q[1:]), (jnp.asarray(keys[1:], jnp.float32),), (jnp.asarray(VALUES[1:]),), ALLOW[1:], 0.3)
        for keys in (KEYS, wild)
    ]
    np.testing.assert_array_equal(*mixed)
