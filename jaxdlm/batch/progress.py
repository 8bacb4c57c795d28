"""How far a job is: a bar on a terminal, else a plain line now and then, on stderr."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

LINES = 10.0  # seconds between plain lines
BUILDING = "/jax/core/compile/"  # what JAX reports of tracing, lowering and compiling: a begin and an end of each


class Building:
    """How long programs have been traced, lowered and compiled in this process, up to now; these may be nested."""

    def __init__(self) -> None:
        self._seconds, self._depth, self._since = 0.0, 0, 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> "Building":
        jax.monitoring.register_scalar_listener(self._begins)
        jax.monitoring.register_event_duration_secs_listener(self._ends)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_scalar_listener(self._begins)
        jax.monitoring.unregister_event_duration_listener(self._ends)

    def _begins(self, event: str, *_: Any, **__: Any) -> None:
        if event.startswith(BUILDING):
            with self._lock:
                self._since = self._since if self._depth else time.monotonic()
                self._depth += 1

    def _ends(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith(BUILDING):
            with self._lock:
                self._seconds += 0.0 if self._depth > 1 else time.monotonic() - self._since if self._depth else seconds
                self._depth = max(0, self._depth - 1)

    @property
    def busy(self) -> bool:
        return self._depth > 0

    @property
    def seconds(self) -> float:
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._depth else 0.0)


class Progress:
    """Counts rows and tokens of this process; `show` is called often and draws seldom.

    rows: of the share that is shown. done: how many of these are finished, by whomever. counts: of the engine.
    name: who speaks, where several processes write into one log.
    """

    def __init__(self, rows: int, done: Callable[[], int], counts: Any, *, quiet: bool = False, name: str = "") -> None:
        self.rows, self.done, self.counts, self.quiet = rows, done, counts, quiet
        self.name = f"{name}: " if name else ""
        self.before = done()
        self.answered = self.errors = self.tokens = self.forwards = 0
        self.building = Building()
        self._start = self._last = time.monotonic()
        self._end: float | None = None
        self._running = self._told = False
        self._remarks: deque[str] = deque()  # other threads' words, which wait until `show` has said the last line
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        self.building.__enter__()
        if self.before:
            self.say(f"{self.before} of {self.rows} rows were done before")
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(20), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.summary(), total=self.rows, completed=self.before)
        self._running = True
        return self

    def __exit__(self, *_: Any) -> None:
        self.building.__exit__()
        self.finish()
        self._conclude()
        self._running = False

    def add(self, result: Any, ends: frozenset[int], *, error: bool = False) -> None:
        """A row has come out; end-of-text padding is no token."""
        self._count(error)
        for each in result.every:
            written = next((place for place, token in enumerate(each.tokens) if token in ends), len(each.tokens))
            self.tokens += min(written + 1, len(each.tokens))
            self.forwards += each.forwards

    def refuse(self) -> None:
        """An error row that took no forward."""
        self._count(True)

    def _count(self, error: bool) -> None:
        self.answered += 1
        self.errors += error

    def finish(self) -> None:
        """This process has done its share: the clock stops, and `show` says the last line."""
        self._end = self._end or time.monotonic()

    def say(self, text: str, *, always: bool = False) -> None:
        """A line of its own, once `finish` was called."""
        if always or not self.quiet:
            self._remarks.append(text)
        if not self._running:
            self._speak()

    def _speak(self) -> None:
        while self._remarks:
            print(f"# {self.name}{self._remarks.popleft()}", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        return (self._end or time.monotonic()) - self._start

    def summary(self) -> str:
        """Rows, rates without compilation, slot use, time left."""
        done, working = self.done(), max(self.seconds - self.building.seconds, 1e-9)
        parts = [f"{done}/{self.rows} rows"]
        if self.answered != done - self.before:
            parts.append(f"{self.answered} of them here")
        if self.answered:
            parts.append(f"{self.answered / working:.1f} rows/s")
        if self.tokens:  # decisions write none
            parts += [
                f"{self.tokens / working:.0f} tokens/s", f"{self.tokens / max(self.forwards, 1):.2f} tokens/forward",
                f"slots {100 * self.counts.use:.0f} % used",
            ]  # fmt: skip
        if self._end is not None:
            compiling = f" ({clock(self.building.seconds)} of it compiling)" if self.building.seconds >= 1 else ""
            parts.append(f"took {clock(self.seconds)}{compiling}")
        elif self.building.busy:
            parts.append("compiling")
        elif done > self.before and done < self.rows:
            parts.append(f"{clock((self.rows - done) * working / (done - self.before))} left")
        if self.errors:
            parts.append(counted(self.errors, "error row"))
        return ", ".join(parts)

    def show(self) -> None:
        now = time.monotonic()
        if self._end is not None:
            self._conclude()
        elif self._bar is not None:
            self._bar.update(self._task, completed=self.done(), description=self.summary())
        elif now - self._last >= LINES:
            self._last = now
            self.say(self.summary())
            self._speak()

    def _conclude(self) -> None:
        if not self._told:
            self._told = True
            if self._bar is not None:
                self._bar.stop()
            if not self.quiet and self.before < self.rows:
                self._remarks.appendleft(self.summary())
        self._speak()


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
