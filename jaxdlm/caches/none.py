"""No cache: every forward reads all columns."""

from typing import ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import SupportsApplyAt
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Int32, PyTree


@cache("none", serves=("block", "canvas", "versions", "noise"), order=10)
@struct.dataclass
class NoCache(Refreshing):
    """All L columns in every forward, so nothing is ever stale; L tokens per forward."""

    recomputes_all: ClassVar[bool] = True
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = True

    def init(self, context: Context, rows: Rows) -> PyTree:
        return ()

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return jnp.ones_like(rows.done)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        model, (position, exists) = context.model, context.columns(rows)
        if isinstance(model, SupportsApplyAt) and model.config.attention != "prefix_canvas":
            at = context.logit_index(rows.tokens.shape[1], 0, start)
            return Window(model.apply_at(context.params, rows.tokens, position, exists, at), state)
        out = model.apply(context.params, rows.tokens, position, exists)
        if model.config.attention == "prefix_canvas":
            # a finished row's canvas lies behind the last one; what it computes is thrown away
            start = jnp.minimum(start, context.geometry.length - context.width)
            return Window(stored.canvas(context, rows, start, out.kv), state)
        return Window(context.select(out.hidden, 0, start), state)

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        return self.refresh(context, rows, start, state)
