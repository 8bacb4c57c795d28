"""Which shards a process does: a fixed share, or whatever no other worker has claimed."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jaxdlm.batch.claims import Claims
from jaxdlm.batch.shards import Shards
from jaxdlm.batch.store import Store

FULL = 0.05  # seconds between two questions whether the device still has enough to do


class Assignment(Protocol):
    """The shards of this process, in their order. `None` in between: there is nothing to read just now."""

    name: str  # of this process among others; empty where it is alone
    share: range  # shards that it answers for

    def shards(self, stopped: Callable[[], bool], hungry: Callable[[], bool]) -> Iterator[int | None]:
        """hungry: whether the device will soon have no rows left."""
        ...


class Static:
    """Shard k belongs to host k mod hosts. They are nobody else's, so they are read ahead of what the device needs."""

    def __init__(self, shards: Shards, host: int, hosts: int) -> None:
        self.name = f"host {host} of {hosts}" if hosts > 1 else ""
        self.share = range(host, shards.count, hosts)
        self._todo = [shard for shard in self.share if shard not in shards.committed]

    def shards(self, stopped: Callable[[], bool], hungry: Callable[[], bool]) -> Iterator[int | None]:
        yield from self._todo


class Claimed:
    """Whatever is free, claimed as it is needed, until everything is committed by somebody."""

    def __init__(self, shards: Shards, store: Store, stamp: str, who: str, lease: float) -> None:
        self.name, self.share = f"worker {who}", range(shards.count)
        self._shards, self._store = shards, store
        self._claims = Claims(store, stamp, who, lease)
        self._beat = self._claims.heartbeat()
        self._mine: set[int] = set()

    def __enter__(self) -> "Claimed":
        self._beat.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._beat.__exit__(*error)

    def shards(self, stopped: Callable[[], bool], hungry: Callable[[], bool]) -> Iterator[int | None]:
        look = min(1.0, self._claims.lease / 8)
        while not stopped():
            if not hungry():
                yield None
                time.sleep(min(FULL, look))
                continue
            names = self._store.names()
            self._shards.look(names)
            done = self._shards.committed | self._mine
            todo = [shard for shard in self.share if shard not in done]
            if not todo:
                return
            shard = self._claims.next(todo, names)
            self._mine |= set() if shard is None else {shard}
            yield shard
            if shard is None:
                time.sleep(look)
