"""Reads: a sequence of tokens, and logits of a few ids at a few of its columns. One program per class of reads.

A read is always computed by the same executable, whatever else is asked: rows of a program, columns and numbers of ids
follow from the read itself, and what is missing of a program is filled with inert rows.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import KV, Model, Past, SupportsApplyAt, gather
from jaxdlm.core.readout import Readout, gathered, mask_invalid
from jaxdlm.layout import bucket_of
from jaxdlm.sharding import beside, striped
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree

T = TypeVar("T")
K = TypeVar("K")
INERT = 0


class Read(NamedTuple):
    """tokens: int32[n], the masks of what is open included. want: (column, ids) whose logits are read; a model that
    continues a text may be asked for column n. canvas: how many of the last columns are the canvas of a model that has
    one; only these may be asked for. head: how many of the first columns are read apart, in a program of their own, once for
    all sequences that begin with them; a causal model's. open: columns of the canvas that are noise, from its first; fresh:
    [steps, open], what they hold in further forwards, the last of which is read; all else stays."""

    tokens: np.ndarray
    want: tuple[tuple[int, tuple[int, ...]], ...]
    canvas: int = 0
    head: int = 0
    open: tuple[int, ...] = ()
    fresh: np.ndarray = np.zeros((0, 0), np.int32)

    @property
    def columns(self) -> int:
        """Columns that go through the model, those of a canvas once per forward."""
        return len(self.tokens) + len(self.fresh) * self.canvas


class Column(NamedTuple):
    """What was read at one column, float64. logp: log-probabilities of the ids among all text tokens, nan where the
    logits are not finite. top: the likeliest token of all, best: its log-probability. entropy: of all, in nats."""

    logp: np.ndarray
    top: int
    entropy: float
    finite: bool
    best: float = 0.0


class Raw(NamedTuple):
    """One reading of a question. logp: log P_k in the order of its options. top_is_label: whether the likeliest token of
    all was an option's (of its first column). bound: how much options that were not read may have, in total variation.
    drawn: log P of each draw of noise alone; without: of all but each, where there are several. mass: Σ P, where logp is
    not log P. together: place of the option in the likeliest combination of all answers, where that is known."""

    logp: np.ndarray
    top_is_label: bool
    reads: int
    columns: int
    bound: float = 0.0
    drawn: tuple[np.ndarray, ...] = ()
    without: tuple[np.ndarray, ...] = ()
    mass: float | None = None
    together: int | None = None

    @property
    def status(self) -> str:
        """ok; nonfinite: a logit was NaN or infinite; infeasible: no option can be written; unfinished: none was read to
        its end."""
        if np.isnan(self.logp).any():
            return "nonfinite"
        return "ok" if np.isfinite(self.logp).any() else "unfinished" if self.bound else "infeasible"


Plan = Generator[list[Read], list[list[Column]], T]
"""Yields reads, is sent what was found for each, and returns what follows from that."""


def started(plan: Plan[T]) -> Plan[T]:
    """The plan, run up to its first reads: what is wrong with it is raised now."""
    try:
        first = next(plan)
    except StopIteration as ended:
        return _over(ended.value)
    return _going_on(plan, first)


def _over(value: Any) -> Plan[Any]:
    return value
    yield []  # a generator all the same


def _going_on(plan: Plan[T], asked: list[Read]) -> Plan[T]:
    while True:
        answer = yield asked
        try:
            asked = plan.send(answer)
        except StopIteration as ended:
            return ended.value


def together(plans: Sequence[Plan[T]]) -> Plan[list[T]]:
    """Several plans side by side, as long as one of them asks."""
    results: list[Any] = [None] * len(plans)
    waiting: list[tuple[int, list[Read]]] = []

    def advance(index: int, answer: Any) -> None:
        try:
            waiting.append((index, next(plans[index]) if answer is None else plans[index].send(answer)))
        except StopIteration as ended:
            results[index] = ended.value

    for index in range(len(plans)):
        advance(index, None)
    while waiting:
        asked, waiting = waiting, []
        answers = iter((yield [read for _, reads in asked for read in reads]))
        for index, reads in asked:
            advance(index, list(itertools.islice(answers, len(reads))))
    return results


def drive(lm: Any, plans: Sequence[Plan[T]], batch: int) -> list[T]:
    """The results of the plans. Reads of all of them go through the model together, `batch` rows to a program."""
    whole = together(plans)
    try:
        asked = next(whole)
        while True:
            asked = whole.send(read(lm, asked, batch))
    except StopIteration as ended:
        return ended.value


def read(lm: Any, reads: Sequence[Read], batch: int) -> list[list[Column]]:
    """What stands at the wanted columns, read by read."""
    model = striped(lm.model, lm.params, batch)
    begun = []
    for own, heads in _with_heads(reads, batch):
        kv = None
        if heads:
            laid, _ = beside(lm.params, _head_inputs(heads, batch, lm.config), ())
            kv = _heads(model, lm.params, laid)
        for shape, members in _grouped(own, lambda index: class_of(reads[index])).items():
            for first in range(0, len(members), batch):
                some = members[first : first + batch]
                inputs = _inputs([reads[index] for index in some], shape, batch, lm.config, heads)
                laid, _ = beside(lm.params, inputs, ())
                begun.append((some, _program(model, lm.params, laid, kv)))
    answers: list[Any] = [None] * len(reads)
    for own, numbers in begun:
        host = [np.asarray(each) for each in numbers]
        for row, index in enumerate(own):
            answers[index] = [
                _column([each[row, column] for each in host], len(ids))
                for column, (_, ids) in enumerate(reads[index].want)
            ]
    return answers


Heads = dict[bytes, int]  # beginnings of sequences -> rows of a program


def _with_heads(reads: Sequence[Read], batch: int) -> Iterator[tuple[list[int], Heads]]:
    """Reads with the beginnings that they share, `batch` beginnings of a length at a time; all reads without any."""
    for head, members in _grouped(range(len(reads)), lambda index: reads[index].head).items():
        if not head:
            yield members, {}
            continue
        shared = _grouped(members, lambda index: reads[index].tokens[: reads[index].head].tobytes())
        heads = list(shared)
        for first in range(0, len(heads), batch):
            some = heads[first : first + batch]
            yield [index for each in some for index in shared[each]], {each: row for row, each in enumerate(some)}


def _grouped(members: Iterable[int], key: Callable[[int], K]) -> dict[K, list[int]]:
    groups: dict[K, list[int]] = {}
    for index in members:
        groups.setdefault(key(index), []).append(index)
    return groups


class Shape(NamedTuple):
    """Of a program: columns behind a beginning, those of a canvas, wanted columns, ids per column; columns of a beginning
    that is read apart; further forwards of a canvas, and its open columns, where there are any."""

    columns: int
    canvas: int
    wanted: int
    ids: int
    head: int
    steps: int
    open: int


def class_of(one: Read) -> Shape:
    """The shape of its program: from the read alone."""
    power = lambda n: 1 << (max(1, n) - 1).bit_length()  # noqa: E731
    wanted = power(len(one.want)), power(max(len(ids) for _, ids in one.want))
    again = (len(one.fresh), power(len(one.open))) if len(one.fresh) else (0, 0)
    return Shape(bucket_of(len(one.tokens) - one.canvas - one.head), one.canvas, *wanted, one.head, *again)


class Inputs(NamedTuple):
    """Of a program. canvas: None for a model without one; then at counts its columns from 0. head: rows of the beginnings,
    None: whole sequences. open: columns of the canvas, past its end: none; fresh: as in `Read`; None: one forward."""

    tokens: Int32[Array, "R L"]
    valid: Bool[Array, "R L"]
    canvas: Int32[Array, "R W"] | None
    at: Int32[Array, "R C"]
    ids: Int32[Array, "R C K"]
    head: Int32[Array, "R"] | None
    open: Int32[Array, "R S"] | None = None
    fresh: Int32[Array, "R N S"] | None = None


def _head_inputs(heads: Heads, batch: int, config: Any) -> Int32[np.ndarray, "R H"]:
    rows = np.stack([np.frombuffer(head, np.int32) for head in heads])
    return np.concatenate([rows, np.full((batch - len(rows), rows.shape[1]), config.tokens.pad, np.int32)])


def _inputs(reads: Sequence[Read], shape: Shape, batch: int, config: Any, heads: Heads) -> Inputs:
    length, width, columns, most, head, steps, count = shape
    tokens = np.full((batch, length), config.tokens.pad, np.int32)
    valid = np.zeros((batch, length), bool)
    valid[:, INERT] = True  # of rows that only fill the program
    canvas = np.full((batch, width), config.tokens.pad, np.int32)
    at = np.full((batch, columns), INERT, np.int32)
    ids = np.zeros((batch, columns, most), np.int32)
    begin, open_ = np.zeros(batch, np.int32), np.full((batch, count), width, np.int32)
    fresh = np.zeros((batch, steps, count), np.int32)
    shift = config.prediction == "next"
    for row, one in enumerate(reads):
        size = len(one.tokens) - one.canvas
        tokens[row, : size - head], valid[row, : size - head] = one.tokens[head:size], True
        canvas[row], begin[row] = one.tokens[size:], heads.get(one.tokens[:head].tobytes(), 0)
        if steps:
            open_[row, : len(one.open)], fresh[row, :, : len(one.open)] = one.open, one.fresh
        for column, (place, wanted) in enumerate(one.want):
            at[row, column] = place - (size if width else shift + head)
            ids[row, column, : len(wanted)] = wanted
    rows, places = (jnp.asarray(tokens), jnp.asarray(valid)), (jnp.asarray(at), jnp.asarray(ids))
    again = (jnp.asarray(open_), jnp.asarray(fresh)) if steps else (None, None)
    return Inputs(*rows, jnp.asarray(canvas) if width else None, *places, jnp.asarray(begin) if head else None, *again)


@compiled(static_argnums=0)
def _heads(model: Model, params: PyTree, tokens: Int32[Array, "R H"]) -> KV:
    """The keys and values of the beginnings."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).kv


