"""The vicinity of the block is read in every forward, everything in some of them (dInfer, d3LLM)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import count, interval, periodic
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Int32


@struct.dataclass
class RefreshCache(Refreshing):
    """Keys and values outside [lo - before, hi + after) come from the last forward that read all columns.

    Stale: the columns outside, the right ones all masks. Fresh: those inside. A step costs before + K + after tokens.
    State: keys and values of L columns, 2 · layers · kv_heads · head_dim · bytes each.

    All L columns are read in a row's first `warmup` forwards, in the first forward of a block, and whenever
    forwards-since-the-block-began is a multiple of `every`. dInfer (2510.08666): before = after = 16, warmup 4, no
    period; d3LLM (2601.07568): its period is 3 where blocks come fast (short GSM8K). before = after = 0 without warm-up
    is the dual cache; every=1 is no cache.
    Departure from official code: dInfer reads the vicinity a second time in the iteration that enters a block; here
    that is the next forward. It warms up a batch at a time; here each row does.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "block"
    versions: ClassVar[bool] = True
    every: Any = None
    warmup: Any = 4
    before: int = struct.field(pytree_node=False, default=16)
    after: int = struct.field(pytree_node=False, default=16)

    def init(self, context: Context, rows: Rows) -> KV:
        return stored.empty(context, rows)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return periodic(rows, self.every) | (rows.step < jnp.asarray(self.warmup, jnp.int32))

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        out = stored.everything(context, rows)
        return Window(context.select(out.hidden, 0, start), out.kv)

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        length, left = context.geometry.length, max(self.before, context.shift)
        queries = min(left + context.width + self.after, length)
        # at the edges the queries are shifted inwards; what lies outside the vicinity stays stale all the same
        first = jnp.clip(start - left, 0, length - queries)
        near = stored.span(context, start - left, left + context.width + self.after)
        out = stored.some(context, rows, state, first, queries, near & stored.span(context, first, queries))
        return Window(context.select(out.hidden, first, start), state)


@cache("refresh", serves=("block", "versions"), order=60)
def refresh(every: Any = None, before: int = 16, after: int = 16, warmup: Any = 4) -> RefreshCache:
    """See `RefreshCache`. Raises InputError for every < 1, or a negative number of columns or forwards."""
    return RefreshCache(
        interval(every, "every", none=True),
        interval(warmup, "warmup", 0),
        count(before, "before"),
        count(after, "after"),
    )
