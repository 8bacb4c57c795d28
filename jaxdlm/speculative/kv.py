"""Keys and values stored by position: column j holds position j, and rolling back is forgetting a length.

A column is visible only below the length that the reader names, so what lies above it (rejected tokens, pads of a
prompt) needs no clearing: it is written again before any query can see it. Nothing is ever moved.
"""

import jax
import jax.numpy as jnp

from jaxdlm.core import kv as stored
from jaxdlm.core.model import KV, Model, Past
from jaxdlm.typing import Array, Bool, Int32, PyTree


def prefill(
    model: Model, params: PyTree, tokens: Int32[Array, "B L"], prompt: int, extra: int = 0, shared: int = 0
) -> KV:
    """The cache of L + extra columns with the first `prompt` columns of each row read; pads on the right do no harm.

    shared: of these the first that all rows have alike, and that are read once.
    """
    rows, columns = tokens.shape
    position, valid = places(rows, prompt)
    if not shared:
        return room(model.apply(params, tokens[:, :prompt], position, valid).kv, columns + extra)
    head = model.apply(params, tokens[:1, :shared], position[:1, :shared], valid[:1, :shared]).kv
    head = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=1), head)
    past = Past(head, position[:, :shared], valid[:, :shared])
    rest = model.apply(params, tokens[:, shared:prompt], position[:, shared:], valid[:, shared:], past).kv
    return room(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), head, rest), columns + extra)


def places(rows: int, prompt: int) -> tuple[Int32[Array, "B P"], Bool[Array, "B P"]]:
    """(positions, which are valid) of the prompts' columns."""
    position = jnp.broadcast_to(jnp.arange(prompt, dtype=jnp.int32)[None, :], (rows, prompt))
    return position, jnp.ones((rows, prompt), bool)


def room(kv: KV, columns: int) -> KV:
    """The cache with so many columns, the new ones blank."""
    pad = lambda leaf: [(0, 0), (0, 0), (0, columns - leaf.shape[2]), (0, 0), (0, 0)]  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.pad(leaf, pad(leaf)), kv)


def seen(kv: KV, length: Int32[Array, "B"]) -> Past:
    """The stored columns below `length` of each row."""
    columns = jax.tree.leaves(kv.k)[0].shape[2]
    position = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None, :], (length.shape[0], columns))
    return Past(kv, position, position < length[:, None])


def put(kv: KV, new: KV, column: Int32[Array, "B T"], keep: Bool[Array, "B T"] | None = None) -> KV:
    """`kv` with T columns per row written by index; those outside the cache, or not to `keep`, are dropped."""
    columns = jax.tree.leaves(kv.k)[0].shape[2]
    lost = column < 0 if keep is None else (column < 0) | ~keep
    return stored.put(kv, new, jnp.where(lost, columns, column))


def tree_mask(rows: int, columns: int, above: Bool[Array, "B N N"]) -> Bool[Array, "B T S_T"]:
    """The root and N nodes see all S stored columns and the root, and of each other those on or above them."""
    seen = jnp.pad(above, [(0, 0), (1, 0), (0, 0)])
    seen = jnp.pad(seen, [(0, 0), (0, 0), (columns + 1, 0)], constant_values=True)
    return jnp.broadcast_to(seen, (rows, *seen.shape[1:]))


def take(x: Int32[Array, "B L"], index: Int32[Array, "B T"]) -> Int32[Array, "B T"]:
    """x[b, index[b, t]], index clipped into the row."""
    return jnp.take_along_axis(x, jnp.clip(index, 0, x.shape[1] - 1), axis=1)
