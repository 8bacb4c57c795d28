"""Write everything at once when the answer is clear (Prophet, arXiv 2508.19982)."""

import functools
import math
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core import compose
from jaxdlm.core.carry import Geometry, LogitsAccess, Row, Status, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.readout import Summary, incoming, summarise
from jaxdlm.core.rule import PolicyWrapper, Rule, Stepper, need
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

STAGES = (0.33, 0.67)  # shares of the way at which the threshold falls


def answer_gap(summary: Summary, exists: Bool[Array, "W"], start: Any, length: int) -> Float32[Array, ""]:
    """Mean gap of the two best logits over the answer's columns that exist; -inf when none does."""
    column = jnp.arange(exists.shape[0], dtype=jnp.int32)
    inside = exists & (column >= start) & (column < start + length)
    count = jnp.sum(inside)
    total = jnp.sum(jnp.where(inside, summary.top - summary.second, 0.0))
    return jnp.where(count > 0, total / jnp.maximum(count, 1).astype(jnp.float32), -jnp.inf)


@struct.dataclass
class FinishWhenClear(PolicyWrapper):
    """See `finish_when_clear`. State: the host's."""

    declares: ClassVar[Traits] = Traits(
        reads=("logits",), writes=("token", "commit", "hold", "halt", "status"), view="canvas"
    )

    inner: Any
    thresholds: tuple[Any, Any, Any]
    steps: Any = None
    answer_start: Any = None
    answer_length: int = struct.field(pytree_node=False, default=5)
    progress: str = struct.field(pytree_node=False, default="forwards")
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        own = self.inner.traits
        access = max(LogitsAccess.SUMMARY, own.logits_access)
        return self.declares._replace(
            uncond=own.uncond, access=access, official=self.official, blind=own.blind, attention=own.attention
        )

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        usual, state = self.inner.apply(update, state, row, key)
        need(usual, "token", "commit", rule="finish_when_clear")
        length = jnp.sum(row.exists).astype(jnp.int32)
        start = length - self.answer_length if self.answer_start is None else self.answer_start
        summary = summarise(incoming(update))
        gap = answer_gap(summary, row.exists, start, self.answer_length)
        way = self.way(row, length)
        early, middle, late = (jnp.asarray(x, jnp.float32) for x in self.thresholds)
        bar = jnp.where(way < STAGES[0], early, jnp.where(way < STAGES[1], middle, late))
        leave = gap >= bar
        return usual._replace(
            token=jnp.where(leave, summary.token, usual.token),
            commit=jnp.where(leave, row.pending & row.exists, usual.commit),
            hold=jnp.asarray(usual.hold, bool) | self.idle(row),
            reopen=None if usual.reopen is None else usual.reopen & ~leave,
            halt=leave | jnp.asarray(usual.halt, bool),
            status=jnp.where(leave, int(Status.EXIT), jnp.asarray(usual.status, jnp.int32)),
        ), state

    def way(self, row: Row, length: Int32[Array, ""]) -> Float32[Array, ""]:
        """How far decoding has come, 0 to 1."""
        if self.progress == "decoded":
            asked = jnp.sum(row.exists & ~row.prefilled)
            left = jnp.sum(row.exists & row.pending)
            return 1.0 - left.astype(jnp.float32) / jnp.maximum(asked, 1).astype(jnp.float32)
        steps = length if self.steps is None else jnp.asarray(self.steps, jnp.int32)
        done = row.step + 1 if self.official else row.step
        return done.astype(jnp.float32) / steps.astype(jnp.float32)

    def idle(self, row: Row) -> Bool[Array, ""]:
        """Released code: a block lasts its share of `steps`, written or not."""
        if not self.official or self.steps is None:
            return jnp.asarray(False)
        share = jnp.maximum(jnp.asarray(self.steps, jnp.int32) // row.blocks, 1)
        return row.tick + 1 < share

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        bound = jnp.asarray(self.inner.forwards(geometry), jnp.int32)
        if not self.official or self.steps is None:
            return bound
        return jnp.maximum(bound, jnp.asarray(self.steps, jnp.int32))


def finish_when_clear(
    host: Rule,
    steps: Any = None,
    answer_start: Any = None,
    answer_length: int = 5,
    thresholds: tuple[Any, Any, Any] = (7.5, 5.0, 2.5),
    *,
    progress: str = "forwards",
    official: bool = False,
) -> FinishWhenClear:
    """Ends a row when mean_{i in A} (l_i(1) - l_i(2)) >= threshold(way): every open column becomes argmax l_i.

    The check reads the logits that come in, before the host changes them, and precedes the host's commits of the same
    forward; until it passes, the host decides alone. threshold(way) is the first value below 33% of the way, the
    second below 67%, then the third. A row that leaves so ends with Status.EXIT.
    Args:
        host: a whole policy, for example `chain(sample(), select_top_k(64))`. steps: its budget of forwards, all blocks;
            default the canvas.
        answer_start, answer_length: A, in columns of the canvas (the released code has 5, from the second column after
            the words "The answer is", which belong in `decode(canvas=...)`). Default: the canvas's last columns. What
            lies past the canvas does not count; nothing left means the check never passes.
        thresholds: in units of logits, 7.5, 5.0, 2.5 (arXiv 2508.19982; 8.0, 5.0, 3.5 in its table for GSM8K).
        progress: "forwards" (the paper's s / steps) or "decoded" (share of written columns, for hosts that write many
            per forward, which the paper does not settle).
        official: as released, the first forward counts as 1 / steps, and blocks with prefilled columns last their full
            share of `steps`. Blocks that are prefilled as a whole are skipped all the same.
    Departure from released code: filled from noise-free logits without the mask token; rows leave on their own.
    Raises InputError for steps or answer_length < 1, answer_start < 0, other than three thresholds (infinite ones are
    never, or always, reached), an unknown progress, or a host that is no rule.
    """
    if not isinstance(host, Rule):
        raise InputError(
            f"host {argument.shown(host)} is no rule: pass a whole policy such as chain(sample(), select_top_k(64))"
        )
    if isinstance(host, Stepper):
        raise InputError(f"host={type(host).__name__} steps on its own: put finish_when_clear inside it, as its host")
    compose.complete(host, "finish_when_clear's host")
    bars = list(thresholds) if getattr(thresholds, "shape", ()) == (3,) else thresholds
    bars = argument.items(bars, "thresholds", functools.partial(argument.number, low=-math.inf, high=math.inf))
    if len(bars) != 3:
        argument.refuse(thresholds, "thresholds", "three numbers, early, middle, late")
    argument.check_choice(progress, "progress", ("forwards", "decoded"))
    start = argument.number(answer_start, "answer_start", low=0, high=argument.COLUMNS, whole=True, none=True)
    length = argument.whole(1, argument.COLUMNS)(answer_length, "answer_length")
    official = argument.flag(official, "official")
    return FinishWhenClear(host, bars, argument.steps(steps), start, length, progress, official)
