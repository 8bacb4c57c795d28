"""Layer-parallel attention (EasySpec, arXiv 2502.02493): a rough form of a stack whose latency is that of fewer layers.

Within a group of layers every attention reads the hidden state at the group's entrance, so all of them are one batched
computation; residual sums and feed-forwards keep their order. The first and the last layer stand alone, and a group of
one is the exact layer. Keys and values are those that the rough attention read.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.models.block import Stored, feed, mix
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.rope import Rotation
from jaxdlm.models.segments import LayerShape
from jaxdlm.typing import Array, Bool

See = Callable[[Array], tuple[Rotation, Array]]


def grouped(
    config: ModelConfig,
    shape: LayerShape,
    leaves: dict[str, Any],
    local: Bool[Array, "R"],
    x: Array,
    see: See,
    past: Stored | None,
    group: int,
) -> tuple[Array, Stored]:
    """R stacked layers: one alone, then groups, a shorter one for the rest, then one alone; `see` gives rotation and
    mask of a layer."""
    layers = (leaves, local, past)
    total = local.shape[0]
    inner = max(total - 2, 0)
    whole = inner // group
    cuts = sorted({0, min(1, total), 1 + whole * group, total - 1, total} & set(range(total + 1)))
    caches = []
    for first, stop in zip(cuts[:-1], cuts[1:], strict=True):
        size = group if (first, stop) == (1, 1 + whole * group) else stop - first
        part = jax.tree.map(lambda leaf: leaf[first:stop].reshape(-1, size, *leaf.shape[1:]), layers)
        x, kv = jax.lax.scan(lambda x, one: at_once(config, shape, one, x, see), x, part)
        caches.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kv))
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *caches)


def at_once(config: ModelConfig, shape: LayerShape, layers: Any, x: Array, see: See) -> tuple[Array, Stored]:
    """One group: all attentions of x, then the rest layer by layer."""

    def attend(layers: Any) -> tuple[Array, Stored]:
        leaves, local, past = layers
        turn, allow = see(local)
        return mix(config, leaves, x, turn, allow, past)

    def follow(x: Array, one: tuple[dict[str, Any], Array]) -> tuple[Array, None]:
        leaves, mixed = one
        return feed(config, shape, leaves, x + mixed), None

    mixed, kv = jax.vmap(attend)(layers)
    x, _ = jax.lax.scan(follow, x, (layers[0], mixed))
    return x, kv
