"""The output: one object per shard of the input, then its commit marker; parts keep what is finished until then.

    rows-00002-of-00010.jsonl          the output rows of input rows 2 n .. 3 n - 1, in their order
    rows-00002-of-00010.STAMP.done     its commit marker: only with it the shard counts
    parts/STAMP/...                    finished rows of shards that are not complete; gone once these are committed
    _SUCCESS                           every shard is committed

STAMP is the fingerprint of the job: what another job has left counts for nothing. A row is a function of its request
alone, so whoever writes a shard, and however often, writes the same bytes.
"""

import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from jaxdlm.batch.store import Store

SUCCESS, JOB, PARTS = "_SUCCESS", "job.json", "parts/"
ON_THE_WAY = (PARTS, "claims/", "workers/")  # what only a job that is under way needs
OURS = re.compile(
    r"rows-\d{5,}-of-\d{5,}(\.jsonl|\.[0-9a-f]{12}\.done)|parts/.*|claims/.*|workers/.*|_SUCCESS|job\.json"
)


REFUSED, BROKEN = 1, 2  # kinds of errors: the row cannot be decoded; its logits were not finite


class Line:
    """A finished row: its bytes, and its kind of error, 0 for none."""

    __slots__ = ("data", "error")

    def __init__(self, data: bytes, error: int) -> None:
        self.data, self.error = data, error


def exclusive(method: Callable[..., Any]) -> Callable[..., Any]:
    """One thread at a time."""

    @functools.wraps(method)
    def alone(self: "Shards", *args: Any) -> Any:
        with self.lock:
            return method(self, *args)

    return alone


class Shards:
    """The rows finished and the shards committed, for any number of threads."""

    def __init__(self, store: Store, rows: int, size: int, stamp: str, writer: str) -> None:
        self.store, self.rows, self.size, self.stamp, self.writer = store, rows, size, stamp, writer
        self.count = -(-rows // size)
        self.committed: set[int] = set()
        self.held: dict[int, dict[int, Line]] = {}  # shard -> row -> line
        self._parts: dict[str, set[int]] = {}  # part -> its shards that are not committed
        self._fresh: list[int] = []  # rows that no part holds
        self._number = 0
        self.lock = threading.RLock()

    def name(self, shard: int) -> str:
        return f"rows-{shard:05d}-of-{self.count:05d}"

    def marker(self, shard: int) -> str:
        return f"{self.name(shard)}.{self.stamp}.done"

    def span(self, shard: int) -> range:
        return range(shard * self.size, min((shard + 1) * self.size, self.rows))

    @exclusive
    def missing(self, shard: int) -> list[int]:
        """Rows of a shard that are still to be done."""
        held = self.held.get(shard, {})
        return [row for row in self.span(shard) if row not in held]

    def done(self, among: Iterable[int]) -> int:
        """Rows of these shards that are finished, as far as is known here; waits for nobody who writes."""
        held = {shard: len(rows) for shard, rows in list(self.held.items())}
        return sum(len(self.span(shard)) if shard in self.committed else held.get(shard, 0) for shard in among)

    @exclusive
    def look(self, names: set[str]) -> None:
        """Takes in what the store has: commits and parts, this job's only."""
        for shard in range(self.count):
            if shard not in self.committed and self.marker(shard) in names:
                self._settled(shard)
        for name in sorted(names):
            if name.startswith(f"{PARTS}{self.stamp}/") and name not in self._parts:
                self._parts[name] = set()
                self._read_part(name)

    def _read_part(self, name: str) -> None:
        header, _, body = (self.store.get(name) or b"").partition(b"\n")
        try:
            about = json.loads(header)
            lines = body.splitlines(keepends=True)
            whole = hashlib.sha256(body).hexdigest() == about["sha256"] and len(lines) == len(about["rows"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:  # a store that shows half an object: these rows are done again
            return
        for row, error, data in zip(about["rows"], about["errors"], lines, strict=True):
            shard = row // self.size
            if shard not in self.committed:
                self.held.setdefault(shard, {}).setdefault(row, Line(data, int(error)))
                self._parts[name].add(shard)

    @exclusive
    def add(self, row: int, line: Line) -> None:
        """Keeps a finished row; the last one of a shard commits it."""
        shard = row // self.size
        if shard in self.committed:
            return
        held = self.held.setdefault(shard, {})
        if row in held:
            return
        held[row] = line
        self._fresh.append(row)
        if len(held) == len(self.span(shard)):
            self.commit(shard)

    def commit(self, shard: int) -> None:
        """The shard, then its marker, then its parts are swept."""
        lines = [self.held[shard][row] for row in self.span(shard)]
        data = b"".join(line.data for line in lines)
        about = {
            "rows": len(lines), "errors": sum(line.error > 0 for line in lines),
            "nonfinite": sum(line.error == BROKEN for line in lines), "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        self.store.put(f"{self.name(shard)}.jsonl", data)
        self.store.put(self.marker(shard), _json(about))
        self._settled(shard)

    @exclusive
    def complete(self, shards: Iterable[int]) -> None:
        """Commits shards whose every row was in parts."""
        for shard in shards:
            if shard not in self.committed and not self.missing(shard):
                self.commit(shard)

    def _settled(self, shard: int) -> None:
        self.committed.add(shard)
        self.held.pop(shard, None)
        self._fresh = [row for row in self._fresh if row // self.size != shard]
        for name, open_shards in self._parts.items():
            if shard in open_shards:
                open_shards.discard(shard)
                if not open_shards:
                    self.store.delete(name)

    @exclusive
    def flush(self) -> None:
        """Puts finished rows that no object holds into a part."""
        if not self._fresh:
            return
        rows, self._fresh = sorted(self._fresh), []
        lines = [self.held[row // self.size][row] for row in rows]
        body = b"".join(line.data for line in lines)
        about = {
            "rows": rows, "errors": [int(line.error) for line in lines], "sha256": hashlib.sha256(body).hexdigest()
        }  # fmt: skip
        name = f"{PARTS}{self.stamp}/{self.writer}-{self._number:06d}.jsonl"
        self._number += 1
        self.store.put(name, _json(about) + body)
        self._parts[name] = {row // self.size for row in rows}

    @exclusive
    def finish(self) -> dict[str, int] | None:
        """Numbers of the whole job once every shard is committed: rows, errors, nonfinite, bytes. None before.

        Then the end is marked, and what only the way there needed is removed.
        """
        names = self.store.names()
        self.look(names)
        if len(self.committed) < self.count:
            return None
        if SUCCESS not in names:
            abouts = [json.loads(self.store.get(self.marker(shard)) or b"{}") for shard in range(self.count)]
            total = {
                key: sum(about.get(key, 0) for about in abouts) for key in ("rows", "errors", "nonfinite", "bytes")
            }
            self.store.put(SUCCESS, _json({"stamp": self.stamp, "shards": self.count, **total}))
        for name in names:
            if name.startswith(ON_THE_WAY):
                self.store.delete(name)
        for folder in ON_THE_WAY:
            self.store.prune(folder)
        return json.loads(self.store.get(SUCCESS) or b"{}")


def wipe(store: Store) -> None:
    """Removes a job. Markers go first and job.json last: at any moment what is left is that job, less complete."""
    names = [name for name in store.names() if OURS.fullmatch(name)]
    for name in sorted(names, key=lambda name: (name == JOB, not name.endswith((".done", SUCCESS)), name)):
        store.delete(name)
    for folder in ON_THE_WAY:
        store.prune(folder)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class Clock:
    """Says when so many seconds have passed again."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
