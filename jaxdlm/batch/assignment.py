"""Which shards a process does: a fixed share, or whatever no other worker has claimed."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jaxdlm.batch.claims import Claims
from jaxdlm.batch.shards import Shards
from jaxdlm.batch.store import Store


class Assignment(Protocol):
    """The shards of this process, in their order. `None` in between: there is nothing to do just now."""

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]: ...


class Static:
    """Shard k belongs to host k mod hosts."""

    def __init__(self, shards: Shards, host: int, hosts: int) -> None:
        self._todo = [shard for shard in range(host, shards.count, hosts) if shard not in shards.committed]

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]:
        yield from self._todo


class Claimed:
    """Whatever is free, until everything is committed by somebody."""

    def __init__(self, shards: Shards, store: Store, stamp: str, who: str, lease: float) -> None:
        self._shards, self._store = shards, store
        self._claims = Claims(store, stamp, who, lease)
        self._beat = self._claims.heartbeat()
        self._mine: set[int] = set()

    def __enter__(self) -> "Claimed":
        self._beat.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._beat.__exit__(*error)

    def shards(self, stopped: Callable[[], bool]) -> Iterator[int | None]:
        while not stopped():
            names = self._store.names()
            self._shards.look(names)
            done = self._shards.committed | self._mine
            todo = [shard for shard in range(self._shards.count) if shard not in done]
            if not todo:
                return
            shard = self._claims.next(todo, names)
            if shard is not None:
                self._mine.add(shard)
            else:
                time.sleep(min(1.0, self._claims.lease / 8))
            yield shard
