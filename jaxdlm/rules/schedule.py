"""Fixed numbers of commits per forward: LLaDA's uniform split, Dream's time grid."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.keys import column_gumbel, column_uniform
from jaxdlm.core.rule import Stage, need
from jaxdlm.core.temperature import divisor_of, is_cold, scale_logits
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class SelectTopK(Stage):
    """See `select_top_k`. State: open columns when the block began."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",))

    steps: Any = None

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(0)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_top_k")
        masks = jnp.where(row.tick == 0, jnp.sum(row.open), state).astype(jnp.int32)
        if self.steps is None:
            return update._replace(commit=best_columns(update.score, row.open, 1)), masks
        per_block = jnp.maximum(jnp.asarray(self.steps, jnp.int32) // row.blocks, 1)
        k = masks // per_block + (row.tick < masks % per_block).astype(jnp.int32)
        return update._replace(commit=best_columns(update.score, row.open, jnp.maximum(k, 1))), masks


def select_top_k(steps: Any = None) -> SelectTopK:
    """Commits the k_i best open columns: k_i = m // S + [i < m mod S], m masks at block start, S = steps / blocks.

    Args: steps: forwards in all, over all blocks, as in LLaDA's generate (arXiv 2502.09992); default one column per
    forward. Departure from official code: a block ends once it is written; the official loop goes on with empty
    forwards when S > m. Raises InputError for steps outside 1..65536.
    """
    return SelectTopK(argument.steps(steps))


@struct.dataclass
class SelectOnGrid(Stage):
    """See `select_on_grid`. State: open columns when the block began."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",))

    steps: Any
    eps: Any
    alg_temp: Any = None
    bernoulli: bool = struct.field(pytree_node=False, default=False)

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(0)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_on_grid")
        masks = jnp.where(row.tick == 0, jnp.sum(row.open), state).astype(jnp.int32)
        total = masks if self.steps is None else jnp.maximum(jnp.asarray(self.steps, jnp.int32) // row.blocks, 1)
        steps = total.astype(jnp.float32)
        at, last = row.tick.astype(jnp.float32), row.tick >= total - 1
        slope = (self.eps - 1.0) / steps
        t, s = 1.0 + slope * at, 1.0 + slope * (at + 1.0)
        share = 1.0 - s / t
        left = jnp.sum(row.open)
        if self.bernoulli:
            chance = jnp.where(last, 1.0, share)
            return update._replace(commit=row.open & (column_uniform(key, row.position) < chance)), masks
        k = jnp.where(last, left, jnp.floor(left.astype(jnp.float32) * share).astype(jnp.int32))
        score = update.score
        if self.alg_temp is not None:
            noise = column_gumbel(jax.random.fold_in(key, 2), row.position, 1)[:, 0]
            drawn = scale_logits(jnp.where(row.open, score, -jnp.inf), divisor_of(self.alg_temp)) + noise
            score = jnp.where(is_cold(self.alg_temp), score, drawn)
        return update._replace(commit=best_columns(score, row.open, k)), masks

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        if self.steps is None:
            return geometry.canvas
        return jnp.maximum(jnp.asarray(self.steps, jnp.int32), geometry.blocks)


def select_on_grid(
    steps: Any = None, *, eps: Any = 1e-3, alg_temp: Any = None, bernoulli: bool = False
) -> SelectOnGrid:
    """Commits k_i = floor(n (1 - t_{i+1} / t_i)) of n open columns, all at the last step; t_i = 1 + (eps - 1) i / S.

    Args:
        steps: S, over all blocks; default one per column. eps: 1e-3 (arXiv 2508.15487).
        alg_temp: k draws without replacement from softmax(score / alg_temp) instead of the k best; 0 to 1e30, 0 below
            1e-8.
        bernoulli: each open column commits on its own with that probability ("origin").
    k_i can be 0, and that forward counts. Departure from official code: n counts the row's own masks, not the mean of
    the batch. Raises InputError for steps outside 1..65536, eps outside [0, 1] or alg_temp outside 0..1e30.
    """
    alg_temp = argument.temperature(alg_temp, "alg_temp", none=True)
    eps, bernoulli = argument.probability(eps, "eps"), argument.flag(bernoulli, "bernoulli")
    return SelectOnGrid(argument.steps(steps), eps, alg_temp, bernoulli)
