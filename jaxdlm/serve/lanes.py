"""Rows that share a program, and the slots that they pass through."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm.batch import slots
from jaxdlm.batch.chunks import Chunks
from jaxdlm.batch.engine import Group, Outcome, Result, SlotEngine
from jaxdlm.batch.rows import Request
from jaxdlm.core import compose
from jaxdlm.core.carry import Status
from jaxdlm.serve.rows import Block, Canvas, Ended, Message, Row

TURN = 0.05  # seconds of forwards after which the host looks who has come and who has gone
LONG = 0.25  # likewise, while every slot is taken: who comes finds none
HOLD = 0.02  # and for which a block waits for those of other rows, where there are many


class UnderWay(NamedTuple):
    """A turn that the device is working on."""

    sent: float
    handed: list[tuple[int, Row]]
    told: Any


class Rows:
    """What lanes hold: rows that wait, in their order, and those that are decoded, by ticket or place."""

    def __init__(self) -> None:
        self.waiting: deque[Row] = deque()
        self.live: dict[int, Row] = {}

    @property
    def rows(self) -> Iterator[Row]:
        """All that are here."""
        yield from self.live.values()
        yield from self.waiting

    def taken(self, most: int) -> list[Row]:
        """The next that wait, up to so many; those that nobody waits for are dropped."""
        self.waiting = deque(row for row in self.waiting if not row.gone)
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]


class Lane(Rows):
    """Slots for the rows of one group. Rows come in between any two forwards, and leave when they are done or nobody waits
    for them; none notices another."""

    def __init__(self, engine: SlotEngine, group: Group) -> None:
        super().__init__()
        self.engine, self.group = engine, group
        self.decoding = engine._program(group)
        self.owner = np.full((engine.replicas, engine.slots), slots.FREE, np.int32)
        self.pool = slots.start(self.decoding, slots=engine.slots, mesh=engine.mesh, sides=group.sides)
        self.nobody = engine._queue({}, group)
        self.seconds = 0.0  # of a forward of all slots; 0: not known yet, and a turn is one forward
        self.compiled = False
        rule = self.decoding.policy
        whole = compose.rewrites(rule) and rule.traits.view == "canvas"
        self.final = not whole and not compose.moves(rule)  # whether closed blocks stay as they are

    @property
    def busy(self) -> bool:
        return bool(self.live or self.waiting)

    def send(self, *, admit: bool = True) -> UnderWay:
        """Starts a turn on the device and returns at once. admit: whether waiting rows may come in."""
        rows = self.taken(self.engine.slots * self.engine.replicas if admit else 0)
        handed = [(next(self.engine._tickets), row) for row in rows]
        self.live |= handed
        queue, count = self.nobody
        if handed:
            queue, count = self.engine._queue({ticket: row.request for ticket, row in handed}, self.group)
        sent = time.monotonic()
        self.pool, *told = slots.take_turn(self.pool, queue, count, self._until(), self.decoding, mesh=self.engine.mesh)
        return UnderWay(sent, handed, told)

    def _until(self) -> slots.Turn:
        """How far the next turn goes."""
        rows = self.live.values()
        taken = len(rows) >= self.engine.slots * self.engine.replicas
        least, most = 1, self._forwards(LONG if taken else TURN)
        if any(row.canvas for row in rows):
            most = 1
        elif any(row.blocks for row in rows):
            least = self._forwards(HOLD * min(1, (len(rows) - 1) / 8))
        else:
            least = most
        gone = [ticket for ticket, row in self.live.items() if row.gone]
        each = np.full(self.engine.replicas, 1, np.int32)
        until = slots.Turn(least * each, most * each, np.isin(self.owner, gone))
        return jax.device_put(until, NamedSharding(self.engine.mesh, PartitionSpec("data")))

    def _forwards(self, seconds: float) -> int:
        return max(1, math.ceil(seconds / self.seconds)) if self.seconds else 1

    def receive(self, turn: UnderWay) -> list[Message]:
        """What is to be told after a turn, which is waited for."""
        harvest, standing = turn.told
        watched = [(ticket, row) for ticket, row in self.live.items() if row.blocks or row.canvas]
        if not watched:
            standing = standing._replace(tokens=None, pending=None, block=None, forwards=None)
        harvest, standing = jax.device_get((harvest, standing))
        trips = int(harvest.trips.max())
        if trips and self.compiled:
            now = (time.monotonic() - turn.sent) / trips
            self.seconds = 0.7 * self.seconds + 0.3 * now if self.seconds else now
        self.compiled = self.compiled or trips > 0
        self.engine.counts.trips += int(harvest.trips.sum())
        self.engine.counts.busy += int(harvest.busy.sum())
        self._seat(turn.handed, standing)
        messages: list[Message] = list(self._ended(harvest))
        return [*messages, *self._standing(watched, standing)] if watched else messages

    def _seat(self, handed: Sequence[tuple[int, Row]], standing: Any) -> None:
        """Notes who has a slot; rows that found none wait at the front again."""
        late = []
        for index, (ticket, row) in enumerate(handed):
            if index // self.engine.replicas >= standing.head[index % self.engine.replicas]:
                late.append(self.live.pop(ticket))
            row.begun = row.begun or ticket in self.live
        self.waiting.extendleft(reversed(late))
        left = map(int, np.setdiff1d(self.owner, standing.owner))
        for ticket in [each for each in left if each in self.live and self.live[each].gone]:
            del self.live[ticket]
        self.owner = standing.owner

    def _ended(self, harvest: Any) -> Iterator[Message]:
        for replica in range(self.engine.replicas):
            for index in range(int(harvest.count[replica])):
                at = replica, index
                ended = self.live.pop(int(harvest.owner[at]), None)
                if ended is not None:
                    tokens = harvest.tokens[at][self.engine._columns(ended.request, self.group)]
                    status = str(Status(int(harvest.status[at])))
                    yield ended, Ended(Result(tokens, int(harvest.forwards[at]), status))

    def _standing(self, watched: Sequence[tuple[int, Row]], standing: Any) -> Iterator[Message]:
        places = {int(owner): at for at, owner in np.ndenumerate(self.owner) if owner != slots.FREE}
        for ticket, row in watched:
            if (at := places.get(ticket)) is None or row.gone:
                continue
            columns = self.engine._columns(row.request, self.group)
            tokens, pending = standing.tokens[at][columns], standing.pending[at][columns]
            forwards = int(standing.forwards[at])
            if row.canvas:
                yield row, Canvas(tokens, pending, forwards)
            closed = int(standing.block[at]) * self.group.geometry.block - columns.start
            closed = min(closed, int(np.argmax(pending)) if pending.any() else len(pending))
            if row.blocks and self.final and closed > row.told:
                row.told = closed
                yield row, Block(tokens[:closed], forwards)


class BatchLane(Rows):
    """Rows that an autoregressive model goes on with, in whole batches: one of them at a time, nobody comes in between."""

    def __init__(self, engine: Chunks, group: Any) -> None:
        super().__init__()
        self.engine, self.group = engine, group

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def send(self, *, admit: bool = True) -> UnderWay:
        """The rows of the next batch; the device begins once they are waited for."""
        rows = self.taken(self.engine._size(self.group) if admit else 0)
        for row in rows:
            row.begun = True
        self.live = dict(enumerate(rows))
        return UnderWay(time.monotonic(), list(self.live.items()), None)

    def receive(self, turn: UnderWay) -> list[Message]:
        """The answers of a batch, which is waited for."""
        rows = [row for _, row in turn.handed]
        by_request = {id(row.request): row for row in rows}
        messages: list[Message] = []

        def sink(request: Request, outcome: Outcome) -> None:
            messages.append((by_request[id(request)], Ended(outcome)))

        if rows:
            self.engine._chunk([row.request for row in rows], self.group, sink)
        self.live = {}
        return messages


def lane_of(engine: SlotEngine | Chunks, group: Any) -> Lane | BatchLane:
    """A lane for the rows of a group. Raises InputError where they have no program."""
    return Lane(engine, group) if isinstance(engine, SlotEngine) else BatchLane(engine, group)


def answers_of(engine: SlotEngine | Chunks, request: Request) -> list[Request]:
    """A request as the lanes take it: each answer by itself where each has a slot of its own."""
    if not isinstance(engine, SlotEngine):
        return [request]
    return [dataclasses.replace(request, sample=index) for index in range(request.wants.n)]
