"""Checksums and statistics of every tensor, taken while its bytes pass by, on a second thread."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint.safetensors import TensorInfo
from jaxdlm.checkpoint.tensors import Tensors

CHUNK = 2**18  # values at a time: stays in the cache


def crc32(array: np.ndarray) -> int:
    """CRC-32 of the bytes of a contiguous array."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def measure(array: np.ndarray, target: np.dtype | None = None) -> dict[str, Any]:
    """{dtype, shape, crc32, min, max, mean, rms, nonfinite} and, where `target` differs, the cast's relative error.

    min to rms are over finite values, None where there are none.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    low, high, total, square, bad, error = math.inf, -math.inf, 0.0, 0.0, 0, 0.0
    for start in range(0, flat.size, CHUNK):
        wide = flat[start : start + CHUNK].astype(np.float32)
        lo, hi = float(wide.min()), float(wide.max())
        if not (math.isfinite(lo) and math.isfinite(hi)):
            finite = np.isfinite(wide)
            bad += int(wide.size - finite.sum())
            wide = wide[finite]
            if not wide.size:
                continue
            lo, hi = float(wide.min()), float(wide.max())
        low, high = min(low, lo), max(high, hi)
        total += float(wide.sum(dtype=np.float64)) if wide.size < 64 else float(wide.sum())
        square += float(wide @ wide)
        if target is not None and target != array.dtype:
            error = max(error, _cast_error(wide, target))
    count = flat.size - bad
    found: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape), "crc32": crc32(flat)}
    found |= {"min": low, "max": high, "mean": total / count, "rms": math.sqrt(square / count)} if count else {
        "min": None, "max": None, "mean": None, "rms": None}  # fmt: skip
    found["nonfinite"] = bad
    if target is not None and target != array.dtype:
        found["cast_relative_error"] = error
    return found


def _cast_error(wide: np.ndarray, target: np.dtype) -> float:
    with np.errstate(over="ignore"):
        back = wide.astype(target).astype(np.float32)
    big = np.abs(wide) > np.finfo(np.float32).tiny
    return float(np.max(np.abs(back[big] - wide[big]) / np.abs(wide[big]), initial=0.0))


@dataclass
class Recorder:
    """Tensors that are measured when they are first read; the values themselves pass through unchanged."""

    inner: Tensors
    targets: Mapping[str, np.dtype]
    pool: ThreadPoolExecutor
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    pending: dict[str, Future] = field(default_factory=dict)
    bytes_read: int = 0

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.inner.infos

    def file(self, name: str) -> Path:
        return self.inner.file(name)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """As `inner.read`, and queue the whole tensor for measuring."""
        array = self.inner.read(name, rows)
        self.bytes_read += array.nbytes
        if rows is None and name not in self.known and name not in self.pending:
            self.pending[name] = self.pool.submit(measure, array, self.targets.get(name))
        return array

    def collect(self) -> dict[str, dict[str, Any]]:
        """Wait for the queue; what was measured since the last call."""
        fresh = {name: future.result() for name, future in self.pending.items()}
        self.pending.clear()
        self.known |= fresh
        return fresh
