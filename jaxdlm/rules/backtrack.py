"""More columns at a time as the text grows sure, and the most doubtful of them masked again (Saber, arXiv 2510.18165)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Key


class Trust(NamedTuple):
    """Of the block."""

    then: Float32[Array, "W"]  # probability of a column's token when it was written
    ever: Bool[Array, "W"]  # columns that were written, masked again or not
    last: Float32[Array, "W"]  # probability of the best token at the forward before; 0: there was none


@struct.dataclass
class SelectAndBacktrack(Stage):
    """See `select_and_backtrack`. State: `Trust`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit", "reopen"), expects=LOG_PROB)

    least: Any
    mu: Any
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return self.declares._replace(official=self.official)

    def init(self, window: int, vocab: int) -> Trust:
        return Trust(jnp.zeros(window), jnp.zeros(window, bool), jnp.zeros(window))

    def apply(self, update: Update, state: Trust, row: Row, key: Key[Array, ""]) -> tuple[Update, Trust]:
        need(update, "token", "score", rule="select_and_backtrack")
        blank = self.init(row.open.shape[0], 0)
        state = jax.tree.map(lambda new, old: jnp.where(row.tick == 0, new, old), blank, state)
        p, own = jnp.exp(update.score), row.active & ~row.prefilled
        least, masks = jnp.asarray(self.least, jnp.int32), jnp.sum(row.open).astype(jnp.int32)
        sure = row.open & (p > self.mean(state, own & ~row.pending))
        write = jnp.where(jnp.sum(sure) >= least, sure, best_columns(update.score, row.open, least))
        count = jnp.sum(write).astype(jnp.int32)
        back = jnp.minimum(jnp.maximum(least // 2, -(-count // jnp.asarray(self.mu, jnp.int32))), count - 1)
        back = jnp.where(masks == count, 0, back)  # nothing is left: the block is finished
        written = (own & ~row.pending) | write
        again = best_columns(state.last - p, written, back)
        new = Trust(jnp.where(write, p, state.then), state.ever | write, p)
        return update._replace(commit=write & ~again, reopen=again & ~row.pending), new

    def mean(self, state: Trust, written: Bool[Array, "W"]) -> Float32[Array, ""]:
        """Of the probabilities with which columns were written; 1 where none is."""
        counted = state.ever if self.official else written
        total = jnp.sum(jnp.where(counted, state.then, 0.0))
        number = jnp.sum(counted).astype(jnp.float32)
        return jnp.where(number > 0, total / jnp.maximum(number, 1.0), 1.0)


def select_and_backtrack(least: Any = 2, mu: Any = 8, *, official: bool = False) -> SelectAndBacktrack:
    """Commits D = {i open : p_i > mean of p when written}, at least the n surest, then masks r of the written ones again.

    r = min(max(n // 2, ceil(|D| / mu)), |D| - 1), those whose best token's probability fell most since the forward before;
    none once no mask is left. r < |D|, so that a block of K columns takes at most K forwards.
    Args:
        least: n, 2. mu: 8. Both as released with arXiv 2510.18165; the paper has r = max(1, floor(|D| / mu)).
        official: the mean goes over columns that were masked again, too.
    Departures from released code: a block begins afresh and only its own columns are masked again (the release is run
    with one block); with fewer than n masks left it writes those, where the release writes others over. Raises
    InputError for least or mu < 1.
    """
    least = argument.number(least, "least", low=1, high=argument.COLUMNS, whole=True)
    mu = argument.number(mu, "mu", low=1, high=argument.COLUMNS, whole=True)
    return SelectAndBacktrack(least, mu, argument.flag(official, "official"))
