"""dKV-Cache: a column's keys and values are kept from one forward after its token was written."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import interval
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Float, Int32

SMALLEST = 16  # columns: fewer cost no less


class DelayedState(NamedTuple):
    kv: KV
    hidden: Float[Array, "B W D"]  # of the window, each row from the last forward that read its column
    tokens: Int32[Array, "B L"]  # that each column was last read with


@struct.dataclass
class DelayedCache(Refreshing):
    """Reads the columns that were masks one forward ago; all others come from their last reading (arXiv 2505.15781).

    R_s = {j : column j was a mask in the input of forward s - 1} = those still masked, and those whose token changed
    since they were read (an edited column, too): a token is read once as a token before it is kept, for keeping the
    mask's keys costs quality. With `next` prediction the left neighbours of R are read, too, because their rows hold
    its logits (the released code's `un_right`).
    Stale: the prompt, and columns written two or more forwards ago. Rules that look at columns outside R see the hidden
    rows of their last reading. A step costs C tokens (the canvas), C / 2 or C / 4 once the most that a row has
    left to read fits: shapes are static. State: keys and values of L columns, and W hidden rows.

    All L columns are read in forwards 0 and 1 of a block and whenever forwards-since-the-block-began is a multiple of
    `every` (8 for LLaDA, 4 by default in the code, 16 for Dream).
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = False
    every: Any = 8

    def init(self, context: Context, rows: Rows) -> DelayedState:
        blank = stored.blank(context, rows)
        return DelayedState(blank.kv, blank.hidden[:, : context.width], rows.tokens)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        return (rows.tick <= 1) | (rows.tick % jnp.asarray(self.every, jnp.int32) == 0)

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: DelayedState) -> Window:
        out = stored.everything(context, rows)
        hidden = context.select(out.hidden, 0, start)
        return Window(hidden, DelayedState(out.kv, hidden, rows.tokens))

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: DelayedState) -> Window:
        fresh = stored.with_logit_columns(context, rows.pending | (rows.tokens != state.tokens))
        canvas = context.geometry.canvas
        sizes = [size for size in (canvas // 4, canvas // 2) if size >= SMALLEST] + [canvas + context.shift]
        most = jnp.max(jnp.where(rows.done, 0, jnp.sum(fresh, axis=1)))
        enough = jnp.sum(most > jnp.asarray(sizes)).astype(jnp.int32)

        def read(size: int, state: DelayedState) -> tuple[KV, Array]:
            out, index = stored.picked(context, rows, state.kv, fresh, size)
            return out.kv, stored.renew(context, state.hidden, out.hidden, index, start)

        kv, hidden = jax.lax.switch(enough, [lambda s, n=size: read(n, s) for size in sizes], state)
        return Window(hidden, DelayedState(kv, hidden, rows.tokens))


@cache("delayed", serves=("block", "canvas"), order=70)
def delayed(every: Any = 8) -> DelayedCache:
    """See `DelayedCache`. Raises InputError for every < 1."""
    return DelayedCache(interval(every, "every"))
