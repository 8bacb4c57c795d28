"""No cache: every forward reads all columns."""

from typing import ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.attended import attended
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import SupportsApplyAt, gather
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree


@cache("none", serves=("block", "canvas", "versions", "noise", "blind", "attention", "length"), order=10)
@struct.dataclass
class NoCache(Refreshing):
    """All L columns in every forward, so nothing is ever stale; L tokens per forward."""

    recomputes_all: ClassVar[bool] = True
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = True
    blind: ClassVar[bool] = True
    attends: ClassVar[bool] = True

    def init(self, context: Context, rows: Rows) -> PyTree:
        return ()

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return jnp.ones_like(rows.done)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree) -> Window:
        model, (position, exists) = context.model, context.columns(rows)
        if context.blind:
            return Window(shadowed(context, rows, start), state)
        if context.attention:
            hidden, seen = attended(context, rows, start, context.attention)
            return Window(hidden, state, seen)
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


def shadowed(context: Context, rows: Rows, start: Int32[Array, "B"]) -> Float[Array, "B 2W D"]:
    """Hidden rows of the window, then those of its shadow: as many masks at the same positions, which no column sees.

    Shadow i sees the shadow and all columns but the one that it stands for, so that its logits say what the rest of the row
    makes of it (arXiv 2507.18578). What the columns themselves give is what they give without a shadow.
    """
    (position, exists), length = context.columns(rows), context.geometry.length
    at = start[:, None] + jnp.arange(context.width, dtype=jnp.int32)[None]
    beside = lambda x, new: jnp.concatenate([x, new.astype(x.dtype)], axis=1)  # noqa: E731
    tokens = beside(rows.tokens, jnp.full_like(at, context.model.config.tokens.mask))
    seat = beside(jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), rows.tokens.shape), at)  # column of each token
    shade = jnp.arange(length + context.width) >= length
    other = shade[None, None, :] | (seat[:, :, None] != seat[:, None, :])
    mask = jnp.where(shade[None, :, None], other, ~shade[None, None, :])
    out = context.model.apply(
        context.params, tokens, beside(position, gather(position, at)), beside(exists, gather(exists, at)), mask=mask
    )
    return beside(context.select(out.hidden[:, :length], 0, start), out.hidden[:, length:])
