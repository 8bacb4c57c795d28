"""Decisions as a crash-safe job: the shards, markers and threads of `jaxdlm batch` around another kind of row."""

import dataclasses
from typing import Any

from jaxdlm.batch import claims, fingerprint
from jaxdlm.batch.decisions import WINDOW, Lines, Readers, Row, decided, understand
from jaxdlm.batch.engine import Counts
from jaxdlm.batch.options import Options
from jaxdlm.batch.rows import Raw, Refusal
from jaxdlm.batch.run import FORMAT, VERSION, Job
from jaxdlm.batch.source import Index, scan
from jaxdlm.batch.store import store


class Engine:
    """Reads windows of rows."""

    def __init__(self) -> None:
        self.counts, self.ahead = Counts(), 2 * WINDOW

    def run(self, feed: Any, sink: Any, stopped: Any) -> None:
        while not stopped() and (window := feed.get()) is not None:
            for first in range(0, len(window), WINDOW):
                if stopped():
                    return
                for row, outcome in decided(window[first : first + WINDOW]):
                    sink(row, outcome)


class DecideJob(Job):
    """One process's share of a job of decisions."""

    def __init__(self, options: Options, lm: Any, readers: Readers, index: Index) -> None:
        self.options, self.lm, self.index, self.readers = options, lm, index, readers
        self.engine = Engine()
        self.lines = Lines(readers.plain.named())  # type: ignore[assignment]
        self.who = claims.process_name()
        self.store = store(options.output)

    def record(self, shard_rows: int) -> dict[str, Any]:
        """The contents of job.json."""
        from jaxdlm import __version__

        settings = {name: value for name, value in self.readers.settings.items() if name != "calibration"}
        return {
            "format": FORMAT, "version": VERSION, "jaxdlm": __version__, "kind": "decisions",
            "input": {"rows": self.index.rows, "sha256": self.index.sha256}, "model": fingerprint.model(self.lm),
            "settings": settings, "reader": self.readers.plain.named(), "shard_rows": shard_rows,
        }  # fmt: skip

    def understand(self, raw: Raw) -> Row | Refusal:  # type: ignore[override]
        return understand(raw, self.readers, self.index.duplicates)


def decide_job(input: str, output: str, lm: Any, readers: Readers, **more: Any) -> DecideJob:
    """A job, ready to run."""
    options = Options(input=input, output=output, policy="decide", max_new=0, order="input", window=WINDOW)
    return DecideJob(dataclasses.replace(options, **more), lm, readers, scan(input))
