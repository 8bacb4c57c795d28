"""The flow from noise to tokens: against its definition in float64, against closed forms, and by the law of what it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxdlm import InputError
from jaxdlm.speculative import flow


def toy(vocab=64, size=8, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(vocab, size))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    return rng.dirichlet(np.full(vocab, 0.5)), codes


def moved(noise, p, codes, steps):
    """Euler steps of dx/dt = (x - E[c | x]) / t, weights by the densities themselves."""
    x = np.array(noise, np.float64)
    for number in range(steps):
        t = 1 - number / steps
        far = ((x[:, None, :] - (1 - t) * codes[None]) ** 2).sum(2) / (2 * t**2)
        w = p[None] * np.exp(-(far - far.min(1, keepdims=True)))
        mean = w @ codes / w.sum(1, keepdims=True)
        x = x - (x - mean) / t / steps
    return x


def test_it_is_its_definition():
    p, codes = toy(16)
    noise = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    logp = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (64, 16))
    mine = flow.carried(jnp.asarray(noise), logp, jnp.asarray(codes, jnp.float32), 20, second_order=False)
    np.testing.assert_allclose(mine, moved(noise, p, codes, 20), atol=2e-4)
    whole = moved(noise, p, codes, 500)
    near = lambda x: ((np.asarray(x)[:, None] - codes[None]) ** 2).sum(2).argmin(1)  # noqa: E731
    heun = flow.carried(jnp.asarray(noise), logp, jnp.asarray(codes, jnp.float32))
    assert (near(heun) == near(whole)).mean() >= 0.98
    assert (near(heun) == np.asarray(flow.token_of(heun, logp, jnp.asarray(codes, jnp.float32)))).all()


def test_the_law_of_the_tokens_is_that_of_the_teacher():
    """Total variation 0.02, of which some 0.01 is chance: 20,000 draws of 16 tokens."""
    p, codes = toy(16)
    p[5:9] = 0
    p /= p.sum()
    noise = jax.random.normal(jax.random.key(0), (20_000, 8), jnp.float32)
    logp = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (20_000, 16))
    codes = jnp.asarray(codes, jnp.float32)
    token = np.asarray(flow.token_of(flow.carried(noise, logp, codes), logp, codes))
    counts = np.bincount(token, minlength=16)
    assert np.abs(counts / 20_000 - p).sum() / 2 < 0.02
    assert not counts[5:9].any(), "what has no probability is never drawn"
    few = np.asarray(flow.token_of(flow.carried(noise, logp, codes, 2, False), logp, codes))
    assert np.abs(np.bincount(few, minlength=16) / 20_000 - p).sum() / 2 > 0.1, "two steps are too few"


def test_on_a_line_it_is_the_quantile():
    """In one dimension the flow keeps the order: token j stands between the normal's quantiles of its cumulated p."""
    codes, p = np.array([-1.0, 0.3, 1.1]), np.array([0.2, 0.5, 0.3])
    noise = np.random.default_rng(2).normal(size=2000).astype(np.float32)
    bars = norm.ppf(np.cumsum(p)[:-1])
    clear = np.abs(noise[:, None] - bars[None]).min(1) > 0.03
    logp = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (2000, 3))
    code = jnp.asarray(codes[:, None], jnp.float32)
    token = np.asarray(flow.token_of(flow.carried(jnp.asarray(noise[:, None]), logp, code, 100), logp, code))
    np.testing.assert_array_equal(token[clear], np.searchsorted(bars, noise[clear]))


def test_its_ends():
    p, codes = (jnp.asarray(x, jnp.float32) for x in toy(8, 4))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, 4)), jnp.float32)
    logp = jnp.broadcast_to(jnp.log(p), (5, 8))
    mean = jnp.broadcast_to(p @ codes, (5, 4))
    np.testing.assert_allclose(flow.expected(x, jnp.float32(1), logp, codes), mean, atol=1e-6)
    end = np.asarray(flow.carried(x, logp, codes, 100))
    assert (np.abs(end[:, None] - np.asarray(codes)[None]).max(2).min(1) < 1e-5).all()
    alone = jnp.zeros((5, 1), jnp.float32)  # with one code all lines lead to it
    np.testing.assert_allclose(flow.carried(x, alone, codes[:1], 3), np.repeat(codes[:1], 5, 0), atol=1e-5)
    sure = jnp.where(jnp.arange(8) == 3, 0.0, -jnp.inf)[None].repeat(5, 0)
    assert (np.asarray(flow.token_of(flow.carried(x, sure, codes), sure, codes)) == 3).all()


def test_noise_belongs_to_row_and_position():
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    whole = np.asarray(flow.noise_of(keys, jnp.array([5, 9, 0]), 4, 3))
    np.testing.assert_array_equal(np.asarray(flow.noise_of(keys[1:2], jnp.array([11]), 2, 3))[0], whole[1, 2:])
    assert len(np.unique(whole)) == whole.size


def test_codes_tell_all_tokens_apart():
    table = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    codes = np.asarray(flow.codes_of(jnp.asarray(table), 4))
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-6)
    directions = np.asarray(flow.basis_of(6, 4), np.float64)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-6)
    with pytest.raises(InputError, match="two tokens of the model have embeddings of one direction"):
        flow.codes_of(jnp.asarray(table[[0, 1, 0]]), 4)
