"""The tensors of a GGUF file under the names of the Hub's, dequantised a few rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from jaxdlm.checkpoint import files
from jaxdlm.checkpoint.gguf.header import Stored
from jaxdlm.checkpoint.safetensors import NAMES, TensorInfo


@dataclass(frozen=True)
class Place:
    """Where the numbers of a Hub tensor are, and what was done to them on the way into the file.

    stored: the tensor of the file; expert: the index of its first axis that is meant, None for all of it; heads: rows are
    those of so many heads, in each of which the halves that rotate together were interleaved (0: they were not);
    plus_one: the file holds 1 + w.
    """

    stored: Stored
    expert: int | None = None
    heads: int = 0
    plus_one: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape if self.expert is None else self.stored.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32) if self.plus_one else self.stored.kind.dtype

    @property
    def start(self) -> int:
        """The first byte in the file."""
        return self.stored.start + (0 if self.expert is None else self.expert * prod(self.shape[:-1]) * self._row)

    @property
    def _row(self) -> int:
        return self.stored.row_bytes


@dataclass(frozen=True)
class GgufTensors:
    """Hub names as safetensors have them. Of a quantised tensor the values are float32, whatever it will be loaded as."""

    path: Path
    places: Mapping[str, Place]
    infos: Mapping[str, TensorInfo]
    warnings: tuple[str, ...] = ()

    @property
    def dropped(self) -> Mapping[str, str]:
        """None: a file names each of its tensors."""
        return {}

    def file(self, name: str) -> Path:
        """The file, for every name."""
        return self.path

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the rows [a, b) of its leading axis; touches only their bytes, of rotated ones those of whole heads."""
        place = self.places[name]
        a, b = rows or (0, place.shape[0])
        unit = place.shape[0] // place.heads if place.heads else 1
        begin, end = a // unit * unit, -(-b // unit) * unit
        values = self._read(name, place, begin, end)
        if place.heads:
            halves = values.reshape(-1, unit // 2, 2, *place.shape[1:])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        values = values[a - begin : b - begin]
        return values - np.float32(1) if place.plus_one else values

    def _read(self, name: str, place: Place, a: int, b: int) -> np.ndarray:
        """Rows in the order of the file."""
        shape = (b - a, *place.shape[1:])
        if len(place.shape) == 1:  # one row of blocks
            data = files.read_range(self.path, place.start, place.stored.nbytes, name)
            return place.stored.kind.values(data)[a:b]
        row = prod(place.shape[1:-1]) * place.stored.row_bytes
        data = files.read_range(self.path, place.start + a * row, (b - a) * row, name)
        return place.stored.kind.values(data).reshape(shape)


def gguf_tensors(path: Path, places: Mapping[str, Place]) -> GgufTensors:
    """The tensors at these places. An info ends behind as many bytes as `read` returns, not as the file has."""
    infos = {}
    for name, place in places.items():
        size = prod(place.shape) * place.dtype.itemsize
        infos[name] = TensorInfo(name, NAMES[place.dtype], place.shape, place.start, place.start + size)
    return GgufTensors(path, places, infos)
