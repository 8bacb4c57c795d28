"""Keys and values of all columns, and the forward of some columns that reads them."""

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows
from jaxdlm.core.model import KV, ModelOutput, Past
from jaxdlm.typing import Array, Bool, Int32


def empty(context: Context, rows: Rows) -> KV:
    """Zeros of the shape that a forward over all L columns returns; leaves [R, B, L, K, H]."""
    position, exists = context.columns(rows)
    out = jax.eval_shape(context.model.apply, context.params, rows.tokens, position, exists)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out.kv)


def everything(context: Context, rows: Rows) -> ModelOutput:
    """A forward over all L columns."""
    position, exists = context.columns(rows)
    return context.model.apply(context.params, rows.tokens, position, exists)


def some(
    context: Context, rows: Rows, kv: KV, first: Int32[Array, "B"], count: int, fresh: Bool[Array, "B L"]
) -> ModelOutput:
    """A forward over columns first .. first + count of each row.

    Their own keys are seen where `fresh`; everywhere else the stored ones are. `fresh` lies inside the range. Versions
    of a row stand one after the other in one row of the forward, over one copy of the keys, blind to each other; the
    keys that come back are then of no use.
    """
    position, exists = context.columns(rows)
    index = first[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]

    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, index, axis=1)

    own = (take(rows.tokens), take(position), take(exists & fresh))
    past = Past(kv, position, exists & ~fresh)
    versions = context.versions
    if versions == 1:
        return context.model.apply(context.params, *own, past)
    own = tuple(rearrange(x, "(b n) t -> b (n t)", n=versions) for x in own)
    past = Past(kv, position[::versions], (exists & ~fresh)[::versions])
    version = jnp.arange(versions * count) // count
    mask = jnp.concatenate(
        [jnp.ones((versions * count, position.shape[1]), bool), version[:, None] == version[None, :]], axis=1
    )
    mask = jnp.broadcast_to(mask, (own[0].shape[0], *mask.shape))
    out = context.model.apply(context.params, *own, past, mask=mask)
    return out._replace(hidden=rearrange(out.hidden, "b (n t) d -> (b n) t d", n=versions))


def put(kv: KV, new: KV, first: Int32[Array, "B"]) -> KV:
    """`kv` with columns first .. of each row replaced; `new` holds as many columns as are replaced."""
    at = jax.vmap(lambda old, part, at: jax.lax.dynamic_update_slice_in_dim(old, part, at, 1), (1, 1, 0), 1)
    return jax.tree.map(lambda old, part: at(old, part.astype(old.dtype), first), kv, new)


def span(context: Context, first: Int32[Array, "B"], count: int) -> Bool[Array, "B L"]:
    """Columns first .. first + count of each row."""
    column = jnp.arange(context.geometry.length, dtype=jnp.int32)[None, :]
    return (column >= first[:, None]) & (column < (first + count)[:, None])
