"""Weight-only quantisation: int8 or int4 codes, a scale per channel or group, one exponent per matrix of a layer.

With q_max = 2^(b-1) - 1, scale s = max|W| over a group and exponent a (arXiv 2301.09858, 2308.05600):

    u = W / s,   q = clip(round(q_max · sign(u) · |u|^a), ±q_max),   Ŵ = s · sign(q) · (|q| / q_max)^(1/a)

a = 1 is symmetric uniform quantisation. The exponent is searched for each layer's matrix (for all experts of a layer
together), argmin_a ||W - Ŵ(a)||₂ by golden section. Departures from the papers: one exponent per matrix (PowerQuant: one per
network), scales per channel or group, and no data-driven refinement.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Tiling, take_tile
from jaxdlm.errors import InputError
from jaxdlm.levels import encode_columns, exponent_of, look_up, table_of, top_of
from jaxdlm.typing import Array, Float32, PyTree

KINDS = ("power", "uniform")

# number of contracted (input) axes behind the stacked ones, and where they start counted from the end
_INPUT_AXES = {
    "wq": (-3,), "wk": (-3,), "wv": (-3,), "wo": (-3, -2), "gate": (-2,), "up": (-2,), "down": (-2,),
    "s_gate": (-2,), "s_up": (-2,), "s_down": (-2,), "e_gate": (-2,), "e_up": (-2,), "e_down": (-2,),
    "embed": (-1,), "lm_head": (-2,),
}  # fmt: skip
ALWAYS_DENSE = ("embed", "lm_head")


def input_axes(path: str) -> tuple[int, ...] | None:
    """The contracted axes of a leaf, counted from the end; None for one that cannot be quantised."""
    return _INPUT_AXES.get(path.rsplit("/", 1)[-1])


class Recipe(NamedTuple):
    """How the weights of a model are quantised; the arguments of `quantize_params`."""

    bits: int = 8
    kind: str = "power"
    group: int | None = None
    include: tuple[str, ...] = ()

    def check(self) -> None:
        """InputError for a recipe that means nothing, by argument."""
        _check(self.bits, self.kind)
        if self.group is not None and (not isinstance(self.group, int) or self.group < 1):
            raise InputError(f"quantise: group={self.group!r} must be a positive number of rows")
        unknown = [name for name in self.include if name not in ALWAYS_DENSE]
        if unknown:
            raise InputError(f"quantise: include {unknown[0]!r} is unknown; of {', '.join(ALWAYS_DENSE)}")

    def axes(self, path: str) -> tuple[int, ...] | None:
        """The contracted axes of a leaf that this recipe quantises, None for one that stays as it is."""
        name = path.rsplit("/", 1)[-1]
        return None if name in ALWAYS_DENSE and name not in self.include else input_axes(path)


class Shape(NamedTuple):
    """A weight as [*lead, rows, columns]: rows are the contracted axes, flattened; tail is its shape behind the lead."""

    lead: tuple[int, ...]
    tail: tuple[int, ...]
    rows: int
    columns: int

    def grouped(self, group: int | None, path: str) -> int:
        """Rows that share a scale; InputError where a group does not divide the rows."""
        if group is not None and self.rows % group:
            raise InputError(
                f"{path or 'weight'}: {self.rows} rows cannot be cut into groups of {group}; use a divisor"
            )
        return group or self.rows


@struct.dataclass
class QuantizedLeaf:
    """A weight as codes: W[..., i, ...] = sign(q) · (|q| / q_max)^root · scale[group of i].

    codes: int8 or int4 [*lead, rows, cols], where rows are the contracted axes flattened and cols the output axes (two
    int4 codes share a byte on TPUs; CPUs give each its own); scale: float32 [*lead, groups, cols]; root:
    float32 [*lead[:1]], 1/a, or None where a is 1. `shape` and `dtype` are those of the weight without the axis that
    `lax.scan` strips.
    """

    codes: Array
    scale: Array
    root: Array | None
    tail: tuple[int, ...] = struct.field(pytree_node=False)  # shape of the weight behind the lead axes
    axes: tuple[int, ...] = struct.field(pytree_node=False)  # contracted axes, negative
    bits: int = struct.field(pytree_node=False)
    stored: str = struct.field(pytree_node=False)  # dtype of the weight it stands for

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.codes.shape[:-2], *self.tail)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return jnp.dtype(self.stored)

    @property
    def nbytes(self) -> int:
        root = 0 if self.root is None else self.root.nbytes
        return self.codes.size * self.bits // 8 + self.scale.nbytes + root

    def dequantize(self, dtype: Any) -> Array:
        """The weight in `dtype` and in its own shape."""
        return unflatten(self._values(self.codes, self.scale).astype(dtype), self.tail, self.axes)

    def rows(self, index: Array, dtype: Any) -> Array:
        """Rows of an embedding table [V, D] (contracted axis D) without building the table."""
        picked = self.replace(
            codes=jnp.take(self.codes, index, axis=-1, mode="clip"),
            scale=jnp.take(self.scale, index, axis=-1, mode="clip"),
        )
        flat = picked._values(
            picked.codes.reshape(self.codes.shape[0], -1), picked.scale.reshape(self.scale.shape[0], -1)
        )
        return jnp.moveaxis(flat, 0, -1).reshape(*index.shape, self.tail[-1]).astype(dtype)

    def outputs(self, first: Array, tiling: Tiling) -> QuantizedLeaf:
        """The part of a matrix that makes the outputs of a tile (they are the columns of the codes)."""
        outputs = tiling.run * tiling.stripes
        tail = (outputs, self.tail[1]) if self.axes == (-1,) else (self.tail[0], outputs)
        codes, scale = (take_tile(x, x.ndim - 1, first, tiling) for x in (self.codes, self.scale))
        return self.replace(codes=codes, scale=scale, tail=tail)

    def _values(self, codes: Array, scale: Array) -> Array:
        groups = codes.reshape(*scale.shape[:-1], -1, codes.shape[-1])
        return (_levels(groups, self.root, top_of(self.bits)) * scale[..., None, :]).reshape(codes.shape)


class QuantReport(NamedTuple):
    """Error of one tensor: exponent (mean over its layers), ||W - Ŵ|| / ||W||, the same over the 1 % largest weights,
    bytes before and after."""

    path: str
    exponent: float
    relative_error: float
    relative_error_top: float
    bytes_before: int
    bytes_after: int


def quantize_params(
    params: PyTree, bits: int = 8, *, kind: str = "power", group: int | None = None, include: tuple[str, ...] = ()
) -> tuple[PyTree, list[QuantReport]]:
    """Replace the large matrices of a parameter tree by QuantizedLeafs.

    Args: bits: 8 or 4; kind: "power" or "uniform"; group: rows that share a scale (None: one scale per output channel;
    64 to 128 for int4); include: "embed" and "lm_head" to quantise these too. Norms, biases and routers stay.
    Returns the tree and a report per quantised tensor. The result goes where params went: `Backbone` reads it.
    `python -m checkpoints_convert --quantise` makes the same of a checkpoint that never fits into memory.
    """
    recipe = Recipe(bits, kind, group, include)
    recipe.check()
    reports: list[QuantReport] = []

    def one(path: tuple[Any, ...], leaf: Array) -> Any:
        label = "/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)
        axes = recipe.axes(label)
        if axes is None:
            return leaf
        quantized, report = quantize(leaf, bits, axes=axes, kind=kind, group=group, path=label)
        reports.append(report)
        return quantized

    return jax.tree_util.tree_map_with_path(one, params), reports


def quantize(
    weight: Array,
    bits: int = 8,
    *,
    axes: tuple[int, ...] = (-2,),
    kind: str = "power",
    group: int | None = None,
    exponent: float | None = None,
    path: str = "",
) -> tuple[QuantizedLeaf, QuantReport]:
    """Quantise one weight; axes: the contracted ones, counted from the end, adjacent.

    The lead axes (layers, experts) each get scales of their own; the experts of a layer share its exponent, which is
    searched unless it is given.
    Raises InputError for other bits or kinds, or a group that does not divide the rows.
    """
    _check(bits, kind)
    shape = shape_of(weight.shape, axes)
    flat = _flatten(np.asarray(weight).astype(np.float32), shape, axes)
    group, top = shape.grouped(group, path), top_of(bits)
    layers = flat.reshape(*(shape.lead[:1] or (1,)), -1, shape.rows, shape.columns)
    fixed = 1.0 if kind == "uniform" else exponent
    exponents = tuple(
        float(fixed or exponent_of(layer.shape, lambda at, columns, layer=layer: layer[at][:, columns], group, top))
        for layer in layers
    )
    codes, restored = np.empty(layers.shape, np.int8), np.empty_like(layers)
    scale = np.empty((*layers.shape[:2], shape.rows // group, shape.columns), np.float32)
    for number, a in enumerate(exponents):
        for at, matrix in enumerate(layers[number]):
            codes[number, at], scale[number, at], restored[number, at] = encode_columns(matrix, group, a, top)
    leaf = QuantizedLeaf(
        codes=jnp.asarray(codes.reshape(flat.shape), jnp.int4 if bits == 4 else jnp.int8),
        scale=jnp.asarray(scale.reshape(*shape.lead, *scale.shape[2:])),
        root=root_of(np.reshape(exponents, shape.lead[:1])),
        tail=shape.tail, axes=axes, bits=bits, stored=str(jnp.dtype(weight.dtype)),
    )  # fmt: skip
    return leaf, _report(path, exponents, flat, restored.reshape(flat.shape), weight.nbytes, leaf.nbytes)


def root_of(exponents: np.ndarray) -> Array | None:
    """1/a of each layer in float32; None where all are 1, so that levels need no power."""
    return None if (exponents == 1).all() else jnp.asarray((1 / exponents).astype(np.float32))


def _check(bits: int, kind: str) -> None:
    if bits not in (4, 8):
        raise InputError(f"quantise: bits={bits} is not supported; use 8 or 4")
    if kind not in KINDS:
        raise InputError(f"quantise: kind {kind!r} is unknown; one of {', '.join(KINDS)}")


def _levels(codes: Array, root: Array | None, top: int) -> Array:
    """sign(q) · (|q| / q_max)^root, or q / q_max without a root."""
    if root is None:
        return codes.astype(jnp.float32) * (1 / top)
    if root.ndim:
        return jax.vmap(lambda codes, root: _levels(codes, root, top))(codes, root)

    def power(codes: Array) -> Array:
        return power_of(codes.astype(jnp.float32) * (1 / top), root)

    def look_up(codes: Array) -> Array:
        return power(jnp.arange(-top, top + 1)).at[codes.astype(jnp.int32) + top].get(mode="promise_in_bounds")

    # a product on a TPU takes the power in with its operand; a gather would go through memory. CPUs look up faster
    return jax.lax.platform_dependent(codes, cpu=look_up, default=power)


def power_of(level: Float32[Array, "..."], root: Float32[Array, ""]) -> Float32[Array, "..."]:
    """sign(level) · |level|^root."""
    size = jnp.exp(root * jnp.log(jnp.abs(level)))
    return jnp.where(level < 0, -size, size)  # no `sign`: compiled for a TPU that is not there, a kernel cannot hold it


def shape_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> Shape:
    """How a weight of that shape is flattened.

    The tail starts at the first contracted axis, or at the axis before it where the contracted axis is the last one
    (an embedding [V, D] reads as [D, V]).
    """
    begin = len(shape) + (axes[0] if axes[-1] != -1 else axes[0] - 1)
    rows = math.prod(shape[axis] for axis in axes)
    return Shape(shape[:begin], shape[begin:], rows, math.prod(shape[begin:]) // rows if rows else 0)


def _flatten(weight: np.ndarray, shape: Shape, axes: tuple[int, ...]) -> np.ndarray:
    """The weight as [*lead, rows, columns]."""
    if axes[-1] == -1:
        return np.ascontiguousarray(np.swapaxes(weight, -1, -2))
    return weight.reshape(*shape.lead, shape.rows, shape.columns)


def pack(codes: np.ndarray) -> np.ndarray:
    """uint8[..., ceil(columns / 2)] of int4 codes, two to a byte, the even column in its low half: XLA's own order."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), codes.dtype)], -1)
    half = codes.astype(np.uint8) & 15
    return half[..., 0::2] | half[..., 1::2] << 4


