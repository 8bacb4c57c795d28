"""Requests in, results out: groups rows by the columns they need and keeps the slots of the device filled."""

import contextlib
import dataclasses
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm._decode import Continuation, exhausted, prepare
from jaxdlm.batch import slots
from jaxdlm.batch.rows import Refusal, Request
from jaxdlm.core import automaton, ending, loop
from jaxdlm.core.carry import Geometry, Status
from jaxdlm.core.keys import row_keys
from jaxdlm.core.rule import Decoding
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of, geometry_of
from jaxdlm.resolve import blocked, check, check_continuation
from jaxdlm.rules.grammar import constrained
from jaxdlm.rules.per_row import per_row, with_number
from jaxdlm.sharding import beside, striped
from jaxdlm.speculative.pair import check as check_pair
from jaxdlm.speculative.policy import Speculation

AHEAD = 2  # queues under way at once: one is worked on, the next lies ready
READY = 2  # and as many again of waiting rows keep the device busy until more have been read
SECONDS = 2.0  # what one queue may take, so that finished rows do not wait long on the device


class Result(NamedTuple):
    """How a row came out."""

    tokens: np.ndarray  # int32[max_new]
    forwards: int
    status: str


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
    form: str
    sides: slots.Sides


class SlotEngine:
    """Runs rows through `jaxdlm.batch.slots`; see `run`."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
    ):
        self.aligned = lm.config.attention == "block_causal"
        self.whole = self.aligned or lm.config.attention == "prefix_canvas"  # rows end with a block
        self.lm, self.policies, self.cache, self.block = lm, policies, cache, block
        self.max_new, self.mesh, self.slots = max_new, mesh, slots
        self.replicas = mesh.shape["data"]
        self.counts = Counts(slots=slots)
        self.ahead = (AHEAD + READY) * slots * self.replicas
        self._size = slots * self.replicas  # rows of the next queue
        self._open: dict[int, Request] = {}
        self._under_way: deque[tuple[float, Any]] = deque()
        self._group: Group | None = None
        self._pool: Any = None
        self._closed: dict[Group, str | None] = {}  # groups without a program: why, or None where it does not fit

    def check(self) -> None:
        """Raises InputError where the rows that state nothing of their own have no program."""
        group = Group(self._geometry(1, self.max_new), "plain", slots.Sides())
        decoding = self._program(group)
        pool = slots.start.eval_shape(decoding, slots=self.slots, mesh=self.mesh, sides=group.sides)
        slots.advance.eval_shape(pool, *self._queue([], group), jnp.asarray(False), decoding, mesh=self.mesh)

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, request: Request) -> Group:
        """The group of a row, by what is its own."""
        geometry, form = self._geometry(len(request.tokens), request.max_new), self.policies.form(request.temperature)
        shape = None if request.grammar is None else automaton.shape_of(request.grammar)
        return Group(geometry, form, slots.Sides(ending.shape([request.stops.sequences]), shape))

    def _geometry(self, length: int, max_new: int) -> Geometry:
        """The prompt's columns as its bucket says, the canvas that of the job's max_new doubled until the row fits."""
        return geometry_of(self.lm.config, np.array([length]), doubled(self.max_new, max_new), self.block)

    def _program(self, group: Group) -> Decoding:
        """What a group's program is compiled of."""
        rule = getattr(self.policies, group.form)
        rule = rule if group.sides.grammar is None else constrained(rule)
        rule = per_row(rule) if group.form == "heated" else rule
        columns = self.slots * loop.width(rule, group.geometry)
        model = striped(blocked(self.lm.model, group.geometry.block), self.lm.params, columns)
        return Decoding(model, self.lm.params, rule, self.cache, group.geometry)

    # -------------------------------------------------------------------------------------------------- queues

    def _queue(self, requests: Sequence[Request], group: Group) -> tuple[Any, Any]:
        """Requests dealt to the replicas in turn."""
        geometry, size, ids = group.geometry, self.slots, self.lm.config.tokens
        block, mask = geometry.block, ids.pad if ids.mask is None else ids.mask
        shape = (self.replicas, size)
        tokens = np.full((*shape, geometry.length), ids.pad, np.int32)
        pads, first, stop, seed, owner = (np.zeros(shape, np.int32) for _ in range(5))
        number = np.zeros(shape, np.float32) if group.form == "heated" else None
        key, count = np.zeros(shape, np.uint32), np.zeros(self.replicas, np.int32)
        sides = group.sides
        ends = None if sides.ends is None else np.full((*shape, *sides.ends), ending.ANY, np.int32)
        grammar = None if sides.grammar is None else automaton.blank(self.lm.config.vocab_size, sides.grammar, shape)
        for index, request in enumerate(requests):
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
            seed[at], key[at], owner[at] = request.seed, request.key, request.row
            if number is not None:
                number[at] = request.temperature
            if ends is not None and sides.ends is not None:
                ends[at] = ending.pack([request.stops.sequences], sides.ends)[0]
            if grammar is not None and sides.grammar is not None:
                own = automaton.pack(
                    [request.grammar], sides.grammar, np.array([tail]), np.array([tail + request.max_new])
                )
                jax.tree.map(lambda whole, one: whole.__setitem__(at, one[0]), grammar, own)
        rows = slots.Queue(tokens, pads, first, stop, seed, key, owner, number, ends, grammar)
        return slots.place(rows, count, self.mesh)

    def _send(self, requests: Sequence[Request], group: Group, sink: Sink, *, drain: bool = False) -> None:
        """Starts a queue on the device and returns at once."""
        self._open |= {request.row: request for request in requests}
        with self._isolated(group, sink):
            decoding = self._program(group)
            waiting, count = self._queue(requests, group)
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
                    request = self._open.pop(int(harvest.owner[replica, index]))
                    tail = len(request.tokens) % group.geometry.block if self.aligned else 0
                    tokens = harvest.tokens[replica, index, tail : tail + request.max_new]
                    status = Status(int(harvest.status[replica, index]))
                    sink(request, Result(tokens, int(harvest.forwards[replica, index]), str(status)))

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
        while not stopped() and (window := self._next(feed, sink)) is not None:
            for request in window:
                waiting.setdefault(self.group(request), deque()).append(request)
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


