"""Where a row's text ends: sequences of token ids, looked for in columns that can no longer change."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdlm.typing import Array, Bool, Int32

ANY = -1  # in front of a sequence that is shorter than the longest; a whole row of them is no sequence


def shape(rows: Sequence[Sequence[Sequence[int]]]) -> tuple[int, int] | None:
    """(N, K) that hold the sequences of every row, powers of two, so that others fit the program; None: there are none."""
    longest = max((len(ids) for row in rows for ids in row), default=0)
    side = lambda n: 1 << (n - 1).bit_length()  # noqa: E731
    return (side(max(map(len, rows))), side(longest)) if longest else None


def pack(rows: Sequence[Sequence[Sequence[int]]], shape: tuple[int, int]) -> Int32[np.ndarray, "B N K"]:
    """Sequences of ids of each row as one array, each at the right edge."""
    out = np.full((len(rows), *shape), ANY, np.int32)
    for own, row in zip(out, rows):
        for place, ids in zip(own, row):
            place[len(place) - len(ids) :] = ids
    return out


def ends_here(tokens: Int32[Array, "C"], own: Bool[Array, "C"], ends: Int32[Array, "N K"]) -> Bool[Array, "C"]:
    """Whether one of the sequences ends in a column; `own`: columns that may take part in it."""
    here, length = jnp.broadcast_to(ends[:, -1:] != ANY, (ends.shape[0], tokens.shape[0])), ends.shape[1]
    for place in range(length):
        back = length - 1 - place
        token = jnp.pad(tokens, (back, 0), constant_values=-2)[: tokens.shape[0]]
        mine = jnp.pad(own, (back, 0))[: tokens.shape[0]]
        wanted = ends[:, place, None]
        here = here & ((wanted == ANY) | ((wanted == token[None]) & mine[None]))
    return here.any(0)


def columns_to_end(
    tokens: Int32[Array, "C"], own: Bool[Array, "C"], final: Bool[Array, "C"], ends: Int32[Array, "N K"]
) -> Int32[Array, ""]:
    """Columns up to and with the first end before which all columns are final; C + 1 where there is none."""
    ended = ends_here(tokens, own, ends) & (jnp.cumsum(~final) == 0)
    return jnp.where(ended.any(), jnp.argmax(ended).astype(jnp.int32) + 1, tokens.shape[0] + 1)
