"""Requests in, results out: groups rows by the columns they need and keeps the slots of the device filled."""

import dataclasses
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm._decode import blocked, check, decode
from jaxdlm.batch import slots
from jaxdlm.batch.rows import Request
from jaxdlm.core import ending, loop
from jaxdlm.core.carry import Geometry, Status
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of, geometry_of
from jaxdlm.rules.per_row import per_row, with_number
from jaxdlm.sharding import striped
from jaxdlm.speculative.policy import Speculation
from jaxdlm.stops import Stops

AHEAD = 2  # queues under way at once: one is worked on, the next lies ready
SECONDS = 2.0  # what one queue may take, so that finished rows do not wait long on the device


class Result(NamedTuple):
    """How a row came out."""

    tokens: np.ndarray  # int32[max_new]
    forwards: int
    status: str


Sink = Callable[[Request, Result], None]


class Feed(Protocol):
    """Windows of requests; None: there are no more. `get_nowait` raises queue.Empty where there is none yet."""

    def get(self) -> list[Request] | None: ...

    def get_nowait(self) -> list[Request] | None: ...


@dataclasses.dataclass
class Counts:
    """What the device has done."""

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
        return "plain" if temperature is None else "heated" if temperature > 0 else "cold"


class Group(NamedTuple):
    """Rows that share a program: a function of the row and the job alone."""

    geometry: Geometry
    form: str
    ends: tuple[int, int] | None  # sides of the sequences that end its rows