@compiled(static_argnums=0)
def _program(model: Model, params: PyTree, inputs: Inputs, heads: KV | None) -> tuple[Array, ...]:
    """Logits of the ids [R, C, K]; top token, its logit, rest and weighted (`core.readout`) of all [R, C]."""
    hidden = _hidden(model, params, inputs, heads)
    flat = hidden.reshape(-1, hidden.shape[-1])
    source = Readout(hidden=flat, logits=jnp.zeros((0, 0), jnp.float32), params=params, model=model)
    summary, picked = gathered(source, inputs.ids.reshape(flat.shape[0], -1))
    told = (summary.token, summary.top, summary.rest, summary.weighted)
    return picked.reshape(inputs.ids.shape), *(x.reshape(inputs.at.shape) for x in told)


def _hidden(model: Model, params: PyTree, inputs: Inputs, heads: KV | None) -> Float[Array, "R C D"]:
    """What the head reads at the wanted columns."""
    tokens, valid, canvas, at = inputs.tokens, inputs.valid, inputs.canvas, inputs.at
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    if heads is not None and inputs.head is not None:
        kv = jax.tree.map(lambda leaf: jnp.take(leaf, inputs.head, axis=1), heads)
        columns = jax.tree.leaves(kv.k)[0].shape[2]
        before = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], (tokens.shape[0], columns))
        past = Past(kv, before, jnp.ones(before.shape, bool))
        return gather(model.apply(params, tokens, columns + position, valid, past).hidden, at)
    if canvas is not None:
        past = Past(model.apply(params, tokens, position, valid).kv, position, valid)
        first = jnp.sum(valid, axis=1, dtype=jnp.int32)[:, None]
        behind = first + jnp.arange(canvas.shape[1], dtype=jnp.int32)[None]
        if inputs.fresh is not None:
            return gather(_refined(model, params, inputs, behind, past), at)
        return gather(model.apply(params, canvas, behind, jnp.ones(canvas.shape, bool), past).hidden, at)
    if isinstance(model, SupportsApplyAt):
        return model.apply_at(params, tokens, position, valid, at)
    return gather(model.apply(params, tokens, position, valid).hidden, at)


