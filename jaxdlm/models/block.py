"""One decoder layer as two halves: attention, and what follows it."""

from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import attention, mlp, rms_norm
from jaxdlm.models.moe import experts
from jaxdlm.models.rope import Rotation
from jaxdlm.models.segments import LayerShape
from jaxdlm.typing import Array

Stored = tuple[Array, Array]  # keys and values, [B, S, K, H] each


def layer(
    config: ModelConfig,
    shape: LayerShape,
    leaves: dict[str, Any],
    x: Array,
    turn: Rotation,
    allow: Array,
    past: Stored | None,
) -> tuple[Array, Stored]:
    """x + attention, then x + feed-forward, each on a normalised copy (and normalised again where sandwiched)."""
    mixed, kv = mix(config, leaves, x, turn, allow, past)
    return feed(config, shape, leaves, x + mixed), kv


def mix(
    config: ModelConfig, leaves: dict[str, Any], x: Array, turn: Rotation, allow: Array, past: Stored | None
) -> tuple[Array, Stored]:
    """What attention adds to x, and the keys and values of its tokens."""
    mixed, kv = attention(leaves, rms_norm(x, leaves["attn_norm"], config), turn, allow, past, config)
    return rms_norm(mixed, leaves["post_attn_norm"], config) if config.sandwich_norm else mixed, kv


def feed(config: ModelConfig, shape: LayerShape, leaves: dict[str, Any], x: Array) -> Array:
    """x + feed-forward."""
    h = rms_norm(x, leaves["mlp_norm"], config)
    if shape.ffn == "dense":
        y = mlp(leaves, h, config)
    elif shape.ffn == "moe":
        y = experts(leaves, h, h, config)
    else:
        dense = rms_norm(mlp(leaves, h, config), leaves["dense_out_norm"], config)
        sparse = experts(leaves, rms_norm(x, leaves["moe_in_norm"], config), x, config)
        y = dense + rms_norm(sparse, leaves["moe_out_norm"], config)
    if config.sandwich_norm:
        y = rms_norm(y, leaves["post_mlp_norm"], config)
    return x + y
