"""The surest column of every run of masks (hierarchical decoding, dInfer, arXiv 2510.08666)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Key


def best_of_runs(score: Float32[Array, "W"], can: Bool[Array, "W"]) -> Bool[Array, "W"]:
    """The best column of every maximal run of columns that can be chosen; ties: the lowest."""
    width = can.shape[0]
    run = jnp.cumsum(can & ~jnp.concatenate([jnp.zeros(1, bool), can[:-1]]))
    top = jax.ops.segment_max(jnp.where(can, score, -jnp.inf), run, width + 1)
    at = jnp.where(can & (score == top[run]), jnp.arange(width), width)
    return at == jax.ops.segment_min(at, run, width + 1)[run]


@struct.dataclass
class SelectByRuns(Stage):
    """See `select_by_runs`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    tau: Any
    low: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_by_runs")
        p = jnp.exp(update.score)
        apart = best_of_runs(update.score, row.open) & (p > self.low)
        commit = row.open & (apart | (p > self.tau) | best_columns(update.score, row.open, 1))
        return update._replace(commit=commit), state


def select_by_runs(tau: Any = 0.92, low: Any = 0.62) -> SelectByRuns:
    """Commits {i open : p_i > tau}, the surest of every run of neighbouring masks if its p > low, and the surest of all.

    What is written splits a run in two, so that the masks left lie further and further apart.
    Args: tau, low: 0.92 and 0.62, as in the evaluation of dInfer (arXiv 2510.08666); its decoder's default is low = 0.4.
    Departure from its code: of two columns of a run with equal p the lower one, not both. Raises InputError for tau or
    low outside [0, 1].
    """
    return SelectByRuns(argument.probability(tau, "tau"), argument.probability(low, "low"))
