"""ReCAP: local forwards over the targets of the next commits, on the context features of the last full one."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.caches import stored
from jaxdlm.caches.interval import count, interval
from jaxdlm.core.cache import Context, Refreshing
from jaxdlm.core.carry import Rows, Window
from jaxdlm.core.model import KV
from jaxdlm.core.readout import Readout, summarise
from jaxdlm.registry import cache
from jaxdlm.typing import Array, Bool, Float, Int32


class Group(NamedTuple):
    kv: KV
    hidden: Float[Array, "B W D"]  # of the window, from the full forward
    target: Bool[Array, "B L"]


@struct.dataclass
class RecapCache(Refreshing):
    """A full forward, then `local` forwards over its targets S alone; keys of all other columns are those of the full
    forward (ReCAP, arXiv 2505.19089, there for image generators; on text its quality is not known).

    S = the `targets` surest open columns of the block at the full forward (None: all of them), sure by the largest
    probability. Columns outside S keep their hidden rows, so a rule may still choose them, as it would have then.
    Stale: everything but S. A step costs |S| tokens (as many again with `next` prediction, whose left neighbours hold
    their logits). State: keys and values of L columns, and W hidden rows. With `targets` a full forward reads the head
    once more, tile by tile.

    local: u, local forwards per full one (1 in the paper); 0 is no cache. warmup: full forwards at the beginning of a
    row (`pre_full`: about a third of all for MaskGIT, half for MAR; default 0).
    Departure from official code: there the host's noisy ranking fixes S and the order of its commits; here the policy
    decides again in each local forward.
    """

    recomputes_all: ClassVar[bool] = False
    window: ClassVar[str] = "canvas"
    versions: ClassVar[bool] = False
    local: Any = 1
    warmup: Any = 0
    targets: int | None = struct.field(pytree_node=False, default=None)

    def init(self, context: Context, rows: Rows) -> Group:
        blank = stored.blank(context, rows)
        return Group(blank.kv, blank.hidden[:, : context.width], rows.pending)

    def due(self, rows: Rows) -> Bool[Array, "B"]:
        group = jnp.asarray(self.local, jnp.int32) + 1
        return (rows.tick % group == 0) | (rows.step < jnp.asarray(self.warmup, jnp.int32))

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Group) -> Window:
        out = stored.everything(context, rows)
        hidden = context.select(out.hidden, 0, start)
        return Window(hidden, Group(out.kv, hidden, self.choose(context, rows, hidden, start)))

    def choose(
        self, context: Context, rows: Rows, hidden: Float[Array, "B W D"], start: Int32[Array, "B"]
    ) -> Bool[Array, "B L"]:
        """S, as columns."""
        geometry = context.geometry
        block = geometry.prompt + geometry.block * rows.block
        chosen = rows.pending & stored.span(context, block, geometry.block)
        if self.targets is None or self.targets >= geometry.block:
            return chosen
        # the largest probability is 1 / (1 + rest)
        summary = jax.vmap(lambda h: summarise(Readout(h, None, context.params, context.model)))(hidden)
        doubt = jax.vmap(lambda x, at: jax.lax.dynamic_update_slice_in_dim(jnp.zeros(geometry.length), x, at, 0))(
            summary.rest, start
        )
        place = jnp.argsort(jnp.argsort(jnp.where(chosen, doubt, jnp.inf), axis=1, stable=True), axis=1)
        return chosen & (place < self.targets)

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Group) -> Window:
        block = context.geometry.block
        most = block if self.targets is None else min(self.targets, block)
        fresh = stored.with_logit_columns(context, state.target)
        size = min(most * (1 + context.shift), block + context.shift)
        out, index = stored.picked(context, rows, state.kv, fresh, size)
        return Window(stored.renew(context, state.hidden, out.hidden, index, start), state)


@cache("recap", serves=("block", "canvas"), order=90)
def recap(local: Any = 1, targets: int | None = None, warmup: Any = 0) -> RecapCache:
    """See `RecapCache`. Raises InputError for a negative number of forwards, or targets < 1."""
    targets = targets if targets is None else count(targets, "targets", 1)
    return RecapCache(interval(local, "local", 0), interval(warmup, "warmup", 0), targets)
