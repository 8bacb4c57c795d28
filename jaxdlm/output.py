"""What a decode returns: rows cut out of their columns and read as text."""

import collections
import dataclasses
import html
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxdlm.core.carry import Rows, Status, Trace
from jaxdlm.errors import InputError, exhausted
from jaxdlm.layout import Batch
from jaxdlm.speculative import state as draft_state
from jaxdlm.stops import Stops

SHOWN, LONGEST = 10, 400  # rows that a notebook shows, characters of each


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """The result of `decode`; arrays are NumPy, one row per prompt.

    Attributes:
        text: cut at the end-of-text token, control tokens removed; None without a tokenizer.
        tokens: int32[B, max_new], the generated columns as decoded.
        forwards: int32[B], model forwards that the row took part in while unfinished.
        commit_step: int32[B, max_new], the row's forward (0-based) at which a column got its token, -1: never, or it
            was given; None with save="none".
        score: float32[B, max_new], the policy's score of that token then (samplers of probability: its logarithm).
        logprobs: float32[B, max_new], of autoregressive models log softmax of the model's own logits at each token, before
            guides, temperature and filters, as vLLM and OpenAI have it; 0 where nothing was written. It is `score` there. None
            for diffusion models: their `score` is a confidence at the forward that committed a token, with other columns
            still open, and the sum over a text is no log-likelihood (docs/sampling.md).
        top_tokens, top_logprobs: int32 and float32[B, max_new, K], the K likeliest tokens of each column, best first, and
            their logprobs, with `top_logprobs=K`.
        status: per row how it ended, a `Status`.
        steps: int32[B, T, max_new], the canvas after each forward, with save="steps".
        accepted: float32[B], draft tokens committed per target forward; None where no draft was asked for (diffusion).
        drafted: int32[B], draft tokens that the target read.
        draft_forwards: int32[B], forwards of the draft.
        tokenizer: the model's, or None; `jaxdlm.viz` reads it.
        ends: ids that end a text.
    """

    text: list[str] | None
    tokens: np.ndarray
    forwards: np.ndarray
    commit_step: np.ndarray | None
    score: np.ndarray | None
    status: list[Status]
    steps: np.ndarray | None = None
    accepted: np.ndarray | None = None
    drafted: np.ndarray | None = None
    draft_forwards: np.ndarray | None = None
    tokenizer: Any = dataclasses.field(default=None, repr=False)
    ends: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    logprobs: np.ndarray | None = None
    top_tokens: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None

    def __repr__(self) -> str:
        """One line: rows, columns, forwards, and how the rows ended."""
        rows, columns = self.tokens.shape
        low, high = (int(self.forwards.min()), int(self.forwards.max())) if rows else (0, 0)
        ended = collections.Counter(map(str, self.status))
        ends = ", ".join(f"{number} {name}" for name, number in ended.items())
        return f"<Output of {rows} rows, {columns} columns, {low} to {high} forwards each: {ends}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the line, and a table of the first rows."""
        texts = self.text or [" ".join(map(str, row)) for row in self.tokens[:SHOWN].tolist()]
        lines = [
            f"<tr><td>{row}</td><td style='text-align:left;white-space:pre-wrap'>{html.escape(text[:LONGEST])}"
            f"{'…' if len(text) > LONGEST else ''}</td><td>{int(forwards)}</td><td>{status}</td></tr>"
            for row, (text, forwards, status) in enumerate(zip(texts[:SHOWN], self.forwards, self.status))
        ]
        head = "".join(f"<th>{name}</th>" for name in ("row", "text" if self.text else "tokens", "forwards", "status"))
        rest = len(self.status) - len(lines)
        foot = f"<p>and {rest} more rows in <code>.text</code></p>" if rest else ""
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{''.join(lines)}</table>{foot}"


def finish(lm: Any, rows: Rows, trace: Trace, batch: Batch, max_new: int, stops: Stops) -> Output:
    """Cuts the generated columns out of the rows and reads them as text."""
    rows, trace = jax.device_get((rows._replace(key=(), policy=(), ends=None, grammar=None, group=None), trace))
    columns = batch.tails[:, None] + np.arange(max_new)[None, :]

    # of columns that were written before the text ended in front of them, nothing is told
    gone = (columns >= rows.stop[:, None]) & bool(stops.sequences)

    def generated(x: np.ndarray | None, never: int = 0) -> np.ndarray | None:
        return None if x is None else np.where(gone, never, np.take_along_axis(x, columns, axis=1))

    tokens = np.take_along_axis(rows.tokens[:, batch.geometry.prompt :], columns, axis=1)
    steps = None
    if trace.tokens is not None:
        steps = np.take_along_axis(trace.tokens, columns[:, None, :], axis=2)
    return Output(
        text=read_text(lm, tokens, stops),
        tokens=tokens,
        forwards=rows.forwards,
        commit_step=generated(trace.commit_step, -1),
        score=generated(trace.score),
        status=[Status(int(code)) for code in rows.status],
        steps=steps,
        tokenizer=lm.tokenizer,
        ends=tuple(sorted(stops.ids)),
    )


