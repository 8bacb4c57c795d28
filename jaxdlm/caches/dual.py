"""Fast-dLLM's dual cache: everything outside the block is read from the last full forward."""

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
class DualCache(Refreshing):
    """Keys and values outside the row's block come from the block's first forward (arXiv 2505.22618).

    Stale: columns [0, lo) and [hi, L), the latter all masks. Fresh: the block [lo, hi). A step costs K tokens (K + 1
    with `next` prediction, whose column lo - 1 holds the logits of lo). The first forward of a block reads all L
    columns and commits as well.

    refresh_every: also read all columns whenever forwards-since-the-block-began is a multiple of it; default never,
    1: in every forward. Departure from official code: as for the prefix cache.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "block"
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
        length, count = context.geometry.length, context.width + context.shift
        # a finished row's block lies behind the canvas; what it computes is thrown away
        first = jnp.minimum(start - context.shift, length - count)
        fresh = stored.span(context, first, count)
        out = stored.some(context, rows, state, first, count, fresh)
        return Window(context.select(out.hidden, first, start), state)


@cache("dual", serves=("block", "versions"), order=30)
def dual(refresh_every: Any = None) -> DualCache:
    """See `DualCache`. Raises InputError for refresh_every < 1."""
    return DualCache(interval(refresh_every, none=True))
