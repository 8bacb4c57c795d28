"""Blocks that follow each other at a distance, each by its own threshold (D2F, arXiv 2508.09192)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.multi_block import opened
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class SelectInPipeline(Stage):
    """See `select_in_pipeline`. State: open blocks."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), writes=("commit",), expects=LOG_PROB, view="canvas")

    tau: Any
    add: Any
    full: Any
    early_stop: bool = struct.field(pytree_node=False, default=True)

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(0)  # the first forward opens the first

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="select_in_pipeline")
        per_block = lambda x: x.reshape(row.blocks, -1)  # noqa: E731
        block = row.column // (row.column.shape[0] // row.blocks)
        left = row.pending & row.exists
        blocks = opened(state, left, block, row, self.add, row.ids.eos if self.early_stop else None)
        written, columns = (jnp.sum(per_block(x), 1).astype(jnp.float32) for x in (row.exists & ~left, row.exists))
        ready = written >= jnp.asarray(self.full, jnp.float32) * columns
        full = jnp.concatenate([jnp.ones(1, bool), ready[:-1]])  # by the block before
        mine = per_block(left & (block < blocks))
        score = jnp.where(mine, per_block(update.score), -jnp.inf)
        sure = mine & (jnp.exp(score) > self.tau)
        best = jnp.arange(mine.shape[1])[None] == jnp.argmax(score, axis=1)[:, None]
        commit = sure | (mine & best & (full & ~jnp.any(sure, axis=1))[:, None])
        return update._replace(commit=commit.reshape(-1)), blocks


def select_in_pipeline(
    tau: Any = 0.9, add: Any = 0.1, full: Any = 0.95, *, early_stop: bool = True
) -> SelectInPipeline:
    """Commits {i in open blocks : p_i > tau}, and the surest of a block that has none, once a share `full` of the one before
    is written.

    Another block opens, one per forward, once a share `add` of the last open one is written. The first unfinished block
    always writes a column.
    Args:
        tau: 0.9 (0.95 for some tasks in arXiv 2508.09192). add: 0.1 (0.1 to 0.9 by task there). full: 0.95 (paper).
            add = full = 1: one block after the other, by a threshold.
        early_stop: no block opens once an end-of-text token is written (released); False: blocks go on opening.
    Made for weights distilled on incomplete left context, with block-causal attention. No departure from released code.
    Raises InputError for a number outside [0, 1].
    """
    return SelectInPipeline(
        argument.probability(tau, "tau"), argument.probability(add, "add"), argument.probability(full, "full"),
        argument.flag(early_stop, "early_stop"),
    )  # fmt: skip
