"""Drafts that are the target's own guesses of a round ago, each with the distribution it was drawn from (SJD)."""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.errors import InputError
from jaxdlm.registry import drafter
from jaxdlm.speculative.state import Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp, draw, drawn, stage_key
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

GUESS, FIRST = 2, 3  # stages of a row's keys, behind those of drafts and of acceptance


class Guesses(NamedTuple):
    """Of the W - 1 columns behind the committed ones. drawn: from `logq`; else it is an initial guess."""

    token: Int32[Array, "B N"]
    drawn: Bool[Array, "B N"]
    logq: Float32[Array, "B N V"] | None


@drafter(lambda target, draft, sampling: Jacobi(sampling, 4))
@struct.dataclass
class Jacobi:
    """A window of guesses, refined by each verifying forward (speculative Jacobi decoding, arXiv 2410.01699).

    The forward that verifies also says what the target thinks of every later column, given the guesses before it: from these
    the next guesses are drawn. Columns that no forward has read yet get initial guesses: "random", uniform in [low, high), or
    "repeat", the token before, but the first column of an image row of `line` tokens a random one. coupled: the noise of a
    guess belongs to its column, so that a guess changes only where the distribution does (Speculative Coupled Decoding).
    """

    model: ClassVar[None] = None
    taps: ClassVar[tuple[int, ...]] = ()

    warp: Warp
    window: int = struct.field(pytree_node=False, default=16)
    first: str = struct.field(pytree_node=False, default="random")
    low: int = struct.field(pytree_node=False, default=0)
    high: int | None = struct.field(pytree_node=False, default=None)
    line: int | None = struct.field(pytree_node=False, default=None)
    coupled: bool = struct.field(pytree_node=False, default=False)

    @property
    def tree(self) -> Tree:
        return chains(1, self.window - 1)

    @property
    def forwards(self) -> int:
        return 0

    def check(self, lm: Any) -> None:
        words = lm.config.vocab_size
        if max(self.low + 1, self.high or 0) > words:
            raise InputError(
                f"first guesses from low={self.low} to below high={self.high}: target {lm.name} has {words} ids"
            )

    def init(self, rows: Rows, prompt: int) -> PyTree:
        return ()

    def begin(self, state: PyTree, rows: Rows, seen: Seen) -> Guesses:
        """Initial guesses everywhere."""
        batch, _, vocab = seen.logits.shape
        before = jnp.take_along_axis(rows.tokens, rows.length[:, None] - 1, axis=1)[:, 0]
        token = self.initial(rows, rows.length, before, vocab)
        shape = (batch, self.window - 1)
        logq = None if self.warp.matches else jnp.zeros((*shape, vocab), jnp.float32)
        return Guesses(token, jnp.zeros(shape, bool), logq)

    def propose(self, state: Guesses, rows: Rows, key: Array) -> tuple[Proposal, Guesses]:
        logq = state.logq
        if logq is not None:  # of an initial guess: certain
            certain = jnp.where(
                jnp.arange(logq.shape[2])[None, None, :] == state.token[:, :, None], jnp.float32(0), -jnp.inf
            )
            logq = jnp.where(state.drawn[:, :, None], logq, certain)
        return Proposal(state.token, jnp.ones(state.token.shape, bool), logq, self.tree), state

    def observe(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict) -> Guesses:
        return state

    def watch(self, state: Guesses, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> Guesses:
        """The next window: drawn anew wherever this forward speaks of the column, whatever was guessed there before."""
        fresh, logp = self.fresh(rows, seen.logits)
        index = verdict.count[:, None] + 1 + jnp.arange(self.window - 1, dtype=jnp.int32)[None, :]
        drawn, row = index < self.window, jnp.minimum(index, self.window - 1)
        token = jnp.take_along_axis(fresh, row, axis=1)
        # the last token that is known: the last one drawn, or the bonus where none is left
        before = jnp.where(drawn[:, 0], fresh[:, -1], verdict.bonus) if self.window > 1 else verdict.bonus
        begin = self.initial(rows, rows.length + verdict.count + 1, before, seen.logits.shape[2])
        logq = None if logp is None else jnp.take_along_axis(logp, row[:, :, None], axis=1)
        return Guesses(jnp.where(drawn, token, begin), drawn, logq)

    def fresh(
        self, rows: Rows, logits: Float32[Array, "B W V"]
    ) -> tuple[Int32[Array, "B W"], Float32[Array, "B W V"] | None]:
        """(a token of each row of logits, the distribution it was drawn from: None where no verdict asks)."""
        if self.warp.greedy:
            return jnp.argmax(logits, axis=2).astype(jnp.int32), None
        logp = self.warp.log_prob(logits)
        place = jnp.arange(logits.shape[1], dtype=jnp.int32)
        if self.warp.shared:
            return drawn(self.warp, logp, rows, rows.length[:, None] + place[None, :]), None

        def key(row: Array, length: Array, at: Array) -> Array:
            if self.coupled:
                return stage_key(row, length + at, GUESS)
            return jax.random.fold_in(stage_key(row, length, GUESS), at)

        keys = jax.vmap(jax.vmap(key, (None, None, 0)), (0, 0, None))(rows.key, rows.length, place)
        return jax.vmap(jax.vmap(draw))(logp, keys), logp

    def initial(
        self, rows: Rows, start: Int32[Array, "B"], before: Int32[Array, "B"], vocab: int
    ) -> Int32[Array, "B N"]:
        """Guesses of the columns from `start` on that look at nothing but the column and the token before."""
        column = start[:, None] + jnp.arange(self.window - 1, dtype=jnp.int32)[None, :]
        draw_one = functools.partial(
            jax.random.randint, shape=(), minval=self.low, maxval=vocab if self.high is None else self.high
        )
        one = lambda row, at: draw_one(stage_key(row, at, FIRST)).astype(jnp.int32)  # noqa: E731
        guess = jax.vmap(jax.vmap(one, (None, 0)))(rows.key, column)
        if self.first == "random":
            return guess
        same = jnp.broadcast_to(before[:, None], guess.shape)
        if self.line is None:
            return same
        return jnp.where((column - rows.start[:, None]) % self.line == 0, guess, same)
