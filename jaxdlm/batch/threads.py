"""The three threads of a job: what reads rows, what decodes them, and what writes them."""

import contextlib
import itertools
import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxdlm.batch.assignment import Assignment
from jaxdlm.batch.engine import Outcome
from jaxdlm.batch.gating import Repeat
from jaxdlm.batch.lines import Lines
from jaxdlm.batch.options import Options
from jaxdlm.batch.progress import Progress, counted
from jaxdlm.batch.rows import Raw, Refusal, Request
from jaxdlm.batch.shards import BROKEN, Clock, Shards
from jaxdlm.batch.source import source
from jaxdlm.command import FAILED, NONFINITE
from jaxdlm.core.carry import Status
from jaxdlm.errors import InputError, Unfinished

DONE, STOPPED = 0, 128  # exit statuses: complete; STOPPED + signal: ended by it, with everything finished saved
NAMED = 10  # ids in a message
PATIENCE = 3.0  # seconds more for the host at which the others met


class Threads:
    """Reader -> feed -> device -> finished -> writer. `understand` makes a request of a row, or says why not."""

    def __init__(
        self, options: Options, engine: Any, understand: Callable[[Raw], Request | Refusal | Repeat], lines: Lines,
        shards: Shards, owned: Assignment,
    ) -> None:  # fmt: skip
        self.options, self.engine, self.understand, self.lines = options, engine, understand, lines
        self.shards, self.owned = shards, owned
        self.feed: queue.Queue[list[Request] | None] = queue.Queue(2)
        self.finished: queue.Queue[Any] = queue.Queue()
        self.broken: list[Any] = []  # ids of rows whose logits were not finite
        self.total: dict[str, int] = {}  # numbers of the whole job, once it is complete
        self.stop = threading.Event()  # nothing new is begun
        self.failure: BaseException | None = None
        self.signal = 0
        self.deadline = math.inf  # when this process ends after a signal, had it to wait for other hosts
        self.asked = self.returned = 0  # rows for the device, and back from it: each is counted by one thread
        self.unfit: list[Request] = []
        self.progress = Progress(
            sum(len(shards.span(shard)) for shard in owned.share), lambda: shards.done(owned.share), engine.counts,
            quiet=options.quiet, name=owned.name,
        )  # fmt: skip

    def run(self) -> int:
        """The exit status, once every thread has come home or the grace after SIGTERM is over."""
        work = {"reader": self._read, "device": self._decode, "writer": self._write}
        threads = {
            name: threading.Thread(target=self._guarded, args=(each,), name=name, daemon=True)
            for name, each in work.items()
        }
        grace = self.options.grace
        with self._signals(), self.progress:
            for thread in threads.values():
                thread.start()
            deadline = None
            while threads["writer"].is_alive():
                threads["writer"].join(0.2)
                self.progress.show()
                if self.stop.is_set():
                    deadline = deadline or time.monotonic() + grace
                    if not threads["device"].is_alive() or time.monotonic() > deadline - grace / 3:
                        self.finished.put(None)  # what is still on the device will be done by the next run
                    if time.monotonic() > deadline:
                        break
        if self.failure is not None:
            threads["device"].join(5)  # the interpreter does not end well under a running device call
            raise self.failure
        if self.signal:
            message = "stopped by a signal; what is finished is saved: the same command goes on from here"
            self.progress.say(message, always=True)
            return STOPPED + self.signal
        return self._verdict()

    def _verdict(self) -> int:
        """The exit status of a job that came to its end: FAILED where rows have no whole answer, which are named."""
        broken = max(len(self.broken), self.total.get("nonfinite", 0))
        if not broken:
            return DONE
        named = ", ".join(repr(id_) for id_ in self.broken[:NAMED]) + ", ..." * (broken > len(self.broken[:NAMED]))
        rows = counted(broken, "row") + f" (id {named})" * bool(self.broken)
        print(f'jaxdlm: {rows} ended with status "{Status.NONFINITE}": {NONFINITE}', file=sys.stderr, flush=True)
        return FAILED

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C begin an orderly stop, a second Ctrl-C ends at once; only the main thread can ask for that.

        SIGTERM may come twice for one request (coreutils' timeout sends it to the process and to its group).
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def terminate(number: int, *_: Any) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            if not self.signal:
                self.signal, self.deadline = number, time.monotonic() + self.options.grace + PATIENCE
            self.stop.set()

        before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            self.stop.set()

    # -------------------------------------------------------------------------------------------------- reader

    def _read(self) -> None:
        reader = Reader(self.options.input)
        window: list[Request] = []
        read = 0

        def hungry() -> bool:
            return self.asked - self.returned < self.engine.ahead

        for shard in self.owned.shards(self.stop.is_set, hungry):
            wanted = [] if shard is None else self.shards.missing(shard)
            for raw in reader.rows(wanted):
                self._sort(raw, window)
            if shard is not None and not wanted:
                self.finished.put(("whole", shard))
            read += len(wanted)
            if shard is None or read >= self.options.window:  # what has been read is not kept waiting for more
                self._hand_over(window)
                window, read = [], 0
            if self.stop.is_set():
                return
        self._hand_over(window)
        self._offer(None)

    def _sort(self, raw: Raw, window: list[Request]) -> None:
        """A row into the window, or straight to the writer."""
        request = self.understand(raw)
        if isinstance(request, Refusal | Repeat):
            self.finished.put((request, None))
        else:
            window.append(request)
            self.asked += 1

    def _hand_over(self, window: list[Request]) -> None:
        if self.options.order == "longest":
            window = sorted(window, key=lambda request: (-request.max_new, -len(request.tokens), request.row))
        if window:
            self._offer(window)

    def _offer(self, item: list[Request] | None) -> None:
        while not self.stop.is_set():
            try:
                return self.feed.put(item, timeout=0.2)
            except queue.Full:
                continue

    # -------------------------------------------------------------------------------------------------- device

    def _decode(self) -> None:
        self.engine.run(Feed(self.feed, self.stop), self._sink, self.stop.is_set)
        if self.unfit and not self.stop.is_set():
            raise Unfinished(unfit(self.unfit, self.options.slots))
        if not self.stop.is_set():
            self.finished.put(None)

    def _sink(self, request: Request, outcome: Outcome) -> None:
        self.returned += 1
        if outcome is None:
            self.unfit.append(request)
        else:
            self.finished.put((outcome, request))

    # -------------------------------------------------------------------------------------------------- writer

    def _write(self) -> None:
        """Commits shards as they are complete; keeps finished rows in parts until then."""
        clock = Clock(self.options.flush)
        while True:
            try:
                item = self.finished.get(timeout=0.2)
            except queue.Empty:
                item = ()
            if item is None:
                break
            if item:
                self._take(*item)
            if clock.due():
                self.shards.flush()
        if self.stop.is_set():
            self.shards.flush()
        else:
            self._end()

    def _take(self, what: Any, value: Any) -> None:
        if what == "whole":  # every row was in parts
            self.shards.complete([value])
        elif isinstance(what, Repeat):
            self.shards.add(what.row, self.lines.repeat(what))
        elif isinstance(what, Refusal):
            self.shards.add(what.row, self.lines.refusal(what))
            self.progress.refuse()
        else:
            line = self.lines.answer(value, what)
            if line.error == BROKEN:
                self.broken.append(value.id)
            self.shards.add(value.row, line)
            self.progress.add(what, value.stops.ids, error=line.error > 0)

    def _end(self) -> None:
        """This share is done; the job is when the others' shares are, and until then they may need this process."""
        options = self.options
        self.progress.finish()
        waiting = False
        while (total := self.shards.finish()) is None:
            if options.hosts == 1 and not options.worker:
                raise RuntimeError("the job ended with shards that are not committed: run the same command again")
            if not waiting:
                self.progress.say("waiting for the others")
            waiting = True
            if self.stop.wait(min(2.0, options.lease / 8)):
                return
        self.total = total
        numbers = counted(total.get("rows", 0), "row"), counted(total.get("errors", 0), "error row")
        self.progress.say(f"complete: {', '.join(numbers)}, in {options.output}")


def unfit(requests: Sequence[Request], slots: int) -> str:
    """How many rows do not fit the devices, and which of them asks for most."""
    most = max(requests, key=lambda request: len(request.tokens) + request.max_new)
    rows = f"{counted(len(requests), 'row')} {'needs' if len(requests) == 1 else 'need'}"
    return (
        f"{rows} more memory than the devices have with {slots} slots (the longest: line {most.line}, "
        f"{len(most.tokens)} prompt tokens, max_new={most.max_new}); all others are saved: run the same command again "
        f"with fewer --slots or another --mesh"
    )


class Feed:
    """The queue of windows; an ended run looks like its end."""

    def __init__(self, windows: "queue.Queue[list[Request] | None]", stop: threading.Event) -> None:
        self._windows, self._stop = windows, stop

    def get_nowait(self) -> list[Request] | None:
        return self._windows.get_nowait()

    def get(self) -> list[Request] | None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                return self._windows.get(timeout=0.2)
        return None


class Reader:
    """Rows by number; goes on where it stands, and begins again to go back."""

    def __init__(self, path: str) -> None:
        self._source = source(path)
        self._rows: Iterator[Raw] = iter(())
        self._next: int | None = None

    def rows(self, wanted: Sequence[int]) -> Iterator[Raw]:
        """The wanted rows, in ascending order."""
        for row in wanted:
            if self._next is None or row < self._next:
                self._rows, self._next = self._source.rows(row), row
            raw_row = next(itertools.dropwhile(lambda raw, row=row: raw.row < row, self._rows), None)
            if raw_row is None:
                raise InputError("the input became shorter while it was read: run the same command again")
            self._next = row + 1
            yield raw_row
