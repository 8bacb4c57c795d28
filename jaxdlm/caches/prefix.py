"""Fast-dLLM's prefix cache: everything left of the block is read from the last full forward."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import interval, periodic
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Int32


@struct.dataclass
class PrefixCache(Refreshing):
    """Keys and values of columns left of the row's block come from the block's first forward (arXiv 2505.22618).

    Stale: columns [0, lo). Fresh: [lo, L). A step costs the canvas's C tokens, whichever the block: shapes are static,
    so the queries are the whole canvas, and the fresh keys of finished blocks are masked out for the stored ones. The
    first forward of a block reads all L columns and commits as well.

    refresh_every: also read all columns whenever forwards-since-the-block-began is a multiple of it; default never,
    1: in every forward. Departure from official code: with `next` prediction (Dream) the column lo - 1 is fresh, too,
    because its row holds the logits of lo; the released code commits lo from the full forward, then reads lo's own row.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = True
    refresh_every: Any = None

    def init(self, context: Context, rows: Rows) -> KV:
        return stored.empty(context, rows)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return periodic(rows, self.refresh_every)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        out = stored.everything(context, rows)
        return Window(context.select(out.hidden, 0, start), out.kv)

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        geometry, left = context.geometry, context.shift
        column = jnp.arange(geometry.length, dtype=jnp.int32)[None, :]
        fresh = column >= (geometry.prompt + geometry.block * rows.block - left)[:, None]
        first = geometry.prompt - left
        out = stored.some(
            context, rows, state, jnp.full_like(rows.block, first), geometry.canvas + left, fresh & (column >= first)
        )
        return Window(context.select(out.hidden, first, start), state)


@cache("prefix", serves=("block", "canvas", "versions"), order=20)
def prefix(refresh_every: Any = None) -> PrefixCache:
    """See `PrefixCache`. Raises InputError for refresh_every < 1."""
    return PrefixCache(interval(refresh_every, none=True))
