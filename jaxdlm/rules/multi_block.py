"""Several blocks at work at once (d3LLM, arXiv 2601.07568)."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row, Status, Update
from jaxdlm.core.compose import NEG_ENTROPY, Traits
from jaxdlm.core.rule import Stage, need
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Int32, Key


class Progress(NamedTuple):
    blocks: Int32[Array, ""]  # open ones
    filled: Bool[Array, "W"]  # columns that the end of the text has just filled: the released code takes them for open


@struct.dataclass
class MultiBlock(Stage):
    """See `multi_block`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "score"), expects=NEG_ENTROPY, view="canvas")

    tau: Any
    add: Any
    early_stop: bool = struct.field(pytree_node=False, default=True)
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        ends = self.official and self.early_stop
        writes = ("commit", "token", "fill", "halt", "status") if ends else ("commit",)
        return self.declares._replace(writes=writes, official=self.official)

    def init(self, window: int, vocab: int) -> Progress:
        return Progress(jnp.int32(1), jnp.zeros(window, bool))

    def apply(self, update: Update, state: Progress, row: Row, key: Key[Array, ""]) -> tuple[Update, Progress]:
        need(update, "token", "score", rule="multi_block")
        block = row.column // (row.column.shape[0] // row.blocks)
        left = row.pending & row.exists
        ends = row.ids.eos[:1] if self.official else row.ids.eos
        blocks = opened(state.blocks, left, block, row, self.add, ends if self.early_stop else None)
        commit = self.chosen(update.score, left & (block < blocks), state.filled, block, row)
        if not (self.official and self.early_stop):
            return update._replace(commit=commit), state._replace(blocks=blocks)
        update, filled = ended(update, commit, left, state.filled, row)
        return update, Progress(blocks, filled)

    def chosen(
        self, score: Array | None, mine: Bool[Array, "W"], filled: Bool[Array, "W"], block: Int32[Array, "W"], row: Row
    ) -> Bool[Array, "W"]:
        """Among the open columns `mine`, and those that the released code takes for open."""
        entropy, seen = jnp.negative(score), mine | filled
        here = seen & (block == jnp.min(jnp.where(mine, block, row.blocks)))
        if self.official and row.shifted:
            commit = seen & (entropy < self.tau)
        else:
            commit = seen & ((entropy <= self.tau) | best_columns(score, seen, 1))
        return commit | (~jnp.any(commit & here) & best_columns(score, here, 1))


def opened(
    blocks: Int32[Array, ""], left: Bool[Array, "W"], block: Int32[Array, "W"], row: Row, add: Any,
    ends: tuple[int, ...] | None,
) -> Int32[Array, ""]:  # fmt: skip
    """One more block once a share `add` of the last is written, and always the first that is not finished.

    ends: no other block opens once one of these is written; None: whatever is written.
    """
    last = row.exists & (block == blocks - 1)
    written, columns = (jnp.sum(x).astype(jnp.float32) for x in (last & ~left, last))
    more = written >= jnp.asarray(add, jnp.float32) * columns
    if ends is not None:
        more = more & ~jnp.any(at_end(row.tokens, row, ends) & ~left)
    return jnp.clip(jnp.maximum(blocks + more.astype(jnp.int32), row.block + 1), 1, row.blocks)


def at_end(tokens: Int32[Array, "W"], row: Row, ends: tuple[int, ...]) -> Bool[Array, "W"]:
    """Columns of the row's own text that hold one of the tokens `ends`."""
    return jnp.isin(tokens, jnp.asarray(ends or (-1,), jnp.int32)) & row.exists & ~row.prefilled


def ended(
    update: Update, commit: Bool[Array, "W"], left: Bool[Array, "W"], filled: Bool[Array, "W"], row: Row
) -> tuple[Update, Bool[Array, "W"]]:
    """(the update with end of text in every column behind the first one, the open columns that this fills).

    Written tokens there are replaced. In a forward that leaves nothing open none of this happens, and columns that the
    forward before has filled take what the model proposes for them now.
    """
    written = commit & left
    rest = left & ~written
    going = jnp.any(rest)
    text = jnp.where(written, update.token, row.tokens)
    ends = (at_end(text, row, row.ids.eos[:1]) & ~rest).astype(jnp.int32)  # the release knows one
    behind = (jnp.cumsum(ends) > ends) & row.exists & ~row.prefilled & going
    over = going & ~jnp.any(rest & ~behind)
    end = jnp.int32(row.ids.eos[0] if row.ids.eos else row.ids.pad)
    refilled = jnp.where(commit & filled & ~going, update.token, row.tokens)
    update = update._replace(
        token=jnp.where(behind, end, update.token),
        commit=written | (rest & behind),
        fill=jnp.where(behind, end, refilled),
        halt=over,
        status=jnp.where(over, int(Status.EOS), jnp.asarray(update.status, jnp.int32)),
    )
    return update, rest & behind


def multi_block(tau: Any = 0.5, add: Any = 0.1, *, early_stop: bool = True, official: bool = False) -> MultiBlock:
    """Commits {i in open blocks : H_i <= tau}, the lowest H_i of all, and of the first unfinished block if it got none.

    Another block opens, one per forward, once a share `add` of the last open one is written. Reads H off the score:
    chain it after `sample(measure=neg_entropy)`.
    Args:
        tau: nats, 0.5 (0.4 to 0.5 in arXiv 2601.07568).
        add: 0.1; 1: one block after the other, which is dParallel's decoder.
        early_stop: no block opens once an end-of-text token is written. False: blocks go on opening.
        official: as released for the family of the model that decodes. For models that predict the next token (Dream):
            H < tau, and no lowest of all. With early_stop: from the next forward on every column behind the first
            end-of-text token (the first id of the model's, no other) holds one, written or not, although columns
            before it may still be open; that forward also takes the columns so filled for open ones, so that they can
            count as the lowest, and, if it leaves nothing open, keep its tokens behind the end of the text.
    The paper's second share, from which on a block is "fully active", decides nothing: the first unfinished block is so
    always. Departures from released code: shares and entropies in float32; a row that the end of text finishes takes no
    part in another forward, where the released counter adds one without a forward. Made for weights distilled on
    incomplete left context. Raises InputError for tau < 0 or add outside [0, 1].
    """
    early_stop, official = argument.flag(early_stop, "early_stop"), argument.flag(official, "official")
    return MultiBlock(argument.nats(tau, "tau"), argument.probability(add, "add"), early_stop, official)
