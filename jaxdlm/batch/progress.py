"""How far a job is: a bar on a terminal, else a plain line now and then, on stderr."""

import sys
import time
from typing import Any

LINES = 10.0  # seconds between plain lines


class Progress:
    """Counts rows and tokens; `show` is called often and draws seldom."""

    def __init__(self, rows: int, done: int, counts: Any, *, quiet: bool = False) -> None:
        self.rows, self.before, self.counts, self.quiet = rows, done, counts, quiet
        self.finished = self.refused = self.tokens = self.forwards = 0
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(20), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(
                f"{self.before}/{self.rows} rows, compiling", total=self.rows, completed=self.before
            )
        elif self.before:
            self.say(f"{self.before} of {self.rows} rows were done before")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        self.say(self.summary())

    def add(self, result: Any, ends: frozenset[int]) -> None:
        """A row has come out; end-of-text padding is no token."""
        written = next((place for place, token in enumerate(result.tokens) if token in ends), len(result.tokens))
        self.finished += 1
        self.tokens += min(written + 1, len(result.tokens))
        self.forwards += result.forwards

    def refuse(self) -> None:
        self.refused += 1

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"# {text}", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def summary(self) -> str:
        """Rows, rates, slot use and time left."""
        seconds, done = max(self.seconds, 1e-9), self.finished + self.refused
        left = self.rows - self.before - done
        parts = [
            f"{self.before + done}/{self.rows} rows", f"{self.finished / seconds:.1f} rows/s",
            f"{self.tokens / seconds:.0f} tokens/s", f"{self.tokens / max(self.forwards, 1):.2f} tokens/forward",
            f"slots {100 * self.counts.use:.0f} % used",
        ]  # fmt: skip
        if left and done:
            parts.append(f"{_clock(left * seconds / done)} left")
        if self.refused:
            parts.append(f"{self.refused} error rows")
        return ", ".join(parts)

    def show(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            done = self.before + self.finished + self.refused
            text = {"description": self.summary()} if done > self.before else {}
            self._bar.update(self._task, completed=done, **text)
        elif now - self._last >= LINES:
            self._last = now
            self.say(self.summary())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
