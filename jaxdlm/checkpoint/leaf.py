"""`LeafSpec`: one parameter leaf that can be read lazily, whole, by layer, or by the slice that a device needs.

Nothing here knows a family: a leaf is a list of pieces (one per index of the stacked axis, or one for the whole leaf),
each a few named tensors and an invertible rearrangement of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from jaxdlm.checkpoint import files
from jaxdlm.checkpoint.errors import ValuesInvalid
from jaxdlm.checkpoint.tensors import Tensors

Index = tuple[slice, ...]
FLOATS = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
STORED = FLOATS | {"int8": np.dtype(np.int8), "uint8": np.dtype(np.uint8)}  # of arrays on disk: quantised ones, too


class Op(Protocol):
    """An exact rearrangement: source tensors to one piece of a leaf (`jaxdlm.models.table.Op`).

    `stack`: each source gives one index of the piece's leading axis; else there is one source. `single`: the same move
    for one source of a stack.
    """

    @property
    def stack(self) -> bool: ...
    def forward(self, sources: Sequence[np.ndarray]) -> np.ndarray: ...
    def single(self) -> Op: ...


@dataclass(frozen=True)
class AsIs:
    """One tensor, unchanged."""

    stack: bool = False

    def forward(self, sources: Sequence[np.ndarray]) -> np.ndarray:
        return sources[0]

    def single(self) -> Op:
        return replace(self, stack=False)


@dataclass(frozen=True)
class Piece:
    """Tensors by name and how they become one piece of a leaf."""

    sources: tuple[str, ...]
    op: Op


@dataclass(frozen=True)
class LeafSpec:
    """A leaf of the parameter tree that has not been read yet.

    path: name joined with "/"; shape; dtype: what `read` returns; stacked: whether pieces[i] is index i of axis 0.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: tuple[Piece, ...]
    stacked: bool
    tensors: Tensors = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def astype(self, dtype: np.dtype) -> LeafSpec:
        """The same leaf, read in another dtype."""
        return replace(self, dtype=np.dtype(dtype))

    def read(self, index: Index | None = None) -> np.ndarray:
        """The leaf, or the slice of it that `index` (one slice per axis, as JAX hands to a callback) selects."""
        bounds = [slice(*s.indices(n)) for s, n in zip(index or (slice(None),) * len(self.shape), self.shape)]
        if not self.stacked:
            return self._piece(self.pieces[0], self.shape, bounds)
        layers = range(self.shape[0])[bounds[0]]
        if len(layers) == 1:
            return self._piece(self.pieces[layers[0]], self.shape[1:], bounds[1:])[None]
        out = files.empty((len(layers), *(len(range(s.start, s.stop, s.step)) for s in bounds[1:])), self.dtype)
        for at, layer in enumerate(layers):
            out[at] = contiguous(self._piece(self.pieces[layer], self.shape[1:], bounds[1:]))
        return out

    def layer(self, number: int) -> LeafSpec:
        """One layer of a stacked leaf as a leaf of its own."""
        return replace(self, shape=self.shape[1:], pieces=(self.pieces[number],), stacked=False)

    def order(self) -> tuple[int, ...]:
        """The axes, slowest first, in which the leaf's values follow one another in its sources."""
        axes = list(range(len(self.shape)))
        lead = int(self.stacked) + int(self.pieces[0].op.stack)
        info = self.tensors.infos[self.pieces[0].sources[0]]
        view = self.pieces[0].op.single().forward([np.empty(info.shape, np.uint8)])  # never touched: no memory
        return (*axes[:lead], *sorted(axes[lead:], key=lambda axis: -view.strides[axis - lead]))

    def _piece(self, piece: Piece, shape: tuple[int, ...], bounds: list[slice]) -> np.ndarray:
        if not piece.op.stack:
            return cast(self._one(piece.sources[0], piece.op, shape, bounds), self.dtype, self.path)
        chosen = range(shape[0])[bounds[0]]
        out = files.empty((len(chosen), *(len(range(s.start, s.stop, s.step)) for s in bounds[1:])), self.dtype)
        single = piece.op.single()
        for at, number in enumerate(chosen):
            one = cast(self._one(piece.sources[number], single, shape[1:], bounds[1:]), self.dtype, self.path)
            out[at] = contiguous(one)
        return out

    def _one(self, name: str, op: Op, shape: tuple[int, ...], bounds: list[slice]) -> np.ndarray:
        part = self._covering(name, op, shape, bounds)
        return op.forward([self.tensors.read(name)])[tuple(bounds)] if part is None else part

    def _covering(self, name: str, op: Op, shape: tuple[int, ...], bounds: list[slice]) -> np.ndarray | None:
        """The slice, read from the smallest run of source rows that holds it; None where the op is no mere view.

        The op is applied to an array of the source's shape whose memory is never touched (the system maps it only on
        use); where the result is a view, its strides say at which source offset every target element lies.
        """
        info = self.tensors.infos[name]
        if len(info.shape) < 1 or info.nbytes == 0:
            return None
        probe = np.empty(info.shape, np.uint8)
        view = op.forward([probe])
        if view.shape != tuple(shape) or not np.may_share_memory(view, probe):
            return None
        want = view[(*bounds, ...)]
        if want.size == 0 or any(stride < 0 for stride in view.strides):
            return None
        first = want.__array_interface__["data"][0] - probe.__array_interface__["data"][0]
        last = first + sum((n - 1) * stride for n, stride in zip(want.shape, want.strides))
        row = probe.strides[0]
        rows = (first // row, last // row + 1)
        buffer = self.tensors.read(name, rows).reshape(-1)
        size = buffer.itemsize
        return np.lib.stride_tricks.as_strided(
            buffer[first - rows[0] * row :], want.shape, tuple(stride * size for stride in want.strides)
        )


def cast(array: np.ndarray, dtype: np.dtype, path: str) -> np.ndarray:
    """Exact where dtype keeps; round-to-nearest-even to bfloat16; float16 only where every value fits."""
    if array.dtype == dtype:
        return array
    if dtype == np.float16 and array.size:
        top = float(np.max(np.abs(array.astype(np.float32))))
        if top > 65504:
            raise ValuesInvalid(f"holds {top:g}, beyond float16's 65504", tensor=path, hint="use bfloat16 or float32")
    return array.astype(dtype)


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order; transposes of large arrays go through XLA's blocked copy, several times NumPy's speed."""
    if array.flags.c_contiguous:
        return array
    if array.nbytes < 2**20:
        return np.ascontiguousarray(array)
    import jax

    return np.asarray(jax.device_put(array, jax.local_devices(backend="cpu")[0]))


def unflatten(flat: dict[str, Any]) -> Any:
    """{"segments/0/0/wq": x} to the nested tree; parts that are all digits become tuples."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node, parts = tree, path.split("/")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return _tuples(tree)


def _tuples(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return tuple(_tuples(node[str(number)]) for number in range(len(node)))
    return {key: _tuples(value) for key, value in node.items()}
