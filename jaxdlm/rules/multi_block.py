"""Several blocks at work at once (d3LLM, arXiv 2601.07568)."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.carry import Draft, Row
from jaxdlm.core.compose import NEG_ENTROPY
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.argument import number
from jaxdlm.rules.rank import best
from jaxdlm.typing import Array, Bool, Int32, Key


@struct.dataclass
class MultiBlock(Stage):
    """See `multi_block`. State: how many blocks are open."""

    reads: ClassVar[tuple[str, ...]] = ("token", "score")
    writes: ClassVar[tuple[str, ...] | None] = ("commit",)
    expects: ClassVar[str | None] = NEG_ENTROPY
    view: ClassVar[str] = "canvas"

    tau: Any
    add: Any

    def init(self, window: int, vocab: int) -> Int32[Array, ""]:
        return jnp.int32(1)

    def apply(self, draft: Draft, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Draft, Any]:
        need(draft, "token", "score", rule="multi_block")
        block = row.column // (row.column.shape[0] // row.blocks)
        left = row.pending & row.exists
        state = self.opened(state, left, block, row)
        mine = left & (block < state)
        first = jnp.min(jnp.where(mine, block, row.blocks))
        commit = mine & ((jnp.negative(draft.score) <= self.tau) | best(draft.score, mine, 1))
        idle = ~jnp.any(commit & (block == first))
        return draft._replace(commit=commit | (idle & best(draft.score, mine & (block == first), 1))), state

    def opened(
        self, state: Int32[Array, ""], left: Bool[Array, "W"], block: Int32[Array, "W"], row: Row
    ) -> Int32[Array, ""]:
        """One more block once the last has come far enough, and always the first that is not finished."""
        last = row.exists & (block == state - 1)
        written, columns = (jnp.sum(x).astype(jnp.float32) for x in (last & ~left, last))
        share = written >= jnp.asarray(self.add, jnp.float32) * columns
        ends = jnp.isin(row.tokens, jnp.asarray(row.ids.eos or (-1,), jnp.int32)) & row.exists & ~row.given & ~left
        state = state + (share & ~jnp.any(ends)).astype(jnp.int32)
        return jnp.clip(jnp.maximum(state, row.block + 1), 1, row.blocks)


def multi_block(tau: Any = 0.5, add: Any = 0.1) -> MultiBlock:
    """Commits {i in open blocks : H_i <= tau}, the lowest H_i of all, and of the first unfinished block if it got none.

    Another block opens, one per forward, once a share `add` of the last open one is written; not behind an end-of-text
    token. Reads H off the score: chain it after `sample(measure=neg_entropy)`.
    Args: tau: nats, 0.5 (0.4 to 0.5 in arXiv 2601.07568). add: 0.1; 1: one block after the other, which is dParallel's
    decoder. The paper's second share, from which on a block is "fully active", decides nothing: the first unfinished
    block is so always. The released code also ends the text at its first end-of-text token: chain `stop_at_eos` after
    it. Made for weights distilled on incomplete left context. Raises InputError for tau or add < 0.
    """
    return MultiBlock(number(tau, "tau", low=0), number(add, "add", low=0))
