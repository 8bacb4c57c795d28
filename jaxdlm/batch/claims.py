"""Who may write: one run at a time, or independent workers that claim shards, on nothing but create-if-absent.

Leases keep two processes from doing the same work; nothing depends on them for correctness, since whoever writes a
shard writes the same bytes. No clock is compared with another: a process is taken for dead when its heartbeat has not
changed for a lease, as seen by the one who waits.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from jaxdlm.batch.store import Folder, Store
from jaxdlm.checkpoint.files import open_lock
from jaxdlm.errors import InputError

OWNER, LOCK = "owner.json", ".lock"


def process_name() -> str:
    """A name that no other process has had."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


class Heartbeat:
    """Rewrites an object with a growing number, so that others see that this process lives."""

    def __init__(self, store: Store, name: str, who: str, lease: float) -> None:
        self._store, self._name, self._who, self._lease = store, name, who, lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="heartbeat")

    def _beat(self, number: int) -> None:
        self._store.put(self._name, json.dumps({"who": self._who, "beat": number}).encode())

    def _work(self) -> None:
        number = 1
        while not self._stop.wait(self._lease / 4):
            with contextlib.suppress(OSError):  # a beat may fail; a lease of them is three
                self._beat(number)
            number += 1

    def __enter__(self) -> "Heartbeat":
        self._beat(0)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._store.delete(self._name)


@contextlib.contextmanager
def locked(store: Store, who: str, *, shared: bool, lease: float) -> Iterator[None]:
    """Holds the output for one run, or among workers (`shared`). Raises InputError while others hold it."""
    if isinstance(store, Folder):
        with open_lock(store.root / LOCK) as file:  # the kernel releases it when the process dies, however it dies
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy(store.where) from None
            yield
        return
    _wait_for_silence(store, shared, lease)
    if shared:
        yield
        return
    with Heartbeat(store, OWNER, who, lease):
        yield


def busy(where: str, who: str = "") -> InputError:
    by = f" ({who})" if who else ""
    return InputError(f"output {where} is in use by another run{by}: wait for it, or choose another folder")


def _wait_for_silence(store: Store, shared: bool, lease: float) -> None:
    """Returns when no other run's heartbeat changes; at once where there is none."""
    names = [name for name in store.names() if name == OWNER or (name.startswith("workers/") and not shared)]
    before = {name: store.get(name) for name in names}
    deadline = time.monotonic() + lease
    while before and time.monotonic() < deadline:
        time.sleep(min(1.0, lease / 8))
        for name, old in before.items():
            new = store.get(name)
            if new is not None and new != old:
                raise busy(store.where, json.loads(new).get("who", ""))


class Claims:
    """Shards that this worker may do. `claims/STAMP/SHARD.GENERATION` names the owner; the highest generation counts."""

    def __init__(self, store: Store, stamp: str, who: str, lease: float) -> None:
        self.store, self.who, self.lease = store, who, lease
        self._prefix = f"claims/{stamp}/"
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.store, f"workers/{self.who}", self.who, self.lease)

    def _alive(self, who: str) -> bool:
        """Whether a heartbeat changed within a lease of looking at it."""
        now, value = time.monotonic(), self.store.get(f"workers/{who}")
        old = self._seen.get(who)
        if old is None or old[0] != value:
            self._seen[who] = (value, now)
            return value is not None  # a worker that took its leave left no heartbeat
        return value is not None and now - old[1] < self.lease

    def next(self, open_shards: list[int], names: set[str]) -> int | None:
        """A shard that nobody does, or whose worker died; None where there is none now."""
        last: dict[int, int] = {}
        for name in names:
            if name.startswith(self._prefix):
                claimed, generation = map(int, name.removeprefix(self._prefix).split("."))
                last[claimed] = max(last.get(claimed, 0), generation)
        for shard in open_shards:
            if shard not in last and self._make(shard, 0):
                return shard
        for shard in open_shards:
            if shard in last:
                owner = (self.store.get(f"{self._prefix}{shard:05d}.{last[shard]}") or b"").decode()
                if owner != self.who and not self._alive(owner) and self._make(shard, last[shard] + 1):
                    return shard
        return None

    def _make(self, shard: int, generation: int) -> bool:
        return self.store.create(f"{self._prefix}{shard:05d}.{generation}", self.who.encode())
