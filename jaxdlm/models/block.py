"""One decoder layer as two halves: attention, and what follows it."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.core.model import Layer, gather
from jaxdlm.models.attention import Attend
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import after, attention, combine, mlp, project, rms_norm
from jaxdlm.models.moe import Blocks, mixture
from jaxdlm.models.rope import Rotation
from jaxdlm.models.segments import LayerShape
from jaxdlm.typing import Array

Stored = tuple[Array, Array]  # keys and values, [B, S, K, H] each


def layer(one: Layer, x: Array, side: Any, past: Stored | None) -> tuple[Array, Any, Stored]:
    """x + attention, then x + feed-forward; what is remembered are this call's keys and values."""
    q, k, v = one.project(x, None)
    keys, values = (k, v) if past is None else (after(past[0], k), after(past[1], v))
    x = x + one.mix(q, keys, values, one.allow)
    return x + one.feed(x), side, (k, v)


def layer_in_place(place: Array, one: Layer, x: Array, side: Any, past: Stored) -> tuple[Array, Any, Stored]:
    """`layer` with this call's keys and values in the columns `place` [B, T] of the stored ones; beyond them, nowhere."""
    q, k, v = one.project(x, None)
    row = jnp.arange(x.shape[0])[:, None]
    keys, values = (
        old.astype(new.dtype).at[row, place].set(new, mode="drop") for old, new in zip(past, (k, v), strict=True)
    )
    columns = keys.shape[1]
    into = jax.vmap(lambda seen, own, at: seen.at[:, at].set(own, mode="drop"))
    x = x + one.mix(q, keys, values, into(one.allow[:, :, :columns], one.allow[:, :, columns:], place))
    return x + one.feed(x), side, (k, v)


def layer_at(at: Array, one: Layer, x: Array, side: Any, past: None) -> tuple[Array, Any, None]:
    """`layer` at the columns `at` [B, W] of x alone; they attend to all. Nothing is remembered."""
    k, v = one.project(x, None)[1:]
    x = gather(x, at)
    x = x + one.mix(one.project(x, at)[0], k, v, gather(one.allow, at))
    return x + one.feed(x), side, None


def parts(
    config: ModelConfig, shape: LayerShape, leaves: dict[str, Any], number: Array, turn: Rotation, allow: Array,
    chosen: Attend, blocks: Blocks | None = None,
) -> Layer:  # fmt: skip
    """A layer's functions: each works on a normalised copy (and what it adds is normalised again where sandwiched).

    chosen: the implementation of attention (`attention.choose`); blocks: of tokens that are routed together.
    """

    def heads(x: Array, at: Array | None) -> tuple[Array, Array, Array]:
        there = turn if at is None else jax.tree.map(lambda t: jnp.take_along_axis(t, at[:, :, None, None], 1), turn)
        return project(leaves, rms_norm(x, leaves["attn_norm"], config), there, config)

    def attend(q: Array, keys: Array, values: Array, allow: Array) -> Array:
        mixed = combine(leaves, q, keys, values, allow, config, chosen)
        return rms_norm(mixed, leaves["post_attn_norm"], config) if config.sandwich_norm else mixed

    return Layer(number, allow, heads, attend, lambda x: fed(config, shape, leaves, x, blocks))


def mix(
    config: ModelConfig, leaves: dict[str, Any], x: Array, turn: Rotation, allow: Array, past: Stored | None
) -> tuple[Array, Stored]:
    """(the attention's addend to x, keys and values of its tokens)."""
    mixed, kv = attention(leaves, rms_norm(x, leaves["attn_norm"], config), turn, allow, past, config)
    return rms_norm(mixed, leaves["post_attn_norm"], config) if config.sandwich_norm else mixed, kv


def feed(config: ModelConfig, shape: LayerShape, leaves: dict[str, Any], x: Array) -> Array:
    """x + feed-forward."""
    return x + fed(config, shape, leaves, x)


def fed(
    config: ModelConfig, shape: LayerShape, leaves: dict[str, Any], x: Array, blocks: Blocks | None = None
) -> Array:  # fmt: skip
    """The feed-forward's addend to x."""
    h = rms_norm(x, leaves["mlp_norm"], config)
    if shape.ffn == "dense":
        y = mlp(leaves, h, config)
    elif shape.ffn == "moe":
        y = mixture(leaves, h, h, config, blocks)
    else:
        dense = rms_norm(mlp(leaves, h, config), leaves["dense_out_norm"], config)
        sparse = mixture(leaves, rms_norm(x, leaves["moe_in_norm"], config), x, config)
        y = dense + rms_norm(sparse, leaves["moe_out_norm"], config)
    return rms_norm(y, leaves["post_mlp_norm"], config) if config.sandwich_norm else y
