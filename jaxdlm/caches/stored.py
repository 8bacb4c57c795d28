"""Keys and values of all columns, and the forward of some columns that reads them."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows
from jaxdlm.core.kv import columns_from, put
from jaxdlm.core.model import KV, Layered, ModelOutput, Past
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree


def empty(context: Context, rows: Rows) -> KV:
    """Zeros of the shape that a forward over all L columns returns; leaves [R, B, L, K, H]."""
    return blank(context, rows).kv


def blank(context: Context, rows: Rows) -> ModelOutput:
    """Zeros of the shapes that a forward over all L columns returns."""
    position, exists = context.columns(rows)
    out = jax.eval_shape(context.model.apply, context.params, rows.tokens, position, exists)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), out)


def prompts(context: Context, rows: Rows, kv: KV, new: Bool[Array, "B"]) -> KV:
    """`kv` with the prompt columns of the rows `new` read; the others keep every bit."""
    columns = context.geometry.prompt
    position, exists = (x[:, :columns] for x in context.columns(rows))
    out = context.model.apply(context.params, rows.tokens[:, :columns], position, exists)

    def one(old: Array, fresh: Array) -> Array:
        merged = jnp.where(new[None, :, None, None, None], fresh.astype(old.dtype), old[:, :, :columns])
        return jax.lax.dynamic_update_slice_in_dim(old, merged, 0, 2)

    return jax.tree.map(one, kv, out.kv)


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
    index = columns_from(first, count)

    def own_columns(x: Array) -> Array:
        return jnp.take_along_axis(x, index, axis=1)

    own = (own_columns(rows.tokens), own_columns(position), own_columns(exists & fresh))
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


def picked(
    context: Context, rows: Rows, kv: KV, fresh: Bool[Array, "B L"], capacity: int
) -> tuple[ModelOutput, Int32[Array, "B M"]]:
    """A forward over the columns `fresh`, wherever they stand, and the columns: in order, then L in unused places.

    Of more than `capacity` columns the last are left out: they are neither queries nor keys. `out.kv` is `kv` with the
    columns read written over; no other column changes.
    """
    position, exists = context.columns(rows)
    index = columns_of(fresh, capacity)
    used, within = index < fresh.shape[1], jnp.minimum(index, fresh.shape[1] - 1)

    def chosen(x: Array) -> Array:
        return jnp.take_along_axis(x, within, axis=1)

    past = Past(kv, position, exists & ~fresh)
    out = context.model.apply(context.params, chosen(rows.tokens), chosen(position), used & chosen(exists), past)
    return ModelOutput(out.hidden, put(kv, out.kv, index)), index


def with_logit_columns(context: Context, chosen: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """The chosen columns, and with `next` prediction their left neighbours, whose rows hold their logits."""
    if not context.shift:
        return chosen
    return chosen | jnp.pad(chosen[:, 1:], ((0, 0), (0, 1)))


def columns_of(chosen: Bool[Array, "B L"], capacity: int) -> Int32[Array, "B M"]:
    """The first `capacity` chosen columns of each row in order, then L."""
    length = chosen.shape[1]
    column = jnp.where(chosen, jnp.arange(length, dtype=jnp.int32)[None, :], length)
    return jnp.sort(column, axis=1)[:, :capacity]


def renew(
    context: Context,
    window: Float[Array, "B W D"],
    hidden: Float[Array, "B M D"],
    index: Int32[Array, "B M"],
    start: Int32[Array, "B"],
) -> Float[Array, "B W D"]:
    """The window's hidden rows with those replaced whose logits the columns `index`, just read, hold."""
    at = index - (start - context.shift)[:, None]
    at = jnp.where((at >= 0) & (at < context.width), at, context.width)  # a negative index would count from the end
    row = jnp.arange(window.shape[0])[:, None]
    return window.at[row, at].set(hidden.astype(window.dtype), mode="drop")


def layered(context: Context) -> Layered:
    """The model as one whose layers can be taken apart, or InputError."""
    model = context.model
    if not isinstance(model, Layered) or model.config.attention == "prefix_canvas":
        raise InputError(
            "this cache takes the layers of a transformer apart, this model has none such: use cache='none'"
        )
    return model


def pairs(kv: KV) -> PyTree:
    """(keys, values) of each layer, as a `LayerHook` remembers them."""
    return tuple(tuple(zip(k, v, strict=True)) for k, v in zip(kv.k, kv.v, strict=True))


def scatter(x: Float[Array, "B T ..."], index: Int32[Array, "B M"], new: Array) -> Float[Array, "B T ..."]:
    """`x` with columns of each row replaced; an index past the end writes nothing."""
    return x.at[jnp.arange(x.shape[0])[:, None], index].set(new.astype(x.dtype), mode="drop")


def span(context: Context, first: Int32[Array, "B"], count: int) -> Bool[Array, "B L"]:
    """Columns first .. first + count of each row."""
    column = jnp.arange(context.geometry.length, dtype=jnp.int32)[None, :]
    return (column >= first[:, None]) & (column < (first + count)[:, None])


def columns(context: Context, rows: Rows, first: Int32[Array, "B"]) -> tuple[Array, Array, Array]:
    """Tokens, positions and validity of the window's many columns from `first` on."""
    index = columns_from(first, context.width)
    position, exists = (jnp.take_along_axis(x, index, axis=1) for x in context.columns(rows))
    return jnp.take_along_axis(rows.tokens, index, axis=1), position, exists


def before(context: Context, rows: Rows, kv: KV, first: Int32[Array, "B"]) -> Past:
    """The stored columns before column `first` of each row."""
    position, exists = context.columns(rows)
    column = jnp.arange(context.geometry.length, dtype=jnp.int32)[None, :]
    return Past(kv, position, exists & (column < first[:, None]))


def canvas(context: Context, rows: Rows, start: Int32[Array, "B"], kv: KV) -> Array:
    """Hidden rows of a canvas that sees itself and the prefix; in its first forward it has no probabilities to be
    conditioned on."""
    model: Any = context.model
    soft = None
    if context.model.config.self_conditioning:
        soft = jnp.where((rows.tick == 0)[:, None, None], jnp.zeros_like(rows.condition), rows.condition)
    return model.canvas(
        context.params, *columns(context, rows, start), before(context, rows, kv, start), soft=soft
    ).hidden
