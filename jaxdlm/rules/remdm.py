"""A written block is looked at again, its least sure tokens masked one after the other (ReMDM, arXiv 2503.00307)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need, times
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Float32, Int32, Key


class Written(NamedTuple):
    """Of the block."""

    columns: Int32[Array, ""]  # open ones when it began
    then: Float32[Array, "W"]  # log-probability of a column's token when it was written


@struct.dataclass
class SelectAndRevisit(Stage):
    """See `select_and_revisit`. State: `Written`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit", "reopen"), expects=LOG_PROB)

    steps: Any = None
    again: Any = 1

    def init(self, window: int, vocab: int) -> Written:
        return Written(jnp.int32(0), jnp.zeros(window))

    def apply(self, update: Update, state: Written, row: Row, key: Key[Array, ""]) -> tuple[Update, Written]:
        need(update, "token", "score", rule="select_and_revisit")
        columns = jnp.where(row.tick == 0, jnp.sum(row.open), state.columns).astype(jnp.int32)
        share = columns if self.steps is None else jnp.asarray(self.steps, jnp.int32) // row.blocks
        steps, again = jnp.clip(share, 1, jnp.maximum(columns, 1)), jnp.asarray(self.again, jnp.int32)
        begin = 7 * steps // 8
        end = begin + steps  # of the forwards that revisit
        inside = lambda tick: (tick >= begin) & (tick < end) & (again > 0)  # noqa: E731
        now = row.tick
        ordinary = now - jnp.where(now >= end, steps, 0)
        count = columns // steps + (ordinary < columns % steps).astype(jnp.int32)
        commit = best_columns(update.score, row.open, jnp.where(inside(now), again, jnp.maximum(count, 1)))
        then = jnp.where(commit, update.score, state.then)
        mine = (row.active & ~row.pending & ~row.prefilled) | commit
        masked = best_columns(-then, mine, jnp.where(inside(now + 1), again, 0))
        return update._replace(commit=commit & ~masked, reopen=masked & ~row.pending), Written(columns, then)

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        if self.steps is None:
            return times(2, geometry.canvas)
        return times(2, jnp.maximum(jnp.asarray(self.steps, jnp.int32), geometry.blocks))


def select_and_revisit(steps: Any = None, again: Any = 1) -> SelectAndRevisit:
    """Commits the k best open columns in S forwards of a block; before the last eighth, S forwards revisit what stands.

    A forward that revisits is preceded by masking the q written columns of the block with the lowest p when written, and
    commits the q best. 2 S forwards a block; a column that is masked again may get the same token.
    Args:
        steps: forwards over all blocks, without those that revisit; S = steps / blocks, k = K / S; default one column
            per forward. again: q, 1 (released). 0: none.
    The form of arXiv 2503.00307 for LLaDA (guanghanwang/ReMDM-LLaDA). Departures from released code: the revisit begins
    at forward 7 S // 8, where the release counts as if k were 1; forwards without masks are left out. Raises InputError
    for steps outside 1..65536 or again < 0.
    """
    again = argument.number(again, "again", low=0, high=argument.COLUMNS, whole=True)
    return SelectAndRevisit(argument.steps(steps), again)