def read_text(lm: Any, tokens: np.ndarray, stops: Stops) -> list[str] | None:
    """The text of each row up to its end; None without a tokenizer."""
    return None if lm.tokenizer is None else [stops.text(lm.tokenizer, row.tolist()) for row in tokens]


def finish_rows(lm: Any, rows: draft_state.Rows, trace: Trace, max_new: int, stops: Stops) -> Output:
    """Cuts what follows the prompts out of the rows and reads it as text."""
    rows, trace = jax.device_get((rows._replace(key=(), ends=None, guide=(), group=None), trace))
    ids_ = lm.config.tokens
    column = rows.start[:, None] + np.arange(max_new)[None, :]
    tokens = np.take_along_axis(rows.tokens, column, axis=1)
    tokens = np.where(column < rows.length[:, None], tokens, ids_.eos[0] if ids_.eos else ids_.pad).astype(np.int32)
    return Output(
        text=read_text(lm, tokens, stops), tokens=tokens, forwards=rows.step, commit_step=trace.commit_step, score=trace.score,
        status=[Status(int(code)) for code in rows.status], steps=trace.tokens,
        accepted=(rows.accepted / np.maximum(rows.step, 1)).astype(np.float32), drafted=rows.drafted,
        draft_forwards=rows.draft_step, tokenizer=lm.tokenizer, ends=tuple(sorted(stops.ids)),
        logprobs=trace.score, top_tokens=trace.top_token, top_logprobs=trace.top_score,
    )  # fmt: skip


def rows_joined(outs: Sequence[Output], rows: Sequence[np.ndarray], max_new: int, pad: int) -> Output:
    """The outputs of several programs as one, in the order of the prompts. rows: which of them each program decoded.
    Columns that only other rows have are pads."""
    order = np.argsort(np.concatenate(rows))

    def column(name: str, blank: int = 0) -> Any:
        values = [getattr(out, name) for out in outs]
        if any(value is None for value in values):
            return None
        values = [value[: len(own)] for value, own in zip(values, rows, strict=True)]
        if isinstance(values[0], list):
            flat = [each for value in values for each in value]
            return [flat[at] for at in order]
        sides = np.max([value.shape[1:] for value in values], axis=0)
        wide = [
            np.pad(value, [(0, 0), *((0, side - now) for side, now in zip(sides, value.shape[1:], strict=True))],
                   constant_values=blank)
            for value in values
        ]  # fmt: skip
        return np.concatenate(wide)[order]

    blanks = {"tokens": pad, "commit_step": -1, "steps": pad, "top_tokens": pad}
    named = [field.name for field in dataclasses.fields(Output) if field.name not in ("tokenizer", "ends")]
    fields = {name: column(name, blanks.get(name, 0)) for name in named}
    if fields["tokens"].shape[1] > max_new:  # of canvases that are rounded up
        cut = {name: fields[name][..., :max_new] for name in ("tokens", "commit_step", "score", "steps")
               if fields[name] is not None}  # fmt: skip
        fields |= cut
    return Output(**fields, tokenizer=outs[0].tokenizer, ends=outs[0].ends)


class Part(Protocol):
    """A program of a decode. size: its rows. From `start` on, `ahead` goes so many forwards further, and `output` tells what is
    there by then."""

    @property
    def size(self) -> int: ...
    def run(self) -> Output: ...
    def start(self) -> Any: ...
    def ahead(self, carry: Any, forwards: int) -> Any: ...
    def output(self, rows: Any, trace: Any) -> Output: ...


class Programs(NamedTuple):
    """The programs that a decode runs in, and which of its rows each of them decodes."""

    parts: tuple[Part, ...]
    rows: tuple[np.ndarray, ...]
    max_new: int
    pad: int

    def run(self) -> Output:
        """One after the other. Raises InputError where one needs more memory than the device has."""
        return self.joined([_fitting(part) for part in self.parts])

    def joined(self, outs: Sequence[Output]) -> Output:
        """The rows in the order of the prompts."""
        return rows_joined(outs, self.rows, self.max_new, self.pad)


def _fitting(part: Part) -> Output:
    try:
        return part.run()
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        rows = part.size
        raise InputError(
            f"a program of {rows} rows needs more memory than the device has: decode fewer at a time, as in "
            f"rows_per_program={max(1, rows // 2)}"
        ) from error
