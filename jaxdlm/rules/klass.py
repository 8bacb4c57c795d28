"""Columns whose whole distribution has come to rest (KLASS, arXiv 2511.05664)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Float32, Key

DEEPEST = 64  # forwards that are remembered
TINY = 1e-12  # inside both logarithms, as released


class Past(NamedTuple):
    p: Float32[Array, "W V"]  # distributions of the forward before; 0: there was none
    kl: Float32[Array, "H W"]  # divergences of the last forwards, newest first; infinite: not known


@struct.dataclass
class SelectConverged(Stage):
    """See `select_converged`. State: `Past`."""

    declares: ClassVar[Traits] = Traits(reads=("logits", "token", "score"), writes=("commit",), expects=LOG_PROB)

    tau: Any
    eps: Any
    history: int = struct.field(pytree_node=False, default=2)
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return self.declares._replace(view="canvas" if self.official else "block", official=self.official)

    def init(self, window: int, vocab: int) -> Past:
        return Past(jnp.zeros((window, vocab), jnp.float32), jnp.full((self.history, window), jnp.inf))

    def apply(self, update: Update, state: Past, row: Row, key: Key[Array, ""]) -> tuple[Update, Past]:
        need(update, "token", "score", rule="select_converged")
        first = row.tick == 0
        past = (
            state if self.official else jax.tree.map(lambda new, old: jnp.where(first, new, old), empty(state), state)
        )
        p = jax.nn.softmax(update.logits.astype(jnp.float32), axis=1)
        kl = jnp.maximum(jnp.sum(p * (jnp.log(p + TINY) - jnp.log(past.p + TINY)), axis=1), 0.0)  # rounding falls below
        known = jnp.asarray(True) if self.official else ~first
        recent = jnp.concatenate([jnp.where(known, kl, jnp.inf)[None], past.kl])[: self.history]
        waited = row.tick >= self.history - 1  # holds by itself where a block begins without a past
        sure = row.open & waited & jnp.all(recent < self.eps, axis=0) & (jnp.exp(update.score) > self.tau)
        commit = jnp.where(jnp.any(sure), sure, best_columns(update.score, row.open, 1))
        return update._replace(commit=commit), Past(p, recent)


def empty(past: Past) -> Past:
    return Past(jnp.zeros_like(past.p), jnp.full_like(past.kl, jnp.inf))


def select_converged(tau: Any = 0.9, eps: Any = 0.01, history: int = 2, *, official: bool = False) -> SelectConverged:
    """Commits {i open : p_i > tau, KL(P_i^t || P_i^(t-1)) < eps in each of the last H forwards}, else the surest.

    P_i^t: the distribution of column i at forward t of the block. A model whose prediction of a column no longer moves
    has taken all the context into account that it will.
    Args:
        tau: 0.9 (released default; 0.6 to 0.9 by task in arXiv 2511.05664). eps: nats, 0.01 (0.001 to 0.015 there).
        history: H = 2 (paper), a shape.
        official: as released, divergences go on from block to block, so that a column may be ready from forward H - 1
            of a block on and not from H on. Sees the whole canvas.
    State: 4 W V bytes, 32 MB for a block of 64 columns and 126,000 words. Departures from released code: divergences
    are of the model's own distributions, not of those with noise at temperature > 0, and float32. Raises InputError for
    tau outside [0, 1], eps < 0 or history outside 1..64.
    """
    history = argument.whole(1, DEEPEST)(history, "history")
    return SelectConverged(
        argument.probability(tau, "tau"), argument.nats(eps, "eps"), history, argument.flag(official, "official")
    )
