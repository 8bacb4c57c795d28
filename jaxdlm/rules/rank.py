"""Choosing the best columns with static shapes. Ties go to the lowest column, everywhere."""

import jax.numpy as jnp

from jaxdlm.typing import Array, Bool, Float32, Int32


def ranks(score: Float32[Array, "W"], eligible: Bool[Array, "W"]) -> Int32[Array, "W"]:
    """0 for the best eligible column, 1 for the next; ineligible columns come last."""
    order = jnp.lexsort((-score, ~eligible))
    return jnp.zeros(score.shape, jnp.int32).at[order].set(jnp.arange(score.shape[0], dtype=jnp.int32))


def best_columns(score: Float32[Array, "W"], eligible: Bool[Array, "W"], k: Int32[Array, ""] | int) -> Bool[Array, "W"]:
    """The k best eligible columns; fewer when fewer are eligible."""
    return eligible & (ranks(score, eligible) < k)
