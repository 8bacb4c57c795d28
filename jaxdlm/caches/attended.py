"""Forwards that tell what the columns of a window attend to."""

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.caches import stored
from jaxdlm.core.attended import Attended
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows
from jaxdlm.core.model import Layer, LayerHook, gather
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree


def attended(
    context: Context, rows: Rows, start: Int32[Array, "B"], layers: int
) -> tuple[Float[Array, "B W D"], Attended]:
    """(hidden rows of the window, what its columns attend to in the last `layers` layers), by one forward over all columns.

    The weights are made a second time beside the model's own attention, one key/value head after the other, so that no
    more than [B, G, L, L] of them are held, whichever implementation of attention the model runs.
    """
    model, (position, exists) = stored.layered(context), context.columns(rows)
    config, length = model.config, rows.tokens.shape[1]
    at = start[:, None] + jnp.arange(context.width, dtype=jnp.int32)[None]
    layers = min(layers, config.num_layers)

    def run(one: Layer, x: Array, side: PyTree, memory: PyTree) -> tuple[Array, PyTree, PyTree]:
        q, k, v = one.project(x, None)
        x = x + one.mix(q, k, v, one.allow)

        def add(side: PyTree) -> PyTree:
            scale = q.shape[-1] ** -0.5 if config.attn_scale is None else config.attn_scale
            weight = mean_weight(q, k, one.allow, scale)
            among = jnp.einsum("btl,bt->bl", weight, exists.astype(jnp.float32))
            return side[0] + gather(weight, at), side[1] + among

        side = jax.lax.cond(one.number >= config.num_layers - layers, add, lambda side: side, side)
        return x + one.feed(x), side, memory

    batch = rows.tokens.shape[0]
    blank = jnp.zeros((batch, context.width, length)), jnp.zeros((batch, length))
    keys = jax.eval_shape(model.apply, context.params, rows.tokens, position, exists).kv.k
    nothing = tuple((None,) * len(segment) for segment in keys)
    out = model.apply_with_hook(context.params, rows.tokens, position, exists, None, LayerHook(run, blank, nothing))
    weight, among = (x / layers for x in out.side)
    number = jnp.maximum(jnp.sum(exists, axis=1, dtype=jnp.float32), 1)[:, None]
    every = jnp.maximum(jnp.arange(length, dtype=jnp.int32) - context.shift, 0)
    hidden = jnp.take(out.hidden, every, axis=1)
    return context.select(out.hidden, 0, start), Attended(hidden, weight, among / number)


def mean_weight(
    q: Float[Array, "B T N H"], k: Float[Array, "B T K H"], allow: Bool[Array, "B T T"], scale: float
) -> Float32[Array, "B T T"]:
    """softmax(q·kᵀ · scale + mask), averaged over the query heads; float32 from the products on."""
    heads = k.shape[2]
    grouped = rearrange(q, "B T (K G) H -> K B G T H", K=heads)

    def one(pair: tuple[Array, Array]) -> Array:
        query, key = pair
        scores = jnp.einsum("bgth,bsh->bgts", query, key, preferred_element_type=jnp.float32) * scale
        scores = jnp.where(allow[:, None], scores, jnp.finfo(jnp.float32).min)
        return jnp.mean(jax.nn.softmax(scores, axis=-1), axis=1)

    each = jax.lax.map(one, (grouped, rearrange(k, "B S K H -> K B S H")))
    return jnp.mean(each, axis=0)
