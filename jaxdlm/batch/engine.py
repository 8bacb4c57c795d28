"""Requests in, results out: groups rows by the columns they need and keeps the slots of the device filled."""

import contextlib
import dataclasses
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import languages
from jaxdlm.batch import sampling, slots
from jaxdlm.batch.answers import Written
from jaxdlm.batch.rows import Refusal, Request
from jaxdlm.core import ending, loop
from jaxdlm.core.carry import Geometry, Status
from jaxdlm.core.rule import Decoding
from jaxdlm.errors import InputError, exhausted
from jaxdlm.layout import geometry_of
from jaxdlm.resolve import blocked
from jaxdlm.rules.grammar import constrained
from jaxdlm.rules.per_row import kind_of, per_row
from jaxdlm.sharding import striped

AHEAD = 2  # queues under way at once: one is worked on, the next lies ready
READY = 2  # and as many again of waiting rows keep the device busy until more have been read
SECONDS = 2.0  # what one queue may take, so that finished rows do not wait long on the device


class Result(NamedTuple):
    """How a row came out."""

    tokens: np.ndarray  # int32[max_new]
    forwards: int
    status: str
    logprobs: Written | None = None
    others: tuple["Result", ...] = ()  # of a row with several answers, those after the first

    @property
    def every(self) -> tuple["Result", ...]:
        """All answers of the row."""
        return (self._replace(others=()), *self.others)


Outcome = Result | Refusal | None  # None: the row's program does not fit the device, so that another run may do it
Sink = Callable[[Request, Outcome], None]


class Feed(Protocol):
    """Windows of requests; None: there are no more. `get_nowait` raises queue.Empty where there is none yet."""

    def get(self) -> list[Request] | None: ...

    def get_nowait(self) -> list[Request] | None: ...


@dataclasses.dataclass
class Counts:
    """Counts of the device's work."""

    trips: int = 0  # forwards of one replica's slots
    busy: int = 0  # row forwards
    slots: int = 1

    @property
    def use(self) -> float:
        """Share of slot forwards that moved a row on."""
        return self.busy / (self.trips * self.slots) if self.trips else 0.0


class Policies(NamedTuple):
    """A policy in the forms that rows may ask for; the last two are None where it has no temperature."""

    plain: Any  # as the job states it
    cold: Any  # temperature 0: nothing is drawn
    heated: Any  # temperature as an array

    def form(self, temperature: float | None) -> str:
        """The form that a row with this temperature runs under."""
        return "plain" if temperature is None else "cold" if temperature == 0 else "heated"


class Group(NamedTuple):
    """Rows that share a program: a function of the row and the job alone."""

    geometry: Geometry
    form: str  # of the policy, see `Policies`
    sides: slots.Sides
    fields: tuple[str, ...] = ()  # numbers that each row brings to a heated policy


