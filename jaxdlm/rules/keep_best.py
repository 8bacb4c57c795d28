"""A growing number of columns stays written, and they are chosen anew in every forward (P2, arXiv 2502.03540; RCR)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, LogitsAccess, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.readout import gathered, incoming
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.rules.sample import SUMMARISED, log_prob
from jaxdlm.typing import Array, Float32, Int32, Key

JUDGES = ("token", "proposal", "record")


class Judged(NamedTuple):
    """Of the block."""

    columns: Int32[Array, ""]  # open ones when it began
    then: Float32[Array, "W"]  # log-probability of a column's token when it was written


def share_left(columns: Int32[Array, ""], tick: Int32[Array, ""], steps: Int32[Array, ""]) -> Int32[Array, ""]:
    """floor(n (S - 1 - i) / S), the masks that are left after forward i of S; without numbers above 2^32."""
    after = jnp.maximum(steps - 1 - tick, 0)
    whole, part = columns // steps, (columns % steps).astype(jnp.uint32)
    return whole * after + (part * after.astype(jnp.uint32) // steps.astype(jnp.uint32)).astype(jnp.int32)


@struct.dataclass
class KeepBest(Stage):
    """See `keep_best`. State: `Judged`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit", "reopen"), expects=LOG_PROB)

    steps: Any = None
    eta: Any = 1.0
    judge: str = struct.field(pytree_node=False, default="token")

    @property
    def traits(self) -> Traits:
        if self.judge != "token":
            return self.declares
        return self.declares._replace(reads=("logits", "token", "score"), access=LogitsAccess.TILES)

    def init(self, window: int, vocab: int) -> Judged:
        return Judged(jnp.int32(0), jnp.zeros(window))

    def apply(self, update: Update, state: Judged, row: Row, key: Key[Array, ""]) -> tuple[Update, Judged]:
        need(update, "token", "score", rule="keep_best")
        columns = jnp.where(row.tick == 0, jnp.sum(row.open), state.columns).astype(jnp.int32)
        steps = columns if self.steps is None else jnp.asarray(self.steps, jnp.int32) // row.blocks
        left = share_left(columns, row.tick, jnp.maximum(steps, 1))
        written = row.active & ~row.pending & ~row.prefilled
        trust = jnp.where(jnp.asarray(self.eta) == 0, jnp.inf, self.eta * self.judged(update, state, row))
        score = jnp.where(row.open, update.score, trust)
        stays = best_columns(score, row.open | written, columns - left)
        commit = row.open & stays
        then = jnp.where(commit, update.score, state.then)
        return update._replace(commit=commit, reopen=written & ~stays), Judged(columns, then)

    def judged(self, update: Update, state: Judged, row: Row) -> Float32[Array, "W"]:
        """Log-probabilities that written columns are ranked by."""
        if self.judge == "record":
            return state.then
        if self.judge == "proposal":
            return jnp.asarray(update.score)
        summary, own = gathered(incoming(update), row.tokens[:, None])
        return SUMMARISED[log_prob](summary._replace(own=own[:, 0]))

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        if self.steps is None:
            return geometry.canvas
        return jnp.maximum(jnp.asarray(self.steps, jnp.int32), geometry.blocks)


def keep_best(steps: Any = None, eta: Any = 1.0, *, judge: str = "token") -> KeepBest:
    """After forward i the m_i = n - floor(n (S - 1 - i) / S) best of the block's n columns are written, all others masks.

    Masks are ranked by log p of their proposal, written columns by eta times a log-probability. A written column that
    stays keeps its token.
    Args:
        steps: forwards in all, S = steps / blocks; default one column per forward.
        eta: 1. 0: nothing is masked again. Above 1: more is (arXiv 2502.03540).
        judge: what written columns are ranked by: "token", the model's present log p of it; "proposal", that of what it
            would propose there now (the released code of 2502.03540); "record", that of the token when it was written
            (RCR, arXiv 2508.13148).
    The network sees the token that it judges, so that written columns look surer than they would as masks. Raises
    InputError for steps outside 1..65536, eta outside 0..1000, or another word.
    """
    eta = argument.number(eta, "eta", low=0, high=1000)
    return KeepBest(argument.steps(steps), eta, argument.check_choice(judge, "judge", JUDGES))
