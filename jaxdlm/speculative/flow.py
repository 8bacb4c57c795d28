"""The flow that turns noise into a token: for given probabilities a function of the noise alone, whose law is exactly theirs.

Token j has a code c_j in R^C. On the straight lines x_t = (1 - t) c + t e between codes c ~ p and noise e ~ N(0, I), the velocity
at x is (x - m) / t, where m = E[c | x_t = x]. Carried from t = 1 to t = 0, noise becomes the code of a token drawn from p.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.speculative.warp import stage_key
from jaxdlm.typing import Array, Float32, Int32, Key

STEPS = 25  # of Heun's method: two evaluations each, but for the last
NOISE = 2  # a stage of its own beside `warp.DRAFT` and `warp.ACCEPT`


def codes_of(table: Float32[Array, "V D"], size: int, seed: int = 0) -> Float32[Array, "V C"]:
    """A code of norm 1 for each token: its embedding under `basis_of`. Raises InputError where two tokens share theirs."""
    codes = np.asarray(table, np.float64) @ np.asarray(basis_of(table.shape[1], size, seed), np.float64).T
    codes = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    if len(np.unique(codes.astype(np.float32), axis=0)) < len(codes):
        raise InputError("two tokens of the model have embeddings of one direction, so that no noise tells them apart")
    return jnp.asarray(codes, jnp.float32)


def basis_of(width: int, size: int, seed: int = 0) -> Float32[Array, "C D"]:
    """`size` random directions of R^width, orthonormal where they can be."""
    drawn = np.random.default_rng(seed).normal(size=(max(width, size), size))
    return jnp.asarray(np.linalg.qr(drawn)[0][:width].T, jnp.float32)


def noise_of(key: Key[Array, "B"], first: Int32[Array, "B"], count: int, size: int) -> Float32[Array, "B T C"]:
    """The noise of `count` positions of each row from `first` on, each by the row's key and its position alone."""

    def one(key: Key[Array, ""], position: Int32[Array, ""]) -> Array:
        return jax.random.normal(stage_key(key, position, NOISE), (size,), jnp.float32)

    position = first[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]
    return jax.vmap(jax.vmap(one, (None, 0)))(key, position)


def expected(
    x: Float32[Array, "B C"], t: Float32[Array, ""], logp: Float32[Array, "B V"], codes: Float32[Array, "V C"]
) -> Float32[Array, "B C"]:
    """m = E[c | x_t = x] = sum_j w_j c_j, w = softmax_j(log p_j - |x - (1 - t) c_j|^2 / 2 t^2); w = p at t = 1."""
    near = (1 - t) / t**2 * (x @ codes.T) - (1 - t) ** 2 / (2 * t**2) * jnp.sum(codes**2, axis=1)[None, :]
    return jax.nn.softmax(logp + near, axis=1) @ codes


def carried(
    noise: Float32[Array, "B C"], logp: Float32[Array, "B V"], codes: Float32[Array, "V C"], steps: int = STEPS,
    second_order: bool = True,
) -> Float32[Array, "B C"]:  # fmt: skip
    """Where the flow carries the noise, by `steps` equal steps of Heun's method, or of Euler's; the last is Euler's, which
    ends at m."""
    size = jnp.float32(1 / steps)

    def one(x: Array, number: Array) -> tuple[Array, None]:
        t = 1 - number.astype(jnp.float32) * size
        slope = (x - expected(x, t, logp, codes)) / t
        ahead = x - size * slope
        if second_order:
            ahead = x - size * (slope + (ahead - expected(ahead, t - size, logp, codes)) / (t - size)) / 2
        return ahead, None

    x, _ = jax.lax.scan(one, noise, jnp.arange(steps - 1, dtype=jnp.int32))
    return expected(x, size, logp, codes)


def token_of(x: Float32[Array, "B C"], logp: Float32[Array, "B V"], codes: Float32[Array, "V C"]) -> Int32[Array, "B"]:
    """The nearest code's token among those that have any probability; of equals the lowest id."""
    near = x @ codes.T - jnp.sum(codes**2, axis=1)[None, :] / 2
    return jnp.argmax(jnp.where(logp > -jnp.inf, near, -jnp.inf), axis=1).astype(jnp.int32)
