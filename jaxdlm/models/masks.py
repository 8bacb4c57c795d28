"""Who may attend to whom, from positions; from the order of a call's columns only where the model says so."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxdlm.core.model import Past
from jaxdlm.models.config import ModelConfig
from jaxdlm.typing import Array, Bool, Int32


class Allow(NamedTuple):
    """[B, T, S + T] for layers of either kind; `local_` is `global_` where the model has no sliding window."""

    global_: Array
    local_: Array


def attention_masks(
    config: ModelConfig,
    position: Int32[Array, "B T"],
    valid: Bool[Array, "B T"],
    past: Past | None,
    mask: Bool[Array, "B T S_T"] | None,
) -> Allow:
    """valid key and f(query, key): full: true; causal and prefix: k ≤ q; block_causal: k // b ≤ q // b.

    Causal by order "storage": columns of the call by their index in it, whatever their positions, and of the past those
    before the call's first position. For columns in order this is k ≤ q.

    Local layers further need q - k < window. `mask` is ANDed onto both.
    """
    key_position, key_valid = _keys(position, valid, past)
    q, k = position[:, :, None], key_position[:, None, :]
    allow = jnp.broadcast_to(key_valid[:, None, :], (*position.shape, key_position.shape[1]))
    if config.attention == "block_causal":
        allow &= k // config.block_size <= q // config.block_size
    elif config.order == "storage":
        allow &= _stored_before(position, valid, past)
    elif config.attention != "full":
        allow &= k <= q
    if mask is not None:
        allow &= mask
    if "local" not in config.layer_kinds:
        return Allow(allow, allow)
    return Allow(allow, allow & (q - k < config.sliding_window))


def canvas_masks(
    config: ModelConfig,
    position: Int32[Array, "B T"],
    valid: Bool[Array, "B T"],
    past: Past | None,
    mask: Bool[Array, "B T S_T"] | None,
) -> Allow:
    """All columns of the canvas see each other and the prefix; local layers only the prefix's last `window` columns."""
    key_position, key_valid = _keys(position, valid, past)
    allow = jnp.broadcast_to(key_valid[:, None, :], (*position.shape, key_position.shape[1]))
    if mask is not None:
        allow &= mask
    window = config.canvas_window or config.sliding_window
    start = jnp.min(position, axis=1, keepdims=True)
    return Allow(allow, allow & (key_position >= start - window)[:, None, :])


def _stored_before(position: Array, valid: Array, past: Past | None) -> Bool[Array, "B T S_T"]:
    batch, columns = position.shape
    own = jnp.broadcast_to(jnp.tri(columns, dtype=bool), (batch, columns, columns))
    if past is None:
        return own
    first = jnp.min(jnp.where(valid, position, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
    before = (past.position < first)[:, None, :]
    return jnp.concatenate([jnp.broadcast_to(before, (batch, columns, before.shape[2])), own], axis=2)


def _keys(position: Array, valid: Array, past: Past | None) -> tuple[Array, Array]:
    if past is None:
        return position, valid
    return jnp.concatenate([past.position, position], axis=1), jnp.concatenate([past.valid, valid], axis=1)
