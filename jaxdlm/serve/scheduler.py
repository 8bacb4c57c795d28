"""The thread that owns the device: takes rows in, lets lanes have their turns, and tells what comes out."""

import contextlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdlm.batch.decisions import decided
from jaxdlm.errors import InputError, exhausted
from jaxdlm.serve.lanes import BatchLane, Lane, lane_of
from jaxdlm.serve.rows import Ended, Message, Questions, Row, Unserved

LANES = 4  # programs that have slots at the same time
QUESTIONS = 16  # rows of questions that are answered between two turns


class Full(Exception):
    """No more rows may wait. seconds: after which it may be worth another try."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests wait: try again in {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The server ends, or has failed."""


class Scheduler:
    """Rows in, messages out.

    post: hands messages to the thread of the server. most: rows that may wait. failed: is called where the device has.
    """

    def __init__(
        self, post: Callable[[Sequence[Message]], None], most: int, failed: Callable[[], None] = lambda: None
    ) -> None:
        self.post, self.most, self.failed = post, most, failed
        self.lanes: OrderedDict[Any, Lane | BatchLane] = OrderedDict()
        self.parked: OrderedDict[Any, deque[Row]] = OrderedDict()  # rows without a lane
        self.questions: deque[Questions] = deque()
        self.failure: BaseException | None = None
        self._new: list[Row] = []
        self._told: list[Message] = []  # what turns have brought, and nobody was told yet
        self._wake = threading.Condition()
        self.closing = self._stopping = False
        self._rate = 1.0  # rows per second, lately
        self._ends: deque[float] = deque(maxlen=64)  # when rows ended
        self._thread = threading.Thread(target=self._guarded, name="device", daemon=True)

    # ------------------------------------------------------------------------------------ called by the server

    def start(self) -> None:
        """From here on rows are decoded."""
        self._thread.start()

    def submit(self, rows: Sequence[Row | Questions]) -> None:
        """Takes rows in, all or none. Raises Full or Closed."""
        with self._wake:
            if self.closing or self.failure is not None:
                raise Closed
            if self.waiting + len(rows) > self.most:
                raise Full(max(1, min(600, round(self.waiting / self._rate))))
            self._new += [row for row in rows if isinstance(row, Row)]
            self.questions.extend(row for row in rows if isinstance(row, Questions))
            self._wake.notify()

    def leave(self, rows: Sequence[Row | Questions]) -> None:
        """Nobody waits for these rows: they give back their slots after the turn that is under way."""
        for row in rows:
            row.gone = True
        with self._wake:
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """Rows without a slot."""
        lanes, parked = list(self.lanes.values()), list(self.parked.values())
        return len(self._new) + len(self.questions) + sum(map(len, parked)) + sum(len(lane.waiting) for lane in lanes)

    @property
    def busy(self) -> int:
        """Rows in slots."""
        return sum(row.begun for lane in list(self.lanes.values()) for row in list(lane.live.values()))

    def close(self) -> None:
        """No row is taken in from here on; those that are here are finished."""
        with self._wake:
            self.closing = True

    def stop(self, seconds: float = 10.0) -> None:
        """Ends the thread after the turn that is under way."""
        with self._wake:
            self.closing = self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    # -------------------------------------------------------------------------------------- the thread itself

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error
        finally:
            with contextlib.suppress(RuntimeError):  # the server's loop may be over
                self.post([*self._told, *((row, None) for row in self._rest())])
            if self.failure is not None:
                self.failed()

    def _rest(self) -> list[Row | Questions]:
        """All that will have no answer."""
        with self._wake:
            rows = [row for lane in self.lanes.values() for row in lane.rows]
            rows += [row for parked in self.parked.values() for row in parked] + self._new
            return [*rows, *self.questions]

    def _work(self) -> None:
        while not self._stopping:
            self._sort()
            for key, lane in list(self.lanes.items()):
                if lane.busy:
                    self._turn(key, lane)
            self._told += self._answered()
            if not self._busy:
                self._pass_on()
                self._sleep()

    @property
    def _busy(self) -> bool:
        return bool(self.parked or self.questions or self._new) or any(lane.busy for lane in self.lanes.values())

    def _sleep(self) -> None:
        with self._wake:
            while not (self._busy or self._stopping):
                self._wake.wait()

    def _pass_on(self) -> None:
        """Tells what turns have brought."""
        told, self._told = self._told, []
        self._tell(told)

    def _turn(self, key: Any, lane: Lane | BatchLane) -> None:
        """A turn of a lane; what the one before it brought is passed on while the device works."""
        try:
            leaving = bool(self.parked) and key == next(iter(self.lanes))
            under_way = lane.send(admit=not leaving)
            self._pass_on()
            self._told += lane.receive(under_way)
        except Exception as error:
            del self.lanes[key]
            self._refuse(list(lane.rows), error)

    def _sort(self) -> None:
        """New rows into the lanes of their programs; where all places are taken the oldest lane makes way."""
        with self._wake:
            new, self._new = self._new, []
        for row in [row for row in new if not row.gone]:
            try:
                key = row.engine, row.engine.group(row.request)
                self.parked.setdefault(key, deque()).append(row)
            except Exception as error:
                self._refuse([row], error)
        for key in list(self.parked):
            if key in self.lanes:
                self.lanes[key].waiting.extend(self.parked.pop(key))
        self._make_room()
        while self.parked and len(self.lanes) < LANES:
            key, rows = self.parked.popitem(last=False)
            try:
                self.lanes[key] = lane_of(*key)
                self.lanes[key].waiting.extend(rows)
            except Exception as error:
                self._refuse(list(rows), error)

    def _make_room(self) -> None:
        for key, lane in list(self.lanes.items()):
            if len(self.lanes) + len(self.parked) > LANES and not lane.live and self.parked:
                del self.lanes[key]
                if lane.waiting:
                    self.parked[key] = lane.waiting

    def _answered(self) -> list[Message]:
        """Some rows of questions, with their answers."""
        with self._wake:
            batch = [self.questions.popleft() for _ in range(min(QUESTIONS, len(self.questions)))]
        batch = [each for each in batch if not each.gone]
        if not batch:
            return []
        try:
            answers = {id(row): outcome for row, outcome in decided([each.row for each in batch])}
            return [(each, answers[id(each.row)]) for each in batch]
        except Exception as error:
            self._refuse(batch, error)
            return []

    def _tell(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        now = time.monotonic()
        self._ends.extend(now for _, what in messages if isinstance(what, Ended))
        if len(self._ends) > 1:
            self._rate = len(self._ends) / max(1e-3, now - self._ends[0])
        self.post(messages)

    def _refuse(self, rows: Sequence[Row | Questions], error: Exception) -> None:
        """Tells rows that their program cannot be built, does not fit, or is broken; raises an error of the device itself."""
        if isinstance(error, InputError):
            self._tell([(row, Unserved(str(error))) for row in rows])
        elif exhausted(error):
            self._tell([(row, Unserved(None)) for row in rows])
        elif isinstance(error, jax.errors.JaxRuntimeError):
            self.failure = error  # first: who asks again is told so
            self._tell([(row, None) for row in rows])
            raise error
        else:
            logging.getLogger("uvicorn.error").exception("a program is broken", exc_info=error)
            self._tell([(row, Unserved("the server made a mistake, which its log has", broken=True)) for row in rows])
