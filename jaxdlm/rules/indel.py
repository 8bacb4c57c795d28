"""Write, rewrite, insert and delete inside a block (LLaDA2.2, its technical report and the decoder in SGLang)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import LOG_PROB, Traits
from jaxdlm.core.rule import Stage, need, times
from jaxdlm.rules.rank import best_columns
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

DELETE, INSERT = 156930, 156931  # in LLaDA2.2's vocabulary
LONGEST = 1024  # max_post_steps: as many blocks are remembered


class History(NamedTuple):
    """Of the block: T = W + max_post_steps + 1 forwards at most."""

    first: Bool[Array, "W"]  # masks that stand since the block began; they move with their columns
    post: Int32[Array, ""]  # forwards that found none of these
    count: Int32[Array, ""]  # forwards
    seen: Int32[Array, "T W"]  # the block before each forward, -1: none
    tried: Int32[Array, "T W"]  # what each forward chose per column, -1: nothing


class Choice(NamedTuple):
    token: Int32[Array, "W"]
    write: Bool[Array, "W"]  # masks and tokens that it replaces
    final: Bool[Array, ""]  # the block ends with it


@struct.dataclass
class Indel(Stage):
    """See `indel`. State: `History`."""

    declares: ClassVar[Traits] = Traits(
        reads=("logits", "token", "score"), writes=("token", "commit", "fill", "reopen", "hold"), expects=LOG_PROB
    )

    tau_mask: Any
    tau_edit: Any
    delete: Any = DELETE
    insert: Any = INSERT
    max_post_steps: int = struct.field(pytree_node=False, default=16)

    def init(self, window: int, vocab: int) -> History:
        none = jnp.full((window + self.max_post_steps + 1, window), -1, jnp.int32)
        return History(jnp.zeros(window, bool), jnp.int32(0), jnp.int32(0), none, none)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="indel")
        begun = self.init(row.open.shape[0], 1)._replace(first=row.open)
        state = jax.tree.map(lambda new, old: jnp.where(row.tick == 0, new, old), begun, state)
        own = row.active & ~row.prefilled
        # a column before a prefilled one stays where it is
        last = jnp.max(jnp.where(row.active & row.prefilled, row.column, -1))
        free = own & (row.column > last)
        token, p = self.proposal(update, own & ~free)
        choice, count, post = self.choose(update, token, p, state, row, own)
        block = jnp.where(row.active, row.tokens, -1)
        again = jnp.any(jnp.all(state.seen == block[None], axis=1)) & ~choice.final
        token = self.other(update, choice, p, state, row, again & choice.write.any(), free)
        at = jnp.minimum(state.count, state.seen.shape[0] - 1)
        seen = state.seen.at[at].set(block)
        tried = state.tried.at[at].set(jnp.where(choice.write, token, -1))
        moved, source = self.move(token, choice.write, row, free)
        first = moved.known & state.first[source]
        hold = row.active.any() & choice.write.any() & ~choice.final
        return update._replace(
            token=moved.token, fill=moved.token, commit=row.open & ~moved.pending, reopen=moved.pending, hold=hold
        ), History(first, post, count, seen, tried)

    def editing(self, token: Int32[Array, "..."]) -> Bool[Array, "..."]:
        return (token == self.delete) | (token == self.insert)

    def plain(self, update: Update) -> Int32[Array, "W"]:
        """The best token that neither deletes nor inserts."""
        ids = jnp.arange(update.logits.shape[1], dtype=jnp.int32)
        return jax.lax.argmax(jnp.where(self.editing(ids)[None], -jnp.inf, update.logits), 1, jnp.int32)

    def proposal(self, update: Update, still: Bool[Array, "W"]) -> tuple[Int32[Array, "W"], Float32[Array, "W"]]:
        """The proposals and their probabilities; where nothing may move, of tokens that move nothing."""
        token, score = jnp.asarray(update.token), jnp.asarray(update.score)
        swap, instead = still & self.editing(token), self.plain(update)
        of = lambda ids: jnp.take_along_axis(update.logits, ids[:, None], axis=1)[:, 0]  # noqa: E731
        score = jnp.where(swap, score + of(instead) - of(token), score)
        return jnp.where(swap, instead, token), jnp.exp(score)

    def choose(
        self, update: Update, token: Array, p: Array, state: History, row: Row, own: Bool[Array, "W"]
    ) -> tuple[Choice, Int32[Array, ""], Int32[Array, ""]]:
        """(the choice of this forward, forwards of the block, those without a first mask)."""
        masks, size = row.open, jnp.sum(row.active).astype(jnp.int32)
        standing = state.first & masks
        left, added = jnp.sum(standing), jnp.sum(masks & ~standing)
        most = jnp.int32(self.max_post_steps)
        count, post = state.count + 1, state.post + (left == 0).astype(jnp.int32)
        spent = (post >= most) & (left == 0) if self.max_post_steps == 0 else post >= most
        final = spent | (count > size + most)
        sure = masks & (p > self.tau_mask)
        needed = (1 + added).astype(jnp.int32)
        some = jnp.where(jnp.sum(sure) >= needed, sure, best_columns(p, masks, needed))
        write = jnp.where(final | (left == 0), masks, some)
        if self.max_post_steps == 0:  # the forward that writes the last of the first masks is the last one
            final = final | ~jnp.any(standing & ~write)
            write = jnp.where(final, masks, write)
        change = own & ~row.pending & (p > self.tau_edit) & (token != row.tokens)
        write = write | change
        token = jnp.where(final & write & self.editing(token), self.plain(update), token)
        return Choice(token, write, final), count, post

    def other(
        self, update: Update, choice: Choice, p: Array, state: History, row: Row, again: Array, free: Array
    ) -> Int32[Array, "W"]:
        """In a block that was seen before: at the least sure column that changes, the best token not tried there."""
        changes = choice.write & (choice.token != row.tokens)
        at = jnp.argmin(jnp.where(changes, p, jnp.inf))
        ids = jnp.arange(update.logits.shape[1], dtype=jnp.int32)
        tried = (
            jnp.zeros(ids.shape, bool)
            .at[jnp.where(state.tried[:, at] < 0, ids.shape[0], state.tried[:, at])]
            .set(True, mode="drop")
        )
        barred = tried | (self.editing(ids) & ~free[at])
        fresh = jnp.argmax(jnp.where(barred, -jnp.inf, update.logits[at])).astype(jnp.int32)
        return choice.token.at[at].set(jnp.where(again & changes.any(), fresh, choice.token[at]))

    def move(self, token: Array, write: Array, row: Row, free: Array) -> tuple["Moved", Int32[Array, "W"]]:
        """The columns after deletions and insertions, and where each came from."""
        cut, split = write & free & (token == self.delete), write & free & (token == self.insert)
        size = jnp.where(free, jnp.where(cut, 0, jnp.where(split, 2, 1)), 0)
        begin = jnp.argmax(free)
        # the last place of a column's: an insertion puts a mask before it
        place = jnp.where(free, begin + jnp.cumsum(size) - 1, jnp.arange(free.shape[0])).astype(jnp.int32)
        inside = ~cut & (~free | (place < begin + jnp.sum(free)))
        hit = inside[None, :] & (place[None, :] == jnp.arange(free.shape[0], dtype=jnp.int32)[:, None])  # [to, from]
        source, known = jnp.argmax(hit, axis=1).astype(jnp.int32), hit.any(1)
        text = jnp.where(write & ~split, token, row.tokens)
        open_still = row.open & ~(write & ~split)
        pending = free & (~known | open_still[source]) | (~free & open_still)
        return Moved(jnp.where(known, text[source], row.tokens), pending, known), source

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return times(geometry.blocks, geometry.block + self.max_post_steps + 1)


class Moved(NamedTuple):
    token: Int32[Array, "W"]
    pending: Bool[Array, "W"]
    known: Bool[Array, "W"]  # not a mask that was put in or came after the end


def indel(
    tau_mask: Any = 0.5, tau_edit: Any = 0.0, max_post_steps: int = 16, *, delete: Any = DELETE, insert: Any = INSERT
) -> Indel:
    """Writes masks, rewrites tokens, and takes two proposals as instructions: delete i, or put a mask before i.

    With v_i the proposal, p_i its probability, x_i the column's token, n masks that were inserted or came after the end:
        masks    {i open : p_i > tau_mask} if at least 1 + n, else the 1 + n surest; all, once no first mask is left
        edits    {i written : p_i > tau_edit, v_i != x_i}
        delete   column i goes, what follows it moves left, a mask comes after the end of the block
        insert   a mask stands where i stood, x_i and what follows it move right, the last column is lost
    A block that equals an earlier one gets, at the least sure column that changes, the best token not yet chosen there.
    It
    ends with a forward that changes nothing, or with its last one: forward max_post_steps of those that found no
    first mask, or forward K + max_post_steps + 1 of all. The last one writes every mask and neither deletes nor inserts.
    Args:
        tau_mask, tau_edit: 0.5 and 0. max_post_steps: 16, a shape. All as in the released decoder
            (sgl-project/sglang, joint_threshold_indel).
        delete, insert: the ids of the two instructions, 156930 and 156931 in LLaDA2.2. A model without them decodes as
            with `edit`.
    State: 8 W (W + max_post_steps) bytes. Departures from released code: the mask token is never proposed; blocks are
    compared whole and not by a hash; columns before a prefilled one (infilling) never move; a shorter last block has
    fewer forwards. Raises InputError for probabilities outside [0, 1], negative ids, or max_post_steps outside 0..1024.
    """
    return Indel(
        argument.probability(tau_mask, "tau_mask"), argument.probability(tau_edit, "tau_edit"),
        argument.number(delete, "delete", low=0, whole=True), argument.number(insert, "insert", low=0, whole=True),
        argument.whole(0, LONGEST)(max_post_steps, "max_post_steps"),
    )  # fmt: skip
