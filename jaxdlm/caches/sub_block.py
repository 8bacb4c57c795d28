"""Fast-dLLM v2: the exact cache of finished blocks, and a lossy one of sub-blocks inside the block."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.block_exact import BlockExactCache, Stored
from jaxdlm.caches.interval import count
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.kv import columns_from, put_span, take
from jaxdlm.core.model import KV
from jaxdlm.errors import InputError
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Float, Int32

EXACT = BlockExactCache()


class SubBlockState(NamedTuple):
    blocks: Stored  # of the current block: as its last forward as a whole found it
    hidden: Float[Array, "B W D"]  # each row from the last forward that read its column


@struct.dataclass
class SubBlockCache:
    """Inside a block only the current sub-block is read, S columns; the other columns' keys are those of the block's
    last forward as a whole (the dual cache of Fast-dLLM v2, arXiv 2509.26328). Finished blocks: as `block_exact`.

    The current sub-block is that of the first open column. The block is read as a whole in its first forward, while
    the first column of the current sub-block is open (so on entering each), in the second forward where the first
    wrote the block's first column, and where nothing is open. Stale: the block outside the sub-block. A step costs S
    tokens, K (K + 1 with `next` prediction) while some row's block is read as a whole; the first forward 2 K. Rules
    that look outside the sub-block see the hidden rows of the last reading. State: keys and values of L columns, and W
    hidden rows.

    size: S, 8 (of K = 32); a block of no more than that is one sub-block.
    Departure from official code: a row's forward is whole or partial by the row's own columns, not those of the batch;
    a block starts afresh, where one released version goes on with the columns of the block before.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "block"
    versions: ClassVar[bool] = False
    admits: ClassVar[bool] = True
    attention: ClassVar[str | None] = "block_causal"
    blind: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    size: int = struct.field(pytree_node=False, default=8)

    def init(self, context: Context, rows: Rows) -> SubBlockState:
        self.columns(context)
        return SubBlockState(EXACT.init(context, rows), stored.blank(context, rows).hidden[:, : context.width])

    def admit(self, context: Context, rows: Rows, state: SubBlockState, new: Bool[Array, "B"]) -> SubBlockState:
        return state._replace(blocks=EXACT.admit(context, rows, state.blocks, new))

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return EXACT.due(rows)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: SubBlockState) -> Window:
        window = EXACT.refresh(context, rows, start, state.blocks)
        return Window(window.hidden, SubBlockState(window.state, window.hidden))

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: SubBlockState) -> Window:
        first, whole = self.current(context, rows, start)
        begin = jnp.minimum(start - context.shift, context.geometry.length - context.width - context.shift)
        # the branches give the block's keys, and the store is written after them: as a result of both it would be copied
        old = take(state.blocks.kv, columns_from(begin, context.width + context.shift))
        new, hidden = jax.lax.cond(
            jnp.any(whole & ~rows.done),
            lambda: self.block(context, rows, start, state, first, whole, begin, old),
            lambda: (old, self.part(context, rows, start, state, first)),
        )
        return Window(hidden, SubBlockState(state.blocks._replace(kv=put_span(state.blocks.kv, new, begin)), hidden))

    def columns(self, context: Context) -> int:
        """S, or InputError where the block is no multiple of it."""
        block = context.geometry.block
        size = min(self.size, block)
        if block % size:
            raise InputError(f"block={block} is no multiple of the cache's size={size}: choose a divisor")
        return size

    def current(
        self, context: Context, rows: Rows, start: Int32[Array, "B"]
    ) -> tuple[Int32[Array, "B"], Bool[Array, "B"]]:
        """First column of each row's sub-block, and whether the whole block is to be read."""
        size, block = self.columns(context), context.geometry.block
        # a finished row's block lies behind the canvas; what it computes is thrown away
        start = jnp.minimum(start, context.geometry.length - block)

        def one(pending: Array, prefilled: Array, tick: Array, start: Array) -> tuple[Array, Array]:
            left = jax.lax.dynamic_slice_in_dim(pending, start, block)
            begin = jnp.argmax(left).astype(jnp.int32) // size * size
            second = (tick == 1) & ~prefilled[start]
            return start + begin, left[begin] | second | ~jnp.any(left)

        return jax.vmap(one)(rows.pending, rows.prefilled, rows.tick, start)

    def part(
        self, context: Context, rows: Rows, start: Int32[Array, "B"], state: SubBlockState, first: Int32[Array, "B"]
    ) -> Float[Array, "B W D"]:
        """Hidden rows with those of the sub-block renewed."""
        size = self.columns(context)
        fresh = stored.span(context, first, size)
        out = stored.some(context, rows, state.blocks.kv, first, size, fresh)
        index = first[:, None] + jnp.arange(size, dtype=jnp.int32)[None, :]
        return stored.renew(context, state.hidden, out.hidden, index, start)

    def block(
        self,
        context: Context,
        rows: Rows,
        start: Int32[Array, "B"],
        state: SubBlockState,
        first: Int32[Array, "B"],
        whole: Bool[Array, "B"],
        begin: Int32[Array, "B"],
        old: KV,
    ) -> tuple[KV, Float[Array, "B W D"]]:
        """The block's columns read as a whole; of rows that need a part only, nothing but the part is read or kept."""
        width, shift, size = context.width, context.shift, self.columns(context)
        fresh = jnp.where(whole[:, None], stored.span(context, begin, width + shift), stored.span(context, first, size))
        out = stored.some(context, rows, state.blocks.kv, begin, width + shift, fresh)
        column = (start - shift)[:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
        renewed = whole[:, None] | ((column >= first[:, None]) & (column < (first + size)[:, None]))
        hidden = jnp.where(renewed[..., None], context.select(out.hidden, begin, start), state.hidden)
        chosen = whole[None, :, None, None, None]
        return jax.tree.map(lambda old, new: jnp.where(chosen, new.astype(old.dtype), old), old, out.kv), hidden


@cache("sub_block", serves=("block",), order=50)
def sub_block(size: Any = 8) -> SubBlockCache:
    """See `SubBlockCache`. Raises InputError for size < 1."""
    return SubBlockCache(count(size, "size", 1))
