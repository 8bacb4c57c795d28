"""The prompt and finished canvases are read once, causally; each forward reads the canvas alone (DiffusionGemma)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.kv import put_span
from jaxdlm.core.model import KV
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Int32


@cache("encoder", serves=("noise",), order=110)
@struct.dataclass
class EncoderCache(Refreshing):
    """Equals no cache for models with a causal prefix and a canvas behind it.

    Stale: nothing. Keys of the prefix are causal, and finished canvases never change. A step costs the canvas's C
    tokens; the first forward of a canvas costs 2 C: it also reads the canvas before, causally, and stores it. The
    prompt is read once, before the first forward.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "block"
    versions: ClassVar[bool] = False
    admits: ClassVar[bool] = True
    attention: ClassVar[str | None] = "prefix_canvas"

    def init(self, context: Context, rows: Rows) -> KV:
        return self.admit(context, rows, stored.empty(context, rows), jnp.ones_like(rows.done))

    def admit(self, context: Context, rows: Rows, state: KV, new: Bool[Array, "B"]) -> KV:
        """Reads the prompts, and keeps those of the rows `new`."""
        return stored.prompts(context, rows, state, new)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return rows.tick == 0

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        # a row in its first canvas stores that one: no query sees these columns before they are stored again
        first = jnp.maximum(start - context.width, context.geometry.prompt)
        model: Any = context.model
        out = model.prefix(
            context.params, *stored.columns(context, rows, first), stored.before(context, rows, state, first)
        )
        return self.step(context, rows, start, put_span(state, out.kv, first))

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: KV) -> Window:
        # a finished row's canvas lies behind the last one; what it computes is thrown away
        start = jnp.minimum(start, context.geometry.length - context.width)
        return Window(stored.canvas(context, rows, start, state), state)
