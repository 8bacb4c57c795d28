"""Beam search in the loop: the likeliest unfinished texts of a prompt go on together, the best finished ones are kept.

The W beams of a prompt are W rows, one behind the other. A step reads all of them, ranks their continuations together, and
reorders rows, keys and values by the beams that go on. A prompt's rows depend on no other's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core import engine
from jaxdlm.core.carry import Status, Trace
from jaxdlm.core.model import KV
from jaxdlm.core.readout import proposable
from jaxdlm.core.select import select_rows
from jaxdlm.speculative import guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import grown
from jaxdlm.speculative.copies import rows_of
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

Top = tuple[Array, Array] | None  # (tokens, log-probabilities), [R, 1, K]
NEVER = -1e9  # log-probability of what does not count, as in `transformers`: sums with it stay finite


class Answers(NamedTuple):
    """Texts and how they came about; leaves [R, ...], or [G, K, ...] for G prompts."""

    tokens: Int32[Array, "R C"]
    length: Int32[Array, "R"]
    ended: Bool[Array, "R"]  # by an end of text, not by the limit
    trace: Trace


class BeamState(NamedTuple):
    """What a prompt's beams know beside their rows. own: of each beam, whatever else its search goes by."""

    total: Float32[Array, "R"]  # log-probability of the text so far, or another sum of scores; greatest first
    best: Answers  # finished texts, best first
    score: Float32[Array, "R"]  # total / length^penalty of each
    finished: Bool[Array, "R"]  # whether there is one
    improvable: Bool[Array, "R"]  # whether a better one may come; the same in all rows of a prompt
    own: PyTree = ()


class Offers(NamedTuple):
    """What each beam may go on with: M tokens, None: all of the vocabulary in its order."""

    score: Float32[Array, "R M"]  # that it adds to the beam's total
    logp: Float32[Array, "R M"]  # of the token, by the model
    token: Int32[Array, "R M"] | None = None


class Candidates(NamedTuple):
    """The likeliest continuations of all beams of a prompt, best first."""

    total: Float32[Array, "G K"]
    row: Int32[Array, "G K"]  # that it continues
    token: Int32[Array, "G K"]
    logp: Float32[Array, "G K"]  # of the token
    ended: Bool[Array, "G K"]
    last: Bool[Array, "G 1"]  # the limit is reached

    @property
    def finished(self) -> Bool[Array, "G K"]:
        return self.ended | self.last