class Slots:
    """Runs rows through `jaxdlm.batch.slots`; see `run`."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
    ):
        self.aligned = lm.config.attention == "block_causal"
        least = geometry_of(lm.config, np.array([1]), max_new, block)
        self.block = least.block
        self.lm, self.cache = lm, cache
        columns = slots * loop.width(policies.plain, least)
        self.model = striped(blocked(lm.model, self.block), lm.params, columns)
        self.max_new, self.mesh, self.slots = max_new, mesh, slots
        self.replicas = mesh.shape["data"]
        self.policies = policies
        self.counts = Counts(slots=slots)
        self._size = slots * self.replicas  # rows of the next queue
        self._open: dict[int, Request] = {}
        self._under_way: deque[tuple[float, Any]] = deque()
        self._group: Group | None = None
        self._pool: Any = None

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, request: Request) -> Group:
        """The prompt's columns as its bucket says, the canvas from the job's max_new on in powers of two."""
        least = geometry_of(self.lm.config, np.array([len(request.tokens)]), self.max_new, self.block)
        spare, blocks = self.block - 1 if self.aligned else 0, least.blocks
        while blocks * self.block < request.max_new + spare:
            blocks *= 2
        form = self.policies.form(request.temperature)
        return Group(Geometry(least.prompt, self.block, blocks), form, ending.shape([request.stops.sequences]))

    def _rule(self, group: Group) -> Any:
        rule = getattr(self.policies, group.form)
        return per_row(rule) if group.form == "heated" else rule

    # -------------------------------------------------------------------------------------------------- queues

    def _queue(self, requests: Sequence[Request], group: Group) -> tuple[Any, Any]:
        """Requests dealt to the replicas in turn."""
        geometry, size, ids = group.geometry, self.slots, self.lm.config.tokens
        shape = (self.replicas, size)
        tokens = np.full((*shape, geometry.length), ids.pad, np.int32)
        pads, first, stop, seed, owner = (np.zeros(shape, np.int32) for _ in range(5))
        number = np.zeros(shape, np.float32) if group.form == "heated" else None
        key, count = np.zeros(shape, np.uint32), np.zeros(self.replicas, np.int32)
        ends = None if group.ends is None else np.full((*shape, *group.ends), ending.ANY, np.int32)
        for index, request in enumerate(requests):
            at = index % self.replicas, index // self.replicas
            count[at[0]] += 1
            length = len(request.tokens)
            tail = length % self.block if self.aligned else 0
            end = tail + request.max_new
            end = -(-end // self.block) * self.block if self.aligned else end
            begin = geometry.prompt + tail
            tokens[at][begin - length : begin] = request.tokens
            tokens[at][begin : geometry.prompt + end] = ids.mask
            pads[at], first[at], stop[at] = begin - length, tail, end
            seed[at], key[at], owner[at] = request.seed, request.key, request.row
            if number is not None:
                number[at] = request.temperature
            if ends is not None and group.ends is not None:
                ends[at] = ending.pack([request.stops.sequences], group.ends)[0]
        return slots.place(slots.Queue(tokens, pads, first, stop, seed, key, owner, number, ends), count, self.mesh)

    def _send(self, requests: Sequence[Request], group: Group, *, drain: bool = False) -> None:
        """Starts a queue on the device and returns at once."""
        waiting, count = self._queue(requests, group)
        where = {"model": self.model, "geometry": group.geometry, "mesh": self.mesh}
        parts = (self.lm.params, self._rule(group), self.cache)
        if self._pool is None:
            self._pool = slots.start(*parts, **where, slots=self.slots, ends=group.ends)
        self._pool, harvest = slots.advance(self._pool, waiting, count, jnp.asarray(drain), *parts, **where)
        self._open |= {request.row: request for request in requests}
        self._under_way.append((time.monotonic(), harvest))

    def _receive(self, sink: Sink) -> None:
        """Waits for the oldest queue and hands on what finished."""
        sent, harvest = self._under_way.popleft()
        harvest = jax.device_get(harvest)
        if self._under_way:  # a steady state: the next one began when this one ended
            self._pace(time.monotonic() - sent, int(harvest.count.sum()))
        self.counts.trips += int(harvest.trips.sum())
        self.counts.busy += int(harvest.busy.sum())
        for replica in range(self.replicas):
            for index in range(int(harvest.count[replica])):
                request = self._open.pop(int(harvest.owner[replica, index]))
                tail = len(request.tokens) % self.block if self.aligned else 0
                tokens = harvest.tokens[replica, index, tail : tail + request.max_new]
                status = Status(int(harvest.status[replica, index]))
                sink(request, Result(tokens, int(harvest.forwards[replica, index]), str(status)))

    def _pace(self, seconds: float, rows: int) -> None:
        most = self.slots * self.replicas
        wanted = int(rows * SECONDS * AHEAD / max(seconds, 1e-3))
        self._size = max(self.replicas, min(most, wanted))

    def _drain(self, sink: Sink) -> None:
        """Finishes every row that has a slot."""
        if self._group is not None:
            self._send([], self._group, drain=True)
        while self._under_way:
            self._receive(sink)

    def _enter(self, group: Group, sink: Sink) -> None:
        """Makes way for another group; its slots are new, its program may have been compiled before."""
        if group == self._group:
            return
        self._drain(sink)
        self._group, self._pool, self._size = group, None, self.slots * self.replicas

    def run(self, feed: Feed, sink: Sink, stopped: Callable[[], bool]) -> None:
        """Works off windows of requests until None comes.

        The slots stay filled from one window to the next; they run empty only between groups, at the end, or when
        the feed is late.
        """
        waiting: dict[Group, deque[Request]] = {}
        while not stopped():
            try:
                window = feed.get_nowait()
            except queue.Empty:
                if self._under_way:
                    self._receive(sink)
                    continue
                self._drain(sink)
                window = feed.get()
            if window is None:
                break
            for request in window:
                waiting.setdefault(self.group(request), deque()).append(request)
            for group in sorted(waiting, key=lambda group: group != self._group):
                self._enter(group, sink)
                while waiting[group] and not stopped():
                    some = [waiting[group].popleft() for _ in range(min(self._size, len(waiting[group])))]
                    self._send(some, group)
                    if len(self._under_way) > AHEAD - 1:
                        self._receive(sink)
            waiting = {group: rest for group, rest in waiting.items() if rest}
        if not stopped():
            self._drain(sink)


class Chunks:
    """Whole batches through `decode`, for policies that are no rules (autoregressive, draft and target)."""

    def __init__(
        self, lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
    ):
        self.lm, self.policies, self.cache, self.block, self.slots = lm, policies, cache, block, slots
        self.counts = Counts(slots=slots)

    def run(self, feed: Feed, sink: Sink, stopped: Callable[[], bool]) -> None:
        """Works off windows of requests until None comes; rows that ask for the same settings share a batch."""
        while (window := feed.get()) is not None:
            groups: dict[Any, list[Request]] = {}
            for request in window:
                own = request.max_new, request.seed, request.temperature, request.stops
                groups.setdefault((*own, bucket_of(len(request.tokens))), []).append(request)
            for (max_new, seed, heat, stops, _), requests in groups.items():
                for begin in range(0, len(requests), self.slots):
                    if stopped():
                        return
                    self._chunk(requests[begin : begin + self.slots], max_new, seed, heat, stops, sink)

    def _chunk(
        self, requests: Sequence[Request], max_new: int, seed: int, heat: float | None, stops: Stops, sink: Sink
    ) -> None:
        policy = getattr(self.policies, self.policies.form(heat))
        policy = with_number(policy, "temperature", np.float32(heat)) if heat else policy
        fill = [requests[0]] * (self.slots - len(requests))  # one shape, one program
        out = decode(
            self.lm, [request.tokens for request in [*requests, *fill]], policy, self.cache, max_new, self.block, seed,
            [request.key for request in [*requests, *fill]], "none", stop=stops,
        )  # fmt: skip
        self.counts.trips += int(out.forwards.max())
        self.counts.busy += int(out.forwards[: len(requests)].sum())
        for index, request in enumerate(requests):
            sink(request, Result(out.tokens[index], int(out.forwards[index]), str(out.status[index])))


def make_engine(
    lm: Any, policies: Policies, cache: Any, *, max_new: int, block: int | None, mesh: Any, slots: int
) -> Slots | Chunks:
    """Slots for rules, whole batches for everything else. Raises InputError where model and policy do not meet."""
    make: Any = Slots
    if isinstance(policies.plain, Speculation):
        make = Chunks
        if lm.config.noise == "mask" and lm.config.tokens.mask is not None:
            raise InputError(f"{lm.name} is a diffusion model: this policy needs an autoregressive one")
    else:
        check(lm, policies.plain, cache)
    return make(lm, policies, cache, max_new=max_new, block=block, mesh=mesh, slots=slots)
