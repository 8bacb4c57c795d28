"""Stored keys and values by column: leaves [R, B, S, K, H], layers before rows; index and new columns per row."""

import jax
import jax.numpy as jnp

from jaxdlm.core.model import KV
from jaxdlm.typing import Array, Int32


def take(kv: KV, index: Int32[Array, "B T"]) -> KV:
    """T columns of each row."""
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, index[None, :, :, None, None], axis=2), kv)


def put(kv: KV, new: KV, index: Int32[Array, "B T"]) -> KV:
    """`kv` with T columns of each row replaced, in the dtypes of `kv`; an index past the end writes nothing."""
    row = jnp.arange(index.shape[0])[:, None]
    return jax.tree.map(lambda old, part: old.at[:, row, index].set(part.astype(old.dtype), mode="drop"), kv, new)


def columns_from(first: Int32[Array, "B"], count: int) -> Int32[Array, "B T"]:
    """The index of columns first .. first + count of each row."""
    return first[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]


def put_span(kv: KV, new: KV, first: Int32[Array, "B"]) -> KV:
    """`kv` with the columns of each row from `first` on replaced by all of `new`, moved into the row where they stick out."""
    # one slice per row where it lies; `vmap` would move the rows to the front, and copy the keys twice for that
    axes = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(0, 2, 3, 4),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=(2,),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )

    def one(old: Array, part: Array) -> Array:
        at = jnp.clip(first, 0, old.shape[2] - part.shape[2])[:, None]
        return jax.lax.scatter(old, at, part.astype(old.dtype), axes, unique_indices=True, indices_are_sorted=True)

    return jax.tree.map(one, kv, new)
