"""Finished blocks of a block-causal model never change: their keys and values are stored once."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxdlm.caches import stored
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV
from jaxdlm.typing import Array, Bool, Int32


class Stored(NamedTuple):
    kv: KV  # of the current block: as its first forward found it, which no step reads
    ready: Int32[Array, "B"]  # canvas blocks whose final keys and values are stored


@struct.dataclass
class BlockExactCache:
    """Equals no cache for models with block-causal attention (SDAR, arXiv 2510.06303; LLaDA2, arXiv 2512.15745).

    Stale: nothing. A column sees its own and earlier blocks only, so the keys of a finished block are final. A step
    costs K tokens (K + 1 with `next` prediction). The first forward of a block costs 2 K: it also reads the block
    before, whose last commits came after its last forward, and stores it. Where a row skipped blocks that were given
    (infilling), that forward reads all L columns instead. The prompt is read once, before the first forward.

    Departure from official code: SDAR stores a finished block with a forward of its own; here that is folded into the
    next block's first forward, so `forwards` counts denoising forwards alone.
    """

    always: ClassVar[bool] = False
    window: ClassVar[str] = "block"
    versions: ClassVar[bool] = True
    admits: ClassVar[bool] = True
    attention: ClassVar[str] = "block_causal"

    def init(self, context: Context, rows: Rows) -> Stored:
        blank = Stored(stored.empty(context, rows), jnp.zeros_like(rows.block))
        return self.admit(context, rows, blank, jnp.ones_like(rows.done))

    def admit(self, context: Context, rows: Rows, state: Stored, new: Bool[Array, "B"]) -> Stored:
        """Reads the prompts, and keeps those of the rows `new`: the price is that of one batch of prompts."""
        return Stored(stored.prompts(context, rows, state.kv, new), jnp.where(new, 0, state.ready))

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return rows.tick == 0

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Stored) -> Window:
        skipped = jnp.any(~rows.done & (rows.block - 1 > state.ready))
        return jax.lax.cond(
            skipped,
            lambda kv: self.all_blocks(context, rows, start),
            lambda kv: self.two_blocks(context, rows, start, kv),
            state.kv,
        )

    def all_blocks(self, context: Context, rows: Rows, start: Int32[Array, "B"]) -> Window:
        out = stored.everything(context, rows)
        return Window(context.select(out.hidden, 0, start), Stored(out.kv, rows.block))

    def two_blocks(self, context: Context, rows: Rows, start: Int32[Array, "B"], kv: KV) -> Window:
        block = context.geometry.block
        # a finished row's block lies behind the canvas; what it computes is thrown away
        first = jnp.minimum(start, context.geometry.length - block) - block
        fresh = stored.span(context, first, 2 * block)
        out = stored.some(context, rows, kv, first, 2 * block, fresh)
        return Window(context.select(out.hidden, first, start), Stored(stored.put(kv, out.kv, first), rows.block))

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Stored) -> Window:
        count = context.width + context.lead
        first = jnp.minimum(start - context.lead, context.geometry.length - count)
        fresh = stored.span(context, first, count)
        out = stored.some(context, rows, state.kv, first, count, fresh)
        return Window(context.select(out.hidden, first, start), state)
