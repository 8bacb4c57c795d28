"""Checksums and statistics of every tensor, taken while its bytes pass by, on a second thread."""

from __future__ import annotations

import collections
import math
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint.safetensors import TensorInfo
from jaxdlm.checkpoint.store import CHUNK_BYTES
from jaxdlm.checkpoint.tensors import Tensors

CHUNK = 2**18  # values at a time: stays in the cache
BEHIND = 4  # reads that may wait to be measured, so that their buffers do not pile up


def crc32(array: np.ndarray, before: int = 0) -> int:
    """CRC-32 of the bytes of a contiguous array, continued from those `before` it."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, before)


@dataclass
class Measure:
    """Checksum and statistics of a tensor that is fed in runs of rows, in order."""

    target: np.dtype | None = None
    crc: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    square: float = 0.0
    count: int = 0
    bad: int = 0
    error: float = 0.0

    def feed(self, array: np.ndarray) -> None:
        """The next values."""
        flat = np.ascontiguousarray(array).reshape(-1)
        self.crc = crc32(flat, self.crc)
        self.count += flat.size
        for start in range(0, flat.size, CHUNK):
            wide = flat[start : start + CHUNK].astype(np.float32)
            low, high = float(wide.min()), float(wide.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                wide, size = wide[np.isfinite(wide)], wide.size
                self.bad += size - wide.size
                if not wide.size:
                    continue
                low, high = float(wide.min()), float(wide.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.total += float(wide.sum(dtype=np.float64)) if wide.size < 64 else float(wide.sum())
            self.square += float(wide @ wide)
            if self.target is not None and self.target != array.dtype:
                self.error = max(self.error, _cast_error(wide, self.target))

    def facts(self, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
        """{dtype, shape, crc32, min, max, mean, rms, nonfinite} and, where `target` differs, the cast's relative error.

        min to rms are over finite values, None where there are none.
        """
        facts: dict[str, Any] = {"dtype": str(dtype), "shape": list(shape), "crc32": self.crc}
        count = self.count - self.bad
        facts |= {
            "min": self.low if count else None,
            "max": self.high if count else None,
            "mean": self.total / count if count else None,
            "rms": math.sqrt(self.square / count) if count else None,
            "nonfinite": self.bad,
        }
        if self.target is not None and self.target != dtype:
            facts["cast_relative_error"] = self.error
        return facts


def _cast_error(wide: np.ndarray, target: np.dtype) -> float:
    with np.errstate(over="ignore"):
        back = wide.astype(target).astype(np.float32)
    big = np.abs(wide) > np.finfo(np.float32).tiny
    return float(np.max(np.abs(back[big] - wide[big]) / np.abs(wide[big]), initial=0.0))


@dataclass
class Recorder:
    """Tensors that are measured as their rows are first read, in order; the values pass through unchanged."""

    inner: Tensors
    targets: Mapping[str, np.dtype]
    pool: ThreadPoolExecutor  # of one thread, so that the rows of a tensor are measured in order
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: dict[str, tuple[Measure, int]] = field(default_factory=dict)  # with the row that comes next
    ended: dict[str, tuple[Measure, np.dtype]] = field(default_factory=dict)
    queue: collections.deque[Future] = field(default_factory=collections.deque)
    bytes_read: int = 0

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.inner.infos

    def file(self, name: str) -> Path:
        return self.inner.file(name)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """As `inner.read`, and queue the rows for measuring if they follow those that were measured last."""
        array = self.inner.read(name, rows)
        self.bytes_read += array.nbytes
        if name in self.known or name in self.ended:
            return array
        count = (self.infos[name].shape or (1,))[0]
        start, stop = rows or (0, count)
        measure, due = self.started.get(name) or (Measure(self.targets.get(name)), 0)
        if start == due:
            while len(self.queue) >= BEHIND:
                self.queue.popleft().result()
            self.queue.append(self.pool.submit(measure.feed, array))
            self.started[name] = (measure, stop)
            if stop == count:
                del self.started[name]
                self.ended[name] = (measure, array.dtype)
        return array

    def collect(self) -> dict[str, dict[str, Any]]:
        """Wait for the queue; the tensors that were completed since the last call."""
        while self.queue:
            self.queue.popleft().result()
        fresh = {name: measure.facts(dtype, self.infos[name].shape) for name, (measure, dtype) in self.ended.items()}
        self.ended.clear()
        self.known |= fresh
        return fresh

    def rest(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """Measure what did not pass by in order: of fused tensors, those of which an interrupted run wrote a part."""
        self.started.clear()
        for name in sorted(names - set(self.known)):
            info = self.infos[name]
            count = (info.shape or (1,))[0]
            step = max(1, count * CHUNK_BYTES // max(1, info.nbytes))
            for start in range(0, count, step) if info.shape else (None,):
                self.read(name, None if start is None else (start, min(start + step, count)))
        return self.collect()