class Chunks:
    """Whole batches through `decode`, for policies that are no rules (autoregressive, draft and target)."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
    ):
        self.policies = beside(lm.params, (), policies)[1]  # once: a draft's weights are no small thing to send
        self.lm, self.cache, self.block, self.slots = lm, cache, block, slots * mesh.shape["data"]
        self.max_new, self.ahead = max_new, (1 + READY) * self.slots
        self.counts = Counts(slots=self.slots)

    def check(self) -> None:
        """Raises InputError where target and draft do not meet."""
        check_pair(self.lm, self.policies.plain, self.max_new, 1)

    def run(self, feed: Feed, sink: Sink, stopped: Callable[[], bool]) -> None:
        """Works off windows of requests until None comes; rows of one program and one temperature share a batch."""
        while (window := feed.get()) is not None:
            groups: dict[Any, list[Request]] = {}
            for request in window:
                ends = ending.shape([request.stops.sequences])
                group = (
                    doubled(self.max_new, request.max_new),
                    request.temperature,
                    bucket_of(len(request.tokens)),
                    ends,
                    None if request.grammar is None else automaton.shape_of(request.grammar),
                )
                groups.setdefault(group, []).append(request)
            for (columns, temperature, *_), requests in groups.items():
                for begin in range(0, len(requests), self.slots):
                    if stopped():
                        return
                    self._chunk(requests[begin : begin + self.slots], columns, temperature, sink)

    def _chunk(self, requests: Sequence[Request], columns: int, temperature: float | None, sink: Sink) -> None:
        try:
            out = self._prepared(requests, columns, temperature).run()
        except InputError as error:  # of one of them: alone and in its own columns, each is told its own
            for request in requests:
                if (len(requests), columns) == (1, request.max_new):
                    sink(request, request.refused(str(error)))
                else:
                    self._chunk([request], request.max_new, temperature, sink)
            return
        except jax.errors.JaxRuntimeError as error:
            if not exhausted(error):
                raise
            for request in requests:
                sink(request, None)
            return
        self.counts.trips += int(out.forwards.max())
        self.counts.busy += int(out.forwards[: len(requests)].sum())
        for index, request in enumerate(requests):
            tokens = out.tokens[index, : request.max_new]
            sink(request, Result(tokens, int(out.forwards[index]), str(out.status[index])))

    def _prepared(self, requests: Sequence[Request], columns: int, temperature: float | None) -> Any:
        """A decode of the rows in so many columns, of which each has its own number, seed and ends."""
        policy = getattr(self.policies, self.policies.form(temperature))
        policy = with_number(policy, "temperature", np.float32(temperature)) if temperature else policy
        rows = [*requests, *[requests[0]] * (self.slots - len(requests))]  # one shape, one program
        whole = prepare(
            self.lm,
            [row.tokens for row in rows],
            policy,
            self.cache,
            columns,
            self.block,
            save="none",
            stop=False,
            grammar=[row.grammar for row in rows],
        ).parts[0]  # rows of one bucket are one program
        assert isinstance(whole, Continuation)
        stops = [row.stops.sequences for row in rows]
        own = {
            "stop": np.array([len(row.tokens) + row.max_new for row in rows], np.int32),
            "key": row_keys(
                np.array([row.seed for row in rows], np.int32), np.array([row.key for row in rows], np.uint32)
            ),
            "ends": None if (sides := ending.shape(stops)) is None else ending.pack(stops, sides),
        }
        return whole._replace(rows=whole.rows._replace(**own))


def doubled(columns: int, least: int) -> int:
    """The first of columns, 2 columns, 4 columns, ... that is no less, so that few programs serve rows of any length."""
    while columns < least:
        columns *= 2
    return columns


def make_engine(
    lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
) -> SlotEngine | Chunks:
    """Slots for rules, whole batches for everything else. Raises InputError for what no row could be decoded with."""
    make: Any = Chunks if isinstance(policies.plain, Speculation) else SlotEngine
    if make is SlotEngine:
        check(lm, policies.plain, cache)
    else:
        check_continuation(cache, block)
    engine = make(lm, policies, cache, max_new=max_new, block=block, mesh=mesh, slots=slots)
    engine.check()
    return engine
