"""Weight-only quantisation: int8 or int4 codes, a scale per channel or group, one exponent per tensor.

With q_max = 2^(b-1) - 1, scale s = max|W| over a group and exponent a (arXiv 2301.09858, 2308.05600):

    u = W / s,   q = clip(round(q_max · sign(u) · |u|^a), ±q_max),   Ŵ = s · sign(q) · (|q| / q_max)^(1/a)

a = 1 is symmetric uniform quantisation. The exponent is searched per tensor, argmin_a ||W - Ŵ(a)||₂ by golden section.
Departures from the papers: one exponent per tensor (PowerQuant: one per network), scales per channel or group, and no
data-driven refinement.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Tiling, take_tile
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, PyTree

SEARCH_LOW, SEARCH_HIGH, SEARCH_STEPS, SEARCH_SAMPLE = 0.2, 1.2, 30, 2**20
KINDS = ("power", "uniform")

# number of contracted (input) axes behind the stacked ones, and where they start counted from the end
_INPUT_AXES = {
    "wq": (-3,), "wk": (-3,), "wv": (-3,), "wo": (-3, -2), "gate": (-2,), "up": (-2,), "down": (-2,),
    "s_gate": (-2,), "s_up": (-2,), "s_down": (-2,), "e_gate": (-2,), "e_up": (-2,), "e_down": (-2,),
    "embed": (-1,), "lm_head": (-2,),
}  # fmt: skip
ALWAYS_DENSE = ("embed", "lm_head")


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
        return _restore(self._values(self.codes, self.scale).astype(dtype), self.tail, self.axes)

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
    """Error of one tensor: exponent, ||W - Ŵ|| / ||W||, the same over the 1 % largest weights, bytes before and after."""

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
    """
    reports: list[QuantReport] = []

    def one(path: tuple[Any, ...], leaf: Array) -> Any:
        name = str(getattr(path[-1], "key", path[-1]))
        if name not in _INPUT_AXES or (name in ALWAYS_DENSE and name not in include):
            return leaf
        label = "/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)
        quantized, report = quantize(leaf, bits, axes=_INPUT_AXES[name], kind=kind, group=group, path=label)
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

    The lead axes (layers, experts) each get scales of their own, and share one exponent.
    Raises InputError for other bits or kinds, or a group that does not divide the rows.
    """
    _check(bits, kind)
    lead, tail, flat = _flatten(np.asarray(weight).astype(np.float32), axes)
    rows = flat.shape[-2]
    group = rows if group is None else group
    if rows % group:
        raise InputError(f"{path or 'weight'}: {rows} rows cannot be cut into groups of {group}; use a divisor")
    top = top_of(bits)
    unit, scale = _normalise(flat, group)
    a = 1.0 if kind == "uniform" else float(exponent or search_exponent(unit, scale, top, path))
    codes = encode(unit, a, top).reshape(flat.shape)
    levels = table_of(a, top)
    restored = (levels[codes.reshape(unit.shape) + top] * scale[..., None, :]).reshape(flat.shape)
    leaf = QuantizedLeaf(
        codes=jnp.asarray(codes, jnp.int4 if bits == 4 else jnp.int8),
        scale=jnp.asarray(scale),
        root=None if a == 1.0 else jnp.full(lead[:1], 1 / a, jnp.float32),
        tail=tail, axes=axes, bits=bits, stored=str(jnp.dtype(weight.dtype)),
    )  # fmt: skip
    return leaf, _report(path, a, flat, restored, weight.nbytes, leaf.nbytes)


def search_exponent(unit: np.ndarray, scale: np.ndarray, top: int, path: str = "") -> float:
    """argmin over a in [0.2, 1.2] of ||s · (u - û(a))||₂: golden section, 30 evaluations, at most 2^20 weights.

    Never worse than a = 1 on the sample: where the search does not beat it, 1 is returned.
    """
    flat, weight = unit.reshape(-1), np.broadcast_to(scale[..., None, :], unit.shape).reshape(-1)
    if flat.size > SEARCH_SAMPLE:
        picks = np.random.default_rng(zlib.crc32(path.encode())).integers(0, flat.size, SEARCH_SAMPLE)
        flat, weight = flat[picks], weight[picks]
    magnitude, square = np.abs(flat), np.square(weight.astype(np.float64))
    logs = np.log(np.maximum(magnitude, np.finfo(np.float32).tiny))

    def cost(a: float) -> float:
        code = np.rint(top * np.exp(a * logs))
        levels = (np.arange(top + 1) / top) ** (1 / a)
        return float(square @ np.square(magnitude - levels[np.minimum(code, top).astype(np.int32)]))

    ratio = (math.sqrt(5) - 1) / 2
    low, high = SEARCH_LOW, SEARCH_HIGH
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(SEARCH_STEPS - 2):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = cost(right)
    best, value = (left, at_left) if at_left <= at_right else (right, at_right)
    return float(np.float32(best)) if value < cost(1.0) else 1.0


def top_of(bits: int) -> int:
    """q_max, the largest code."""
    return 2 ** (bits - 1) - 1


def encode(unit: np.ndarray, a: float, top: int) -> np.ndarray:
    """clip(round(q_max · sign(u) · |u|^a), ±q_max) as int8."""
    power = np.sign(unit) * (np.abs(unit) if a == 1.0 else np.abs(unit) ** np.float32(a))
    return np.clip(np.rint(np.float32(top) * power), -top, top).astype(np.int8)


def table_of(a: float, top: int) -> np.ndarray:
    """float32[2·q_max + 1]: level of code k at index k + q_max, sign(k) · (|k| / q_max)^(1/a)."""
    code = np.arange(-top, top + 1)
    return (np.sign(code) * (np.abs(code) / top) ** (1 / a)).astype(np.float32)


def _check(bits: int, kind: str) -> None:
    if bits not in (4, 8):
        raise InputError(f"quantise: bits={bits} is not supported; use 8 or 4")
    if kind not in KINDS:
        raise InputError(f"quantise: kind {kind!r} is unknown; one of {', '.join(KINDS)}")


def _normalise(flat: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """(u [*lead, groups, group, cols], s [*lead, groups, cols])."""
    grouped = flat.reshape(*flat.shape[:-2], flat.shape[-2] // group, group, flat.shape[-1])
    scale = np.max(np.abs(grouped), axis=-2)
    scale = np.where(scale == 0, np.float32(1), scale)
    return grouped / scale[..., None, :], scale


def _levels(codes: Array, root: Array | None, top: int) -> Array:
    """sign(q) · (|q| / q_max)^root, or q / q_max without a root."""
    if root is None:
        return codes.astype(jnp.float32) * (1 / top)
    if root.ndim:
        return jax.vmap(lambda codes, root: _levels(codes, root, top))(codes, root)

    def power(codes: Array) -> Array:
        level = codes.astype(jnp.float32) * (1 / top)
        return jnp.sign(level) * jnp.exp(root * jnp.log(jnp.abs(level)))

    def look_up(codes: Array) -> Array:
        return power(jnp.arange(-top, top + 1)).at[codes.astype(jnp.int32) + top].get(mode="promise_in_bounds")

    # a product on a TPU takes the power in with its operand; a gather would go through memory. CPUs look up faster
    return jax.lax.platform_dependent(codes, cpu=look_up, default=power)


def _flatten(weight: np.ndarray, axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """(lead shape, tail shape, weight as [*lead, rows, cols]).

    The tail starts at the first contracted axis, or at the axis before it where the contracted axis is the last one
    (an embedding [V, D] reads as [D, V]).
    """
    begin = axes[0] if axes[-1] != -1 else axes[0] - 1
    lead, tail = weight.shape[:begin], weight.shape[begin:]
    if axes[-1] == -1:
        weight = np.swapaxes(weight, -1, -2)
        return lead, tail, np.ascontiguousarray(weight)
    rows = math.prod(weight.shape[axis] for axis in axes)
    return lead, tail, weight.reshape(*lead, rows, -1)


def _restore(flat: Array, tail: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    if axes[-1] == -1:
        return jnp.swapaxes(flat, -1, -2)
    return flat.reshape(*flat.shape[:-2], *tail)


def _report(path: str, a: float, weight: np.ndarray, restored: np.ndarray, before: int, after: int) -> QuantReport:
    error, size = np.square(weight - restored).reshape(-1), np.square(weight).reshape(-1)
    count = max(1, size.size // 100)
    top = np.argpartition(size, -count)[-count:]

    def relative(e: np.ndarray, s: np.ndarray) -> float:
        return float(np.sqrt(e.sum(dtype=np.float64) / max(s.sum(dtype=np.float64), np.finfo(np.float64).tiny)))

    return QuantReport(path, a, relative(error, size), relative(error[top], size[top]), int(before), int(after))