def unpack(packed: Array, columns: int) -> Array:
    """int4[..., columns]; the inverse of `pack`, where the bytes lie."""
    pairs = jax.lax.bitcast_convert_type(packed, jnp.int4)
    return pairs.reshape(*packed.shape[:-1], -1)[..., :columns]


def unpack_host(packed: np.ndarray, columns: int) -> np.ndarray:
    """The same as int8 on the host."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.int8)
    codes[..., 0::2], codes[..., 1::2] = packed << 4, packed & 240
    return (codes >> 4)[..., :columns]


def restore(codes: np.ndarray, scale: np.ndarray, root: np.ndarray, bits: int) -> np.ndarray:
    """float32[*lead, rows, columns] on the host from codes as int8; root: one number, or one per index of the first axis."""
    top = top_of(bits)
    if root.ndim:
        return np.stack([restore(*parts, bits) for parts in zip(codes, scale, root)])
    groups = codes.reshape(*scale.shape[:-1], -1, codes.shape[-1])
    return (look_up(groups, table_of(1 / float(root), top)) * scale[..., None, :]).reshape(codes.shape)


def unflatten(flat: Any, tail: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """[*lead, rows, columns] in the weight's own shape."""
    if axes[-1] == -1:
        return flat.swapaxes(-1, -2)
    return flat.reshape(*flat.shape[:-2], *tail)


def _report(
    path: str, exponents: tuple[float, ...], weight: np.ndarray, restored: np.ndarray, before: int, after: int
) -> QuantReport:
    error, size = np.square(weight - restored).reshape(-1), np.square(weight).reshape(-1)
    count = max(1, size.size // 100)
    top = np.argpartition(size, -count)[-count:]

    def relative(e: np.ndarray, s: np.ndarray) -> float:
        return float(np.sqrt(e.sum(dtype=np.float64) / max(s.sum(dtype=np.float64), np.finfo(np.float64).tiny)))

    return QuantReport(
        path, float(np.mean(exponents)), relative(error, size), relative(error[top], size[top]), int(before), int(after)
    )