class Gathered:
    """A sink that hands on a row once all of its answers have come."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.open: dict[int, dict[int, Outcome]] = {}

    def __call__(self, request: Request, outcome: Outcome) -> None:
        answers = self.open.setdefault(request.row, {})
        answers[request.sample] = outcome
        if len(answers) == request.wants.n:
            del self.open[request.row]
            self.sink(dataclasses.replace(request, sample=0), whole([answers[index] for index in sorted(answers)]))


def whole(answers: Sequence[Outcome]) -> Outcome:
    """The answers of a row as one outcome; one that was refused, or fits no device, stands for all."""
    results = [each for each in answers if isinstance(each, Result)]
    if len(results) < len(answers):
        return next(each for each in answers if not isinstance(each, Result))
    return results[0]._replace(others=tuple(results[1:]))


class SlotEngine:
    """Runs rows through `jaxdlm.batch.slots`; see `run`."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int,
        asked: frozenset[str] = frozenset(),
    ):  # fmt: skip
        self.asked = asked  # fields of sampling that rows of the job ask for
        self.aligned = lm.config.attention == "block_causal"
        self.whole = self.aligned or lm.config.attention == "prefix_canvas"  # rows end with a block
        self.lm, self.policies, self.cache, self.block = lm, policies, cache, block
        self.max_new, self.mesh, self.slots = max_new, mesh, slots
        self.replicas = mesh.shape["data"]
        self.counts = Counts(slots=slots)
        self.ahead = (AHEAD + READY) * slots * self.replicas
        self._size = slots * self.replicas  # rows of the next queue
        self._open: dict[int, Request] = {}
        self._tickets = itertools.cycle(range(2**30))  # rows of the device, of which a request may have several
        self._under_way: deque[tuple[float, Any]] = deque()
        self._group: Group | None = None
        self._pool: Any = None
        self._closed: dict[Group, str | None] = {}  # groups without a program: why, or None where it does not fit

    def check(self) -> None:
        """Raises InputError where the rows that state nothing of their own have no program."""
        group = Group(self._geometry(1, self.max_new), "plain", slots.Sides())
        decoding = self._program(group)
        pool = slots.start.eval_shape(decoding, slots=self.slots, mesh=self.mesh, sides=group.sides)
        slots.advance.eval_shape(pool, *self._queue({}, group), jnp.asarray(False), decoding, mesh=self.mesh)

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, request: Request) -> Group:
        """The group of a row, by what is its own."""
        geometry = self._geometry(len(request.tokens), request.max_new)
        shape = languages.shape_of(request.grammar)
        return Group(geometry, *self._form(request, slots.Sides(ending.shape([request.stops.sequences]), shape)))

    def _form(self, request: Request, sides: slots.Sides) -> tuple[str, slots.Sides, tuple[str, ...]]:
        """The form of the policy, and the fields that are the row's own: those that any row of the job asks for. What
        differs by temperature alone keeps its own program, whose head is read tile by tile."""
        fields = sampling.places(self.asked | request.asks, self.policies, left_to_right=False)
        if fields:
            return "heated", sides, fields
        form = self.policies.form(request.temperature)
        return form, sides, (sampling.TEMPERATURE,) if form == "heated" else ()

    def _geometry(self, length: int, max_new: int) -> Geometry:
        """The prompt's columns as its bucket says, the canvas that of the job's max_new doubled until the row fits."""
        return geometry_of(self.lm.config, np.array([length]), doubled(self.max_new, max_new), self.block)

    def _program(self, group: Group) -> Decoding:
        """What a group's program is compiled of."""
        rule = getattr(self.policies, group.form)
        if group.sides.grammar == languages.CHECKED and not slots.undivided(self.mesh):
            raise InputError(
                "a language without a bound (depth=None) is checked on the host between forwards, of whole rows: give --mesh "
                "data=N alone, or a depth"
            )
        if group.sides.grammar is not None:
            rule = constrained(rule, steered=group.sides.grammar != languages.CHECKED)
        rule = per_row(sampling.with_places(rule, group.fields), *group.fields) if group.fields else rule
        columns = self.slots * loop.width(rule, group.geometry)
        model = striped(blocked(self.lm.model, group.geometry.block), self.lm.params, columns)
        return Decoding(model, self.lm.params, rule, self.cache, group.geometry)

    def ready(self, request: Request) -> None:
        """Has the program of a row compiled, by running it on slots without a row: no forward is made."""
        group = self.group(request)
        decoding = self._program(group)
        pool = slots.start(decoding, slots=self.slots, mesh=self.mesh, sides=group.sides)
        none = self._queue({}, group)
        jax.block_until_ready(slots.advance(pool, *none, jnp.asarray(False), decoding, mesh=self.mesh))

    # -------------------------------------------------------------------------------------------------- queues

    def _queue(self, requests: Mapping[int, Request], group: Group) -> tuple[Any, Any]:
        """Requests, by the numbers that their slots know them by, dealt to the replicas in turn."""
        geometry, size, ids = group.geometry, self.slots, self.lm.config.tokens
        block, mask = geometry.block, ids.pad if ids.mask is None else ids.mask
        shape = (self.replicas, size)
        tokens = np.full((*shape, geometry.length), ids.pad, np.int32)
        pads, first, stop, seed, owner, sample = (np.zeros(shape, np.int32) for _ in range(6))
        vocab, numbers = self.lm.config.vocab_size, None
        if group.fields:
            kinds = {name: kind_of(name, vocab) for name in group.fields}
            numbers = {name: np.zeros((*shape, *own), kind) for name, (own, kind) in kinds.items()}
        key, count = np.zeros(shape, np.uint32), np.zeros(self.replicas, np.int32)
        sides = group.sides
        ends = None if sides.ends is None else np.full((*shape, *sides.ends), ending.ANY, np.int32)
        columns = geometry.length - geometry.prompt
        grammar = None if sides.grammar is None else languages.blank(vocab, sides.grammar, shape, columns)
        for index, (ticket, request) in enumerate(requests.items()):
            at = index % self.replicas, index // self.replicas
            count[at[0]] += 1
            length = len(request.tokens)
            tail = length % block if self.aligned else 0
            end = tail + request.max_new
            end = -(-end // block) * block if self.whole else end
            begin = geometry.prompt + tail
            tokens[at][begin - length : begin] = request.tokens
            tokens[at][begin : geometry.prompt + end] = mask
            pads[at], first[at], stop[at] = begin - length, tail, end
            seed[at], key[at], owner[at] = request.seed, request.key, ticket
            sample[at] = request.sample
            if numbers is not None:
                own = sampling.numbers_of(request.sampling, request.temperature, group.fields, self.policies, vocab)
                jax.tree.map(lambda whole, one: whole.__setitem__(at, one), numbers, own)
            if ends is not None and sides.ends is not None:
                ends[at] = ending.pack([request.stops.sequences], sides.ends)[0]
            if grammar is not None and sides.grammar is not None:
                canvas, ends_at = tokens[at][None, geometry.prompt :], np.array([tail + request.max_new])
                packed = languages.pack([request.grammar], canvas, canvas == mask, np.array([tail]), ends_at)
                jax.tree.map(lambda whole, one: whole.__setitem__(at, one[0]), grammar, packed)
        rows = slots.Queue(tokens, pads, first, stop, seed, key, owner, numbers, ends, grammar, sample)
        return slots.place(rows, count, self.mesh)

    def _send(self, requests: Sequence[Request], group: Group, sink: Sink, *, drain: bool = False) -> None:
        """Starts a queue on the device and returns at once."""
        sent = {next(self._tickets): request for request in requests}
        self._open |= sent
        with self._isolated(group, sink):
            decoding = self._program(group)
            waiting, count = self._queue(sent, group)
            if self._pool is None:
                self._pool = slots.start(decoding, slots=self.slots, mesh=self.mesh, sides=group.sides)
            more = jnp.asarray(drain)
            self._pool, harvest = slots.advance(self._pool, waiting, count, more, decoding, mesh=self.mesh)
            self._under_way.append((time.monotonic(), harvest))

    def _receive(self, group: Group, sink: Sink) -> None:
        """Waits for the oldest queue and hands on what finished."""
        with self._isolated(group, sink):
            sent, harvest = self._under_way.popleft()
            harvest = jax.device_get(harvest)
            if self._under_way:  # a steady state: the next one began when this one ended
                self._pace(time.monotonic() - sent, int(harvest.count.sum()))
            self.counts.trips += int(harvest.trips.sum())
            self.counts.busy += int(harvest.busy.sum())
            for replica in range(self.replicas):
                for index in range(int(harvest.count[replica])):
                    at = replica, index
                    request = self._open.pop(int(harvest.owner[at]))
                    tokens, status = harvest.tokens[at][self._columns(request, group)], Status(int(harvest.status[at]))
                    sink(request, Result(tokens, int(harvest.forwards[at]), str(status)))

    def _columns(self, request: Request, group: Group) -> slice:
        """The columns of a canvas that are a row's answer."""
        tail = len(request.tokens) % group.geometry.block if self.aligned else 0
        return slice(tail, tail + request.max_new)

    @contextlib.contextmanager
    def _isolated(self, group: Group, sink: Sink) -> Iterator[None]:
        """A group whose program cannot be built, or does not fit, harms no other: its rows leave the device."""
        try:
            yield
        except (InputError, jax.errors.JaxRuntimeError) as error:
            if not (isinstance(error, InputError) or exhausted(error)):
                raise
            self._closed[group] = str(error) if isinstance(error, InputError) else None
            rows, self._open, self._pool = self._open.values(), {}, None
            self._under_way.clear()
            self._turn_away(rows, group, sink)

    def _turn_away(self, requests: Iterable[Request], group: Group, sink: Sink) -> None:
        """Rows of a closed group. That the job itself has a program was checked, so an error is the rows' own."""
        reason = self._closed[group]
        for request in requests:
            sink(request, None if reason is None else request.refused(reason))

    def _pace(self, seconds: float, rows: int) -> None:
        most = self.slots * self.replicas
        wanted = int(rows * SECONDS * AHEAD / max(seconds, 1e-3))
        self._size = max(self.replicas, min(most, wanted))

    def _drain(self, sink: Sink) -> None:
        """Finishes every row that has a slot."""
        if self._group is not None and self._pool is not None:
            self._send([], self._group, sink, drain=True)
        while self._group is not None and self._under_way:
            self._receive(self._group, sink)

    def _enter(self, group: Group, sink: Sink) -> None:
        """Makes way for another group; its slots are new, its program may have been compiled before."""
        if group == self._group:
            return
        self._drain(sink)
        self._group, self._pool, self._size = group, None, self.slots * self.replicas

    def _next(self, feed: Feed, sink: Sink) -> list[Request] | None:
        """The next window; what is under way is received until there is one."""
        while True:
            try:
                return feed.get_nowait()
            except queue.Empty:
                if self._group is None or not self._under_way:
                    break
                self._receive(self._group, sink)
        self._drain(sink)
        return feed.get()

    def run(self, feed: Feed, sink: Sink, stopped: Callable[[], bool]) -> None:
        """Works off windows of requests until None comes.

        The slots stay filled from one window to the next; they run empty only between groups, at the end, or when
        the feed is late.
        """
        waiting: dict[Group, deque[Request]] = {}
        sink = Gathered(sink)
        while not stopped() and (window := self._next(feed, sink)) is not None:
            for request in window:
                each = (dataclasses.replace(request, sample=index) for index in range(request.wants.n))
                waiting.setdefault(self.group(request), deque()).extend(each)
            for group in sorted(waiting, key=lambda group: group != self._group):
                self._work(group, waiting[group], sink, stopped)
            waiting = {group: rest for group, rest in waiting.items() if rest}
        if not stopped():
            self._drain(sink)

    def _work(self, group: Group, rows: deque[Request], sink: Sink, stopped: Callable[[], bool]) -> None:
        """Sends the rows of a group queue by queue; the last ones are still under way when it returns."""
        if group not in self._closed:
            self._enter(group, sink)
        while rows and group not in self._closed and not stopped():
            self._send([rows.popleft() for _ in range(min(self._size, len(rows)))], group, sink)
            if len(self._under_way) > AHEAD - 1:
                self._receive(group, sink)
        if group in self._closed:
            self._turn_away(rows, group, sink)
            rows.clear()


def doubled(columns: int, least: int) -> int:
    """The first of columns, 2 columns, 4 columns, ... that is no less, so that few programs serve rows of any length."""
    while columns < least:
        columns *= 2
    return columns