@struct.dataclass
class BeamSearch:
    """See `methods.beam`. returned: texts of each prompt that are an answer."""

    length_penalty: Any
    width: int = struct.field(pytree_node=False)
    early: bool | str = struct.field(pytree_node=False, default=False)
    returned: int = struct.field(pytree_node=False, default=1)

    @property
    def streams(self) -> int:
        return self.width

    @property
    def considered(self) -> int | None:
        """Of the candidates, best first, those that may be answers; None: all."""
        return self.width

    def returning(self, n: int) -> "BeamSearch":
        return dataclasses.replace(self, returned=n)

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> BeamState:
        """Of the beams of a prompt only the first counts at first: they are all the same."""
        rows = carry.rows
        first = jnp.arange(rows.done.shape[0], dtype=jnp.int32) % self.width == 0
        none = jnp.zeros(first.shape, bool)
        blank = Answers(jnp.zeros((first.shape[0], columns), jnp.int32), jnp.zeros_like(rows.length), none, carry.trace)
        worst = jnp.full(first.shape, NEVER, jnp.float32)
        return BeamState(jnp.where(first, 0.0, worst), blank, worst, none, ~none)

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "R 1 V"]]:
        """(the carry with each beam one token longer, the model's logits)."""
        rows, state = carry.rows, carry.drafter
        logits, kv = self.read(carry, decoding)
        nodes = guiding.nodes_of(decoding.policy.guide, rows.guide)
        offers, bad = self.offers(rows, state, logits, nodes)
        seen = self.candidates(rows, state, offers)
        going, pick = jax.lax.top_k(without(seen.total, seen.finished), self.width)
        row, token, own = (jnp.take_along_axis(x, pick, axis=1).reshape(-1) for x in (seen.row, seen.token, seen.logp))
        kv = kv if self.streams == 1 else rows_of(kv, row)
        old, trace, known = rows_of((rows, carry.trace, state.own), row)
        guide = () if nodes.guide is None else nodes_after(nodes, row, token)
        new = longer(old, token)._replace(guide=guide)
        top = self.of_beams(likeliest(carry.trace, logits))
        state = self.collected(rows, state, seen, going, carry.trace, top)
        state = state._replace(own=self.advanced(known, token))
        trace = noted(trace, old, token, own, rows_of(top, row))
        new, trace = self.closed(new, trace, state, self.over(state, seen), self.any_of(bad))
        new, trace, state = select_rows(~rows.done, (new, trace, state), (rows, carry.trace, carry.drafter))
        return Carry(new, kv, state, trace, carry.loops + 1), logits

    def read(self, carry: Carry, decoding: Decoding) -> tuple[Float32[Array, "R 1 V"], KV]:
        """(the logits behind each beam, the cache with its last token)."""
        return grown(carry, decoding)

    def offers(
        self, rows: Rows, state: BeamState, logits: Float32[Array, "R 1 V"], nodes: guiding.Nodes
    ) -> tuple[Offers, Bool[Array, "R"]]:
        """(log p of every next token by the guided model, rows whose logits are not finite)."""
        bad = ~proposable(jnp.max(logits, axis=2))
        if nodes.guide is None:
            logp = jax.nn.log_softmax(logits[:, 0], axis=1)
        else:
            bent, live = nodes.transform(logits, nodes.root())
            logp = jnp.where(live, jax.nn.log_softmax(bent[:, 0], axis=1), -jnp.inf)
        return Offers(logp, logp), bad

    def candidates(self, rows: Rows, state: BeamState, offers: Offers) -> Candidates:
        """So many that W of them go on however many end here."""
        width, each = self.width, offers.score.shape[1]
        ends = 0 if rows.ends is None else rows.ends.shape[1]
        count = min(width * max(2, 1 + ends), width * each)
        total, at = jax.lax.top_k((state.total[:, None] + offers.score).reshape(-1, width * each), count)
        first = width * jnp.arange(total.shape[0], dtype=jnp.int32)[:, None]
        row, place = first + at // each, at % each
        token = place if offers.token is None else offers.token[row, place]
        text = rows_of(bare(rows), row.reshape(-1))
        one = jnp.ones(text.length.shape, jnp.int32)
        ended = (loop.columns_to_stop(text, token.reshape(-1, 1), one) <= 1).reshape(row.shape)
        last = (rows.length + 1 >= rows.stop).reshape(-1, width)[:, :1]
        return Candidates(total, row, token, offers.logp[row, place], ended, last)

    def advanced(self, own: PyTree, token: Int32[Array, "R"]) -> PyTree:
        """`BeamState.own` of the beams that go on, one token later."""
        return own

    def collected(
        self, rows: Rows, state: BeamState, seen: Candidates, going: Float32[Array, "G W"], trace: Trace, top: Top
    ) -> BeamState:
        """The state with the best of the texts that were finished and those that finish now, among those `considered`."""
        width = self.width
        grouped = lambda x: jax.tree.map(lambda leaf: leaf.reshape(-1, width, *leaf.shape[1:]), x)  # noqa: E731
        length = grouped(rows.length - rows.start + 1)[:, :1]
        score, finished, improvable = grouped((state.score, state.finished, state.improvable))
        now = seen.finished & (seen.total > NEVER / 2)
        if self.considered is not None:
            now = now & (jnp.arange(seen.row.shape[1]) < self.considered)[None, :]
        closed = jnp.all(finished, axis=1, keepdims=True) & (self.early is True)
        offered = seen.total / self.penalised(length)
        offered = without(without(offered, closed | ~improvable[:, :1]), ~now)
        score, pick = jax.lax.top_k(jnp.concatenate([score, offered], axis=1), width)
        both = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b], axis=1),
            (grouped(state.best), finished), (answers_of(rows, seen, trace, top, state.best.tokens.shape[1]), now),
        )  # fmt: skip
        group = jnp.arange(pick.shape[0])[:, None]
        best, finished = jax.tree.map(lambda leaf: leaf[group, pick], both)
        improvable = improvable & self.improves(going, score, finished, length, grouped(rows.stop - rows.start)[:, :1])
        flat = lambda x: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)  # noqa: E731
        return BeamState(going.reshape(-1), *flat((best, score, finished, improvable)))

    def penalised(self, length: Int32[Array, "G 1"]) -> Float32[Array, "G 1"]:
        return length.astype(jnp.float32) ** self.length_penalty

    def improves(
        self, going: Float32[Array, "G W"], score: Array, finished: Array, length: Array, limit: Array
    ) -> Bool[Array, "G 1"]:
        """Whether the likeliest beam could beat a finished text: by its score if it ended now, or with early="never" at its
        best, which is at the limit where longer texts are favoured."""
        if self.early == "never":
            length = jnp.where(jnp.asarray(self.length_penalty) > 0, limit, length)
        best = going[:, :1] / self.penalised(length)
        worst = jnp.where(finished, jnp.min(score, axis=1, keepdims=True), NEVER)
        return jnp.any(best > worst, axis=1, keepdims=True)

    def over(self, state: BeamState, seen: Candidates) -> Bool[Array, "R"]:
        """Whether a prompt is answered."""
        finished = jnp.all(state.finished.reshape(-1, self.width), axis=1)
        full = seen.last[:, 0] | jnp.all(seen.finished, axis=1) | (seen.total[:, 0] < NEVER / 2)
        ended = full | (finished & (self.early is True)) | ~state.improvable.reshape(-1, self.width)[:, 0]
        return jnp.repeat(ended, self.width)

    def of_beams(self, top: Top) -> Top:
        """What stands behind each stream, for each beam that reads it."""
        return jax.tree.map(lambda x: jnp.repeat(x, self.width // self.streams, axis=0), top)

    def any_of(self, bad: Bool[Array, "R"]) -> Bool[Array, "R"]:
        return jnp.repeat(jnp.any(bad.reshape(-1, self.width), axis=1), self.width)

    def closed(
        self, rows: Rows, trace: Trace, state: BeamState, over: Bool[Array, "R"], bad: Bool[Array, "R"]
    ) -> tuple[Rows, Trace]:
        """(rows, trace) with the finished texts in the place of the beams of a prompt that is answered."""
        best = state.best
        column = rows.start[:, None] + jnp.arange(best.tokens.shape[1], dtype=jnp.int32)[None, :]
        row = jnp.arange(rows.done.shape[0])[:, None]
        status = jnp.where(best.ended, int(Status.EOS), int(Status.FINISHED))
        final = rows._replace(
            tokens=rows.tokens.at[row, column].set(best.tokens, mode="drop"),
            length=rows.start + best.length,
            status=status.astype(jnp.int32),
        )
        nothing = over & ~bad & ~state.finished  # fewer texts are allowed than there are beams
        rows, trace = select_rows(over & ~bad & state.finished, (final, best.trace), (rows, trace))
        rows = rows._replace(length=jnp.where(nothing, rows.start, rows.length))
        failed = nothing | bad
        return rows._replace(done=over | bad, status=engine.failed(rows.status, failed)), trace

    def answers(self, rows: Rows, trace: Trace) -> tuple[Rows, Trace]:
        """(rows, trace) of the texts that are returned, best first."""
        first = self.width * np.arange(rows.done.shape[0] // self.width)[:, None]
        index = (first + np.arange(self.returned)[None, :]).ravel()
        return rows_of((rows, trace), index)


def without(score: Float32[Array, "G K"], mask: Bool[Array, "G K"]) -> Float32[Array, "G K"]:
    """The scores, lowered where they do not count."""
    return score + jnp.where(mask, jnp.float32(NEVER), 0.0)


def longer(rows: Rows, token: Int32[Array, "R"]) -> Rows:
    """The rows with one token more."""
    row = jnp.arange(token.shape[0])
    text = rows.tokens.at[row, rows.length].set(token, mode="drop")
    return rows._replace(tokens=text, length=rows.length + 1, step=rows.step + 1)


def rows_answer(rows: Rows, columns: int) -> Int32[Array, "R C"]:
    """What follows the prompts."""
    return store.take(rows.tokens, rows.start[:, None] + jnp.arange(columns, dtype=jnp.int32)[None, :])


def answers_of(rows: Rows, seen: Candidates, trace: Trace, top: Top, columns: int) -> Answers:
    """The candidates as answers, leaves [G, K, ...]."""
    token, logp = seen.token.reshape(-1), seen.logp.reshape(-1)
    old, trace, top = rows_of((bare(rows), trace, top), seen.row.reshape(-1))
    new, trace = longer(old, token), noted(trace, old, token, logp, top)
    made = Answers(rows_answer(new, columns), new.length - new.start, seen.ended.reshape(-1), trace)
    return jax.tree.map(lambda leaf: leaf.reshape(*seen.row.shape, *leaf.shape[1:]), made)


def bare(rows: Rows) -> Rows:
    """The rows without what their text does not depend on."""
    return rows._replace(guide=(), sampling=(), key=())


def likeliest(trace: Trace, logits: Float32[Array, "R 1 V"]) -> Top:
    """The likeliest tokens behind each row, as many as the trace keeps."""
    if trace.top_token is None:
        return None
    return loop.likeliest(logits, jnp.zeros((logits.shape[0], 1), jnp.int32), trace.top_token.shape[2])


def noted(trace: Trace, old: Rows, token: Int32[Array, "R"], logp: Float32[Array, "R"], top: Top) -> Trace:
    """The trace with the token behind the rows, its log-probability, and what else was likely."""
    if trace.commit_step is None:
        return trace
    text = rows_answer(longer(old, token), trace.commit_step.shape[1])
    column = (old.length - old.start)[:, None]
    return engine.record(trace, old.step, jnp.ones_like(old.done), column, logp[:, None], text, top)


def nodes_after(nodes: guiding.Nodes, row: Int32[Array, "R"], token: Int32[Array, "R"]) -> PyTree:
    """The guide's states behind one token more, of the rows that go on."""
    behind = nodes._replace(state=rows_of(nodes.state, row))
    return behind.row(behind.advance(behind.root(), token[:, None]))