def _refined(model: Any, params: PyTree, inputs: Inputs, behind: Array, past: Past) -> Float[Array, "R W D"]:
    """The hidden rows of the last of several forwards of a canvas. Between two, its open columns are drawn anew, and where
    the model takes them the mean embedding of what it made of these columns goes with them (0 elsewhere)."""
    canvas, open_, fresh = inputs.canvas, inputs.open, inputs.fresh
    assert canvas is not None and open_ is not None and fresh is not None
    rows, whole = jnp.arange(canvas.shape[0])[:, None], jnp.ones(canvas.shape, bool)

    def forward(canvas: Array, soft: Array | None) -> Array:
        return model.canvas(params, canvas, behind, whole, past, soft=soft).hidden

    def soft_of(hidden: Array) -> Array | None:
        if not model.config.self_conditioning:
            return None
        made_of = gather(hidden, jnp.minimum(open_, canvas.shape[1] - 1))
        p = jax.nn.softmax(mask_invalid(model.head(params, made_of), model), axis=-1)
        mean = model.expected_embedding(params, p)
        return jnp.zeros((*canvas.shape, mean.shape[-1]), mean.dtype).at[rows, open_].set(mean, mode="drop")

    def again(hidden: Array, drawn: Array) -> tuple[Array, None]:
        return forward(canvas.at[rows, open_].set(drawn, mode="drop"), soft_of(hidden)), None

    return jax.lax.scan(again, forward(canvas, None), jnp.swapaxes(fresh, 0, 1))[0]


def _column(numbers: Sequence[np.ndarray], count: int) -> Column:
    """In float64 from here on."""
    logits, token, *rest_ = numbers
    top, rest, weighted = (float(each) for each in rest_)
    if not np.isfinite(top):
        none = top == -np.inf  # every token banned: nothing is likely, and nothing is broken
        return Column(np.full(count, -np.inf if none else np.nan), int(token), float("nan"), none, float("nan"))
    logp, least = logits[:count].astype(np.float64) - (top + np.log1p(rest)), float(np.log1p(rest))
    return Column(logp, int(token), float(least - weighted / (1 + rest)), not np.isnan(logp).any(), -least)
