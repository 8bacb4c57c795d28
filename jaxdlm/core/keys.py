"""Randomness that depends on the row's own id, step and columns, never on its place in a batch (counter-based)."""

import jax
import jax.numpy as jnp

from jaxdlm.typing import Array, Float32, Int32, Key


def row_keys(seed: Int32[Array, "B"], ids: Int32[Array, "B"]) -> Key[Array, "B"]:
    """key_b = fold_in(key(seed_b), id_b)."""
    return jax.vmap(lambda s, i: jax.random.fold_in(jax.random.key(s), i))(seed, ids)


def column_gumbel(key: Key[Array, ""], position: Int32[Array, "W"], vocab: int) -> Float32[Array, "W V"]:
    """Standard Gumbel noise, one draw of V per column keyed by its true position.

    Independent of window, bucket and cache. The high-precision mode avoids the truncated tail of the default, which
    biases low-temperature sampling (arXiv 2409.02908).
    """
    draw = lambda p: jax.random.gumbel(jax.random.fold_in(key, p), (vocab,), jnp.float32, mode="high")  # noqa: E731
    return jax.vmap(draw)(position)


def column_uniform(key: Key[Array, ""], position: Int32[Array, "W"]) -> Float32[Array, "W"]:
    """Uniform [0, 1) noise, one number per column keyed by its true position."""
    return jax.vmap(lambda p: jax.random.uniform(jax.random.fold_in(key, p), (), jnp.float32))(position)
