"""softmax(l / T) for every T >= 0: the best logit is subtracted before the division, so that no quotient overflows."""

from typing import Any

import jax.numpy as jnp

from jaxdlm.argument import COLDEST, HOTTEST
from jaxdlm.typing import Array, Bool, Float32


def cold(temperature: Any) -> Bool[Array, "..."]:
    """Whether T counts as 0."""
    return jnp.asarray(temperature, jnp.float32) < COLDEST


def divisor(temperature: Any) -> Float32[Array, "..."]:
    """T as it divides: inside [COLDEST, HOTTEST], and 1 where it counts as 0."""
    heat = jnp.asarray(temperature, jnp.float32)
    return jnp.where(cold(heat), 1.0, jnp.minimum(heat, HOTTEST))


def below(logits: Float32[Array, "... V"], top: Float32[Array, "..."]) -> Float32[Array, "... V"]:
    """l - top for the best logit of each row; a row of nothing but -inf stays that."""
    return logits - jnp.where(top == -jnp.inf, 0.0, top)[..., None]


def tempered(logits: Float32[Array, "... V"], divisor: Any) -> Float32[Array, "... V"]:
    """(l - max l) / T: softmax of it is softmax(l / T)."""
    return below(logits, jnp.max(logits, axis=-1)) / divisor
