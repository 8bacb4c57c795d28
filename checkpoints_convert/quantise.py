"""A leaf quantised while it is written: some columns of one layer at a time, so that no weight is ever whole in memory.

Columns do not interact but for the exponent, which comes from a sample that is read first; what is written equals
`jaxdlm.quant.quantize_params` of the loaded model, code by code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdlm import levels, quant
from jaxdlm.checkpoint import store
from jaxdlm.checkpoint.errors import ValuesInvalid
from jaxdlm.checkpoint.leaf import LeafSpec, contiguous
from jaxdlm.checkpoint.quantised import CODES, ROOT, SCALE, Layout

BLOCK = 2**22  # weights that are quantised at once: 16 MiB in float32, a chunk of codes of at most 4 MiB


@dataclass
class Quantiser:
    """The arrays of one part: a quantised leaf, or one layer of it.

    leaf: what is read for the codes, in the order of the source; sampled: the same for the exponents' sample, which is
    read out of turn; split: whether both are a single layer.
    """

    layout: Layout
    leaf: LeafSpec
    sampled: LeafSpec
    split: bool
    progress: Callable[[str, int], None] | None = None
    exponents: dict[int, float] = field(default_factory=dict)
    error: float = 0.0
    square: float = 0.0

    def __post_init__(self) -> None:
        self.lead = self.layout.flat.lead[1:] if self.split else self.layout.flat.lead
        self.layered = bool(self.lead) and not self.split
        shape, _ = self.layout.arrays[SCALE]
        self.scale = np.full(shape[1:] if self.split else shape, np.nan, np.float32)
        self.per = 2 if self.layout.how.bits == 4 else 1  # codes of a byte
        self.top = levels.top_of(self.layout.how.bits)

    def streams(self) -> dict[str, store.Stream]:
        """The arrays by name, codes first: a scale is known when the codes of its columns have been made."""
        reads = {CODES: self._codes, SCALE: self._scales, ROOT: self._roots}
        streams = {}
        for name, (shape, dtype) in self.layout.arrays.items():
            shape, kind = (shape[1:] if self.split else shape), np.dtype(dtype)
            axes = tuple(range(len(shape)))
            if name == CODES:
                chunk, order = self._chunk(shape), (*axes[:-2], axes[-1], axes[-2])
            else:
                chunk, order = store.chunk_of(shape, kind.itemsize, axes), axes
            streams[name] = store.Stream(shape, kind, chunk, order, reads[name])
        return streams

    def facts(self) -> dict[str, Any]:
        """For the manifest: the exponent of each layer, and the two sums of which ||W - Ŵ|| / ||W|| is the root's ratio."""
        return {
            "exponents": [self.exponents[layer] for layer in sorted(self.exponents)],
            "squared_error": self.error,
            "squared_weight": self.square,
        }

    def _chunk(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One matrix, all its rows, and as many columns as a block holds: whole heads, and whole bytes."""
        _, tail, rows, columns = self.layout.flat
        unit = math.prod(tail[axis] for axis in self._columns()[1:])
        limit = max(1, BLOCK // rows)
        unit = unit if unit <= limit else 1
        count = -(-columns // unit)
        count = -(-count // -(-count // max(1, limit // unit)))  # parts of one size
        width = min(count * unit, columns)
        width += width % self.per if width < columns else 0
        return (*(1,) * len(self.lead), rows, -(-width // self.per))

    def _codes(self, index: store.Index) -> np.ndarray:
        """The codes of a chunk; its scales and errors are noted."""
        at = tuple(part.start for part in index[:-2])
        columns = slice(index[-1].start * self.per, min(index[-1].stop * self.per, self.layout.flat.columns))
        matrix = self._matrix(self.leaf, at, columns)
        codes, scale, restored = levels.encode_columns(matrix, self.layout.how.group, self._exponent(at), self.top)
        self.scale[at][:, columns] = scale
        restored -= matrix
        self.error += float(np.vdot(restored, restored))
        self.square += float(np.vdot(matrix, matrix))
        packed = (quant.pack(codes) if self.per == 2 else codes)[(None,) * len(at)]
        return self._count(packed)

    def _scales(self, index: store.Index) -> np.ndarray:
        return self._count(np.ascontiguousarray(self.scale[index]))

    def _roots(self, index: store.Index) -> np.ndarray:
        layers = range(index[0].start, index[0].stop) if self.layered else (0,)
        roots = np.asarray([1 / self._exponent((layer, *[0] * (len(self.lead) - 1))) for layer in layers])
        return self._count(roots.astype(np.float32).reshape(-1, 1) if self.layered else roots.astype(np.float32))

    def _count(self, array: np.ndarray) -> np.ndarray:
        if self.progress:
            self.progress(self.leaf.path, array.nbytes)
        return array

    def _exponent(self, at: Sequence[int]) -> float:
        """The exponent of the layer that holds the matrix at `at`."""
        layer = at[0] if self.layered else 0
        if self.layout.how.kind == "uniform":
            return 1.0
        if layer not in self.exponents:
            outer = (layer,) if self.layered else ()
            matrices = list(np.ndindex(*self.lead[len(outer) :]))

            def read(number: int, columns: slice) -> np.ndarray:
                return self._matrix(self.sampled, (*outer, *matrices[number]), columns)

            shape = (len(matrices), self.layout.flat.rows, self.layout.flat.columns)
            self.exponents[layer] = levels.exponent_of(shape, read, self.layout.how.group, self.top)
        return self.exponents[layer]

    def _columns(self) -> list[int]:
        """The axes of the tail that are not contracted."""
        count = len(self.layout.flat.tail)
        return [axis for axis in range(count) if axis - count not in self.layout.axes]

    def _matrix(self, leaf: LeafSpec, at: Sequence[int], columns: slice) -> np.ndarray:
        """float32[rows, some columns] of the matrix at an index of the lead; reads whole heads."""
        tail = [slice(0, size) for size in self.layout.flat.tail]
        first, *rest = self._columns()
        inner = math.prod(self.layout.flat.tail[axis] for axis in rest)
        begin, end = columns.start // inner, -(-columns.stop // inner)
        tail[first] = slice(begin, end)
        matrix = leaf.read((*(slice(number, number + 1) for number in at), *tail))
        matrix = matrix.reshape(matrix.shape[len(at) :]).astype(np.float32)
        if not np.isfinite(matrix).all():
            name = self._source(at)
            raise ValuesInvalid(
                "holds NaN or infinite values, which have no codes", file=self.leaf.tensors.file(name), tensor=name,
                hint="download it again, or convert without --quantise",
            )  # fmt: skip
        flat = matrix.T if self.layout.axes[-1] == -1 else matrix.reshape(self.layout.flat.rows, -1)
        return contiguous(flat[:, columns.start - begin * inner : columns.stop - begin * inner])

    def _source(self, at: Sequence[int]) -> str:
        piece = self.leaf.pieces[at[0] if self.leaf.stacked else 0]
        return piece.sources[at[-1] if piece.op.stack else 0]


def relative_error(facts: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> float:
    """||W - Ŵ|| / ||W|| over all parts."""
    parts = list(facts)
    square = sum(part["squared_weight"] for part in parts)
    return math.sqrt(sum(part["squared_error"] for part in parts) / square) if square else 0.0
