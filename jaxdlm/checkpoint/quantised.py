"""A quantised leaf on disk: three arrays beside one another, and how devices and the host read the leaf from them.

    codes  int8[*lead, rows, columns], or uint8[*lead, rows, ceil(columns / 2)] with two int4 codes in a byte
    scale  float32[*lead, groups, columns]
    root   float32[layers, 1], or [1] where there is one matrix; of "power" only: 1 / exponent

What they mean says `jaxdlm.quant`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import quant
from jaxdlm.checkpoint.errors import HeaderInvalid, ShapeMismatch
from jaxdlm.checkpoint.leaf import FLOATS
from jaxdlm.checkpoint.safetensors import TensorInfo
from jaxdlm.checkpoint.spec import SPEC, Quantised, StoredLeaf
from jaxdlm.checkpoint.tensors import Tensors
from jaxdlm.models.params import ParamSpec
from jaxdlm.sharding import partition

CODES, SCALE, ROOT = "codes", "scale", "root"


@dataclass(frozen=True)
class Layout:
    """One quantised leaf: its path and shape, the contracted axes, and how it is quantised."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    how: Quantised

    @functools.cached_property
    def flat(self) -> quant.Shape:
        return quant.shape_of(self.shape, self.axes)

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each array, by name."""
        lead, _, rows, columns = self.flat
        half = self.how.bits == 4
        arrays = {
            CODES: ((*lead, rows, -(-columns // 2) if half else columns), "uint8" if half else "int8"),
            SCALE: ((*lead, rows // self.how.group, columns), "float32"),
        }
        return arrays | ({ROOT: ((*lead[:1], 1), "float32")} if self.how.kind == "power" else {})

    def stored(self, split: bool, groups: tuple[int, ...]) -> tuple[StoredLeaf, ...]:
        """The arrays as entries of spec.json."""
        return tuple(
            StoredLeaf(f"{self.path}/{name}", shape, dtype, split, groups)
            for name, (shape, dtype) in self.arrays.items()
        )

    def places(self, spec: ParamSpec, mesh: Mesh) -> dict[str, NamedSharding]:
        """Where codes and scale lie on a mesh: as the weight would, its rows and columns flattened.

        A scale is split by groups only where each device has whole ones.
        """
        axes = list(partition(spec, mesh))
        lead = axes[: len(self.flat.lead)]
        inner = [axis for axis in range(-len(self.flat.tail), 0) if axis not in self.axes]
        rows, columns = (self._joined(axes, which) for which in (self.axes, inner))
        groups = self.flat.rows // self.how.group
        whole = rows if rows is not None and groups % mesh.shape[rows] == 0 else None
        axes_of = {CODES: (*lead, rows, columns), SCALE: (*lead, whole, columns)}
        return {name: NamedSharding(mesh, PartitionSpec(*entries)) for name, entries in axes_of.items()}

    def _joined(self, axes: list[Any], which: Sequence[int]) -> Any:
        """The mesh axis of adjacent dimensions that become one: that of the first, if the others are whole."""
        first, *rest = (axes[axis] for axis in which)
        return first if all(entry is None for entry in rest) else None

    def assemble(
        self, codes: jax.Array, scale: jax.Array, roots: np.ndarray | None, dtype: str, place: Any
    ) -> quant.QuantizedLeaf:
        """The leaf from its arrays on devices; dtype: of the weight it stands for; place: where that would lie."""
        root = None
        if roots is not None and not (roots == 1).all():
            everywhere = NamedSharding(place.mesh, PartitionSpec()) if isinstance(place, NamedSharding) else place
            root = jax.device_put(roots.reshape(self.flat.lead[:1]), everywhere)
        return quant.QuantizedLeaf(
            codes=codes, scale=scale, root=root, tail=self.flat.tail, axes=self.axes, bits=self.how.bits, stored=dtype
        )


def read_layout(
    path: str, how: Quantised, specs: Mapping[str, ParamSpec], stored: Mapping[str, StoredLeaf], folder: Path
) -> Layout:
    """The layout of a leaf that spec.json calls quantised, compared with the arrays that it lists."""
    axes, again = quant.input_axes(path), "convert the checkpoint again"
    if path not in specs or axes is None:
        raise HeaderInvalid("is no weight that can be quantised", file=folder / SPEC, tensor=path, hint=again)
    layout = Layout(path, specs[path].shape, axes, how)
    if not 0 < how.group <= layout.flat.rows or layout.flat.rows % how.group:
        raise HeaderInvalid(f"has groups of {how.group} rows", file=folder / SPEC, tensor=path, hint=again)
    listed = {name for name in stored if name.rpartition("/")[0] == path}
    if listed != {f"{path}/{name}" for name in layout.arrays}:
        raise HeaderInvalid(f"has the arrays {sorted(listed)}", file=folder / SPEC, tensor=path, hint=again)
    codes = stored[f"{path}/{CODES}"]
    for expected in layout.stored(codes.split, codes.groups):
        leaf = stored[expected.path]
        if replace(leaf, sums=()) != expected:
            raise ShapeMismatch(
                "has another shape than its configuration says", file=folder / SPEC, tensor=leaf.path,
                expected=f"{expected.dtype}{expected.shape}", got=f"{leaf.dtype}{leaf.shape}", hint=again,
            )  # fmt: skip
    return layout


@dataclass(frozen=True)
class Dequantised:
    """The parts of one quantised leaf as weights in float32, by the name that a plain leaf's would have."""

    inner: Tensors
    layout: Layout
    split: bool

    @functools.cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        shape = self.layout.shape[1:] if self.split else self.layout.shape
        size = 4 * int(np.prod(shape, dtype=np.int64))
        names = (self._leaf.name(number) for number in range(self.layout.shape[0] if self.split else 1))
        return {name: TensorInfo(name, "F32", shape, 0, size) for name in names}

    @property
    def _leaf(self) -> StoredLeaf:
        return StoredLeaf(self.layout.path, self.layout.shape, "float32", self.split, ())

    def file(self, name: str) -> Path:
        """The Orbax folder of a part's codes."""
        return self.inner.file(self._array(name, CODES))

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """The weights of one part, or the rows [a, b) of its leading axis."""
        lead, tail, _, columns = self.layout.flat
        lead = lead[1:] if self.split else lead
        layered = bool(lead) and not self.split
        cut = {CODES: bool(lead), SCALE: bool(lead), ROOT: layered}  # arrays that have the leading axis, too
        arrays = {
            key: self.inner.read(self._array(name, key), rows if cut[key] else None) for key in self.layout.arrays
        }
        codes = arrays[CODES]
        if self.layout.how.bits == 4:
            codes = quant.unpack_host(codes, columns)
        roots = arrays[ROOT].reshape(-1) if ROOT in arrays else np.ones(1, np.float32)
        values = quant.restore(codes, arrays[SCALE], roots if layered else roots[0], self.layout.how.bits)
        weight = quant.unflatten(values, tail, self.layout.axes)
        return weight if lead or rows is None else weight[rows[0] : rows[1]]

    def _array(self, name: str, key: str) -> str:
        """codes of "embed": "embed.codes"; of layer 3 of a split leaf: "segments.0.0.wq.codes.0003"."""
        stem, number = (name[:-5], name[-5:]) if self.split else (name, "")
        return f"{stem}.{key}{number}"


def weight_dtype(how: Quantised) -> np.dtype:
    """The dtype of the weight that the codes stand for."""
    return FLOATS[how.dtype]
