"""softmax(l / T) for every T >= 0: the best logit is subtracted before the division, so that no quotient overflows."""

from typing import Any

import jax.numpy as jnp

from jaxdlm.argument import COLDEST, HOTTEST
from jaxdlm.typing import Array, Bool, Float32


def is_cold(temperature: Any) -> Bool[Array, "..."]:
    """Whether T counts as 0."""
    return jnp.asarray(temperature, jnp.float32) < COLDEST


def divisor_of(temperature: Any) -> Float32[Array, "..."]:
    """The divisor for T: T inside [COLDEST, HOTTEST], and 1 where it counts as 0."""
    value = jnp.asarray(temperature, jnp.float32)
    return jnp.where(is_cold(value), 1.0, jnp.minimum(value, HOTTEST))


def below(logits: Float32[Array, "... V"], top: Float32[Array, "..."]) -> Float32[Array, "... V"]:
    """l - top for the best logit of each row; a row of nothing but -inf stays that."""
    return logits - jnp.where(top == -jnp.inf, 0.0, top)[..., None]


def scale_logits(logits: Float32[Array, "... V"], divisor: Any) -> Float32[Array, "... V"]:
    """(l - max l) / T: softmax of it is softmax(l / T)."""
    return below(logits, jnp.max(logits, axis=-1)) / divisor
