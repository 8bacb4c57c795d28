"""Columns far apart first, then those between them (DUS, arXiv 2506.19037)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.typing import Array, Int32, Key


def rounds(row: Row, base: Any) -> Int32[Array, "W"]:
    """r_k = min {t >= 1 : k mod max(1, K // base^t) = 0} of column k of the row's block, K columns.

    K and k count the block's columns, wherever the window begins. Ends of a row's canvas shorten its last block.
    """
    columns = jnp.sum(row.active).astype(jnp.int32)
    place = jnp.arange(row.active.shape[0], dtype=jnp.int32) - jnp.argmax(row.active).astype(jnp.int32)
    stride, number = columns, jnp.zeros_like(place)
    for t in range(1, max(1, (row.active.shape[0] - 1).bit_length()) + 1):  # strides are 1 then, whatever the base
        stride = jnp.maximum(stride // jnp.asarray(base, jnp.int32), 1)
        number = jnp.where((number == 0) & (place % stride == 0), t, number)
    return number


@struct.dataclass
class SelectDilated(Stage):
    """See `select_dilated`. State: the last round."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB)

    base: Any = 2
    theta: Any = 0.0

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(0)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_dilated")
        number = rounds(row, self.base)
        last = jnp.max(jnp.where(row.active, number, 0))
        following = jnp.min(jnp.where(row.open, number, last))  # a round without open columns costs no forward
        now = jnp.maximum(jnp.where(row.tick == 0, 0, state) + 1, following)
        sure = (jnp.exp(update.score) >= self.theta) | (now >= last)
        return update._replace(commit=row.open & (number <= now) & sure), now


def select_dilated(base: Any = 2, theta: Any = 0.0) -> SelectDilated:
    """Commits {i open : r_i <= t, p_i >= theta or t = R} in round t; r_i = min {t : i mod max(1, K // base^t) = 0}.

    i counts from the block's first column, K are its columns, R = max r <= ceil(log_base K). No two neighbours are
    written together before the last round, so that what they depend on is known, at R forwards per block of any model.
    Args:
        base: 2 (arXiv 2506.19037); K: the block at once. theta: 0 (paper); above, columns that are not sure enough wait
            for the next round (0.3 in the released example), and the last round takes all.
    Rounds in which nothing is open (infilling) are skipped. Raises InputError for base < 2 or theta outside [0, 1].
    """
    base = argument.number(base, "base", low=2, high=argument.COLUMNS, whole=True)
    return SelectDilated(base, argument.probability(theta, "theta"))
