"""A lower threshold near columns that are already sure (LocalLeap, arXiv 2510.07081)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Int32, Key


def near(anchor: Bool[Array, "W"], radius: Int32[Array, ""] | int) -> Bool[Array, "W"]:
    """Columns at most `radius` away from an anchor, the anchor included. Two scans, so that radius may be traced."""
    width = anchor.shape[0]
    at = jnp.arange(width, dtype=jnp.int32)
    far = jnp.int32(jnp.iinfo(jnp.int32).max // 4)
    left = jax.lax.cummax(jnp.where(anchor, at, -far))
    right = jax.lax.cummin(jnp.where(anchor, at, far), reverse=True)
    return jnp.minimum(at - left, right - at) <= jnp.asarray(radius, jnp.int32)


@struct.dataclass
class SelectNearAnchors(Stage):
    """See `select_near_anchors`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    kappa: Any
    tau: Any
    radius: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_near_anchors")
        p = jnp.exp(update.score)
        close = near(row.open & (p >= self.kappa), self.radius)
        sure = p >= jnp.where(close, self.tau, self.kappa)
        return update._replace(commit=row.open & (sure | best_columns(update.score, row.open, 1))), state


def select_near_anchors(kappa: Any = 0.9, tau: Any = 0.75, radius: Any = 4) -> SelectNearAnchors:
    """Commits {i open : p_i >= (tau if an anchor is at most radius away, else kappa)} and the surest open column.

    Anchors are the open columns with p >= kappa at this forward; what their neighbours commit makes no new anchors.
    Args:
        kappa: probability of an anchor, 0.9 in arXiv 2510.07081. tau: probability for its neighbours, 0.75 there for
            LLaDA-8B. radius: columns, 4 there; 0 with tau <= kappa is `select_above(kappa)`.
    tau >= kappa is `select_above(tau)`: an anchor below tau does not commit itself. No departure from the released code
    but for float32 probabilities. Raises InputError for kappa or tau outside [0, 1], or radius < 0.
    """
    radius = argument.number(radius, "radius", low=0, high=argument.COLUMNS, whole=True)
    return SelectNearAnchors(argument.probability(kappa, "kappa"), argument.probability(tau, "tau"), radius)
