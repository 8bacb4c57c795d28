"""Commit every column that is sure enough, and always the surest (Fast-dLLM, arXiv 2505.22618)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns, ranks
from jaxdlm.typing import Array, Key


@struct.dataclass
class SelectAbove(Stage):
    """See `select_above`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    tau: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_above")
        sure = jnp.exp(update.score) >= self.tau
        return update._replace(commit=row.open & (sure | best_columns(update.score, row.open, 1))), state


def select_above(tau: Any = 0.9) -> SelectAbove:
    """Commits {i open : p_i >= tau} and the open column with the highest p_i.

    Args: tau: probability; 0.9 in arXiv 2505.22618. 0: the whole block at once; 1: only what is certain in float32.
    Raises InputError for tau outside [0, 1].
    """
    return SelectAbove(argument.probability(tau, "tau"))


@struct.dataclass
class SelectWithinFactor(Stage):
    """See `select_within_factor`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    f: Any
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return self.declares._replace(official=self.official)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_within_factor")
        rank = ranks(update.score, row.open)
        doubt = -jnp.expm1(update.score)  # 1 - p without cancellation
        place = (rank + 1).astype(jnp.float32)
        masks = jnp.sum(row.open)
        if self.official:
            passing = row.open & ((1.0 - doubt >= 1.0 - self.f / (place + 1.0)) | (rank == 0))
        else:
            passing = row.open & ((place + 1.0) * doubt < self.f)
        failing = jnp.where(row.open & ~passing, rank, masks)
        count = jnp.maximum(jnp.min(failing), 1)
        if self.official:
            count = jnp.where(count == masks - 1, masks, count)
        return update._replace(commit=row.open & (rank < count)), state


def select_within_factor(f: Any = 1.0, *, official: bool = False) -> SelectWithinFactor:
    """Commits the n surest open columns, n the largest with (n + 1)(1 - p_(n)) < f, at least 1.

    Args:
        f: 1.0, the default of the released code (arXiv 2505.22618).
        official: the released code's rule, p_(n) >= 1 - f / (n + 1), which takes the last column along whenever it
            alone fails. Default: the paper's.
    Raises InputError for f < 0.
    """
    return SelectWithinFactor(argument.number(f, "factor", low=0), argument.flag(official, "official"))
