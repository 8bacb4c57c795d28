"""The shell of both decoding loops: how long they go on, and the record of what they did.

Their bodies stay apart: a canvas is padded on the left and its columns are written in any order (`core.loop`), a text that is
continued is padded on the right and its columns are positions (`speculative.loop`).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxdlm.core.carry import Status, Trace
from jaxdlm.core.select import select_rows
from jaxdlm.typing import Array, Bool, Float32, Int32


class Looping(Protocol):
    """A carry: rows of which some are `done`, and the trips made so far."""

    @property
    def rows(self) -> Any: ...

    @property
    def loops(self) -> Int32[Array, ""]: ...


State = TypeVar("State", bound=Looping)


def run(carry: State, step: Callable[[State], State], more: Callable[[State], Bool[Array, ""]]) -> State:
    """The carry after steps until every row is done, or `more` no longer holds; the same carry may go in again."""
    return jax.lax.while_loop(lambda c: more(c) & jnp.any(~c.rows.done), step, carry)


def run_until(carry: State, step: Callable[[State], State], until: Int32[Array, ""] | int) -> State:
    """The carry after steps until every row is done or `until` trips were made."""
    return run(carry, step, lambda c: c.loops < until)


def failed(status: Array, bad: Bool[Array, "..."]) -> Int32[Array, "..."]:
    """The status of rows, of those with `bad` logits Status.NONFINITE."""
    return jnp.where(bad, int(Status.NONFINITE), status).astype(jnp.int32)


def blank_trace(save: str, rows: int, columns: int, top: int = 0) -> Trace:
    """A trace with nothing in it: `save` "none", "commit", or "steps", with room for a forward per column. top: how many of
    the likeliest tokens of each column are kept."""
    if save == "none":
        return Trace(None, None, None)
    shape = (rows, columns)
    tokens = jnp.zeros((*shape, columns), jnp.int32) if save == "steps" else None
    best = None if not top else jnp.zeros((*shape, top), jnp.int32)
    beside = None if best is None else best.astype(jnp.float32)
    return Trace(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, jnp.float32), tokens, best, beside)


def cleared(trace: Trace, new: Bool[Array, "B"]) -> Trace:
    """The trace with nothing recorded of the rows `new`."""
    empty = Trace(*(None if x is None else jnp.zeros_like(x) for x in trace))
    if trace.commit_step is not None:
        empty = empty._replace(commit_step=jnp.full_like(trace.commit_step, -1))
    return select_rows(new, empty, trace)


def record(
    trace: Trace, forward: Int32[Array, "B"], active: Bool[Array, "B"], column: Int32[Array, "B T"],
    score: Float32[Array, "B T"], text: Int32[Array, "B C"], top: tuple[Array, Array] | None = None,
) -> Trace:  # fmt: skip
    """The trace with a forward, written by index: `score`, and the likeliest tokens with theirs, in columns, where a column
    past the last is none, and the `text` after it; rows that took no part write nowhere."""
    if trace.commit_step is None:
        return trace
    row = jnp.arange(column.shape[0])[:, None]
    at = jnp.broadcast_to(forward[:, None], column.shape)
    trace = trace._replace(
        commit_step=trace.commit_step.at[row, column].set(at, mode="drop"),
        score=None if trace.score is None else trace.score.at[row, column].set(score, mode="drop"),
    )
    if top is not None and trace.top_token is not None and trace.top_score is not None:
        best, beside = (
            old.at[row, column].set(new, mode="drop")
            for old, new in zip((trace.top_token, trace.top_score), top, strict=True)
        )
        trace = trace._replace(top_token=best, top_score=beside)
    if trace.tokens is None:
        return trace
    slot = jnp.where(active, forward, trace.tokens.shape[1])
    return trace._replace(tokens=trace.tokens.at[row[:, 0], slot].set(text, mode="drop"))
