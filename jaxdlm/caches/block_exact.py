"""Finished blocks of a block-causal model never change: their keys and values are stored once."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.kv import put_span
from jaxdlm.core.model import KV
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Int32


class Stored(NamedTuple):
    kv: KV  # of the current block: as its first forward found it, which no step reads
    ready: Int32[Array, "B"]  # canvas blocks whose final keys and values are stored


@cache("block_exact", serves=("block", "versions"), order=40)
@struct.dataclass
class BlockExactCache:
    """Equals no cache for models with block-causal attention (SDAR, arXiv 2510.06303; LLaDA2, arXiv 2512.15745).

    Stale: nothing. A column sees its own and earlier blocks only, so the keys of a finished block are final. A step
    costs K tokens (K + 1 with `next` prediction). The first forward of a block costs 2 K: it also reads the block
    before, whose last commits came after its last forward, and stores it; two more blocks are read, 2 K tokens a time,
    for every two that were prefilled and skipped (infilling). The prompt is read once, before the first forward.

    Departure from official code: SDAR stores a finished block with a forward of its own; here that is folded into the
    next block's first forward, so `forwards` counts denoising forwards alone.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "block"
    versions: ClassVar[bool] = True
    admits: ClassVar[bool] = True
    attention: ClassVar[str | None] = "block_causal"
    blind: ClassVar[bool] = False
    attends: ClassVar[bool] = False

    def init(self, context: Context, rows: Rows) -> Stored:
        blank = Stored(stored.empty(context, rows), jnp.zeros_like(rows.block))
        return self.admit(context, rows, blank, jnp.ones_like(rows.done))

    def admit(self, context: Context, rows: Rows, state: Stored, new: Bool[Array, "B"]) -> Stored:
        """Reads the prompts, and keeps those of the rows `new`: the price is that of one batch of prompts."""
        return Stored(stored.prompts(context, rows, state.kv, new), jnp.where(new, 0, state.ready))

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return rows.tick == 0

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Stored) -> Window:
        def pair(window: Window) -> tuple[Window, Bool[Array, ""]]:
            """Reads the first block that is not final yet and the next one: the row's own, unless more are missing."""
            kv, ready = window.state
            block, own = context.geometry.block, rows.block
            at = jnp.minimum(ready, own - 1)
            # a finished row's block lies behind the canvas; what it computes is thrown away
            first = jnp.minimum(context.geometry.prompt + block * at, context.geometry.length - 2 * block)
            out = stored.some(context, rows, kv, first, 2 * block, stored.span(context, first, 2 * block))
            read = Stored(put_span(kv, out.kv, first), jnp.minimum(at + 2, own))
            return Window(context.select(out.hidden, first, start), read), jnp.any(~rows.done & (at < own - 1))

        blank = Window(stored.blank(context, rows).hidden[:, : context.width], state)
        # one trip, but for rows that skipped blocks; a row that waits for others reads the same columns again
        return jax.lax.while_loop(lambda x: x[1], lambda x: pair(x[0]), (blank, jnp.bool_(True)))[0]

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Stored) -> Window:
        count = context.width + context.shift
        first = jnp.minimum(start - context.shift, context.geometry.length - count)
        fresh = stored.span(context, first, count)
        out = stored.some(context, rows, state.kv, first, count, fresh)
        return Window(context.select(out.hidden, first, start), state)
