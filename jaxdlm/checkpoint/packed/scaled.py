"""Codes of one byte, FP8 or int8, in rectangles that share a scale: Ŵ[i, j] = code[i, j] · scale[i // r, j // c].

A scale of a whole tensor, of rows, of groups in a row and of blocks are rectangles of other sizes (r, c). Of transformers
(`fp8`, `fbgemm_fp8`), ModelOpt, compressed-tensors (`float-quantized`, `int-quantized`) and bitsandbytes (8 bits, with
`SCB`: code · SCB[i] / 127).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from jaxdlm.checkpoint.packed.weight import FLOATING, Packed, Plan, Read, between, finite, pad_up
from jaxdlm.checkpoint.safetensors import FP8

ACTIVATIONS = ("input_scale", "activation_scale", "output_scale")  # of what is multiplied; weights do not need them
Block = tuple[int, int] | None


def plan_fp8(plan: Plan, block: Block) -> dict[str, Packed]:
    """Every tensor of FP8, with `…_scale_inv` or `…_scale` beside it; both multiply."""
    weights = {}
    for name, info in plan.tensors.infos.items():
        if info.dtype in FP8:
            weights[name] = rectangles(plan, name, plan.beside(name, f"{name}_scale_inv", f"{name}_scale"), block)
    return weights


def plan_int8(plan: Plan, block: Block, bits: int, symmetric: bool) -> dict[str, Packed]:
    """Every `X.weight` of int8, with `X.weight_scale` and, where it is not symmetric, `X.weight_zero_point` beside it."""
    weights = {}
    for stem in plan.stems(".weight"):
        name = f"{stem}.weight"
        if plan.tensors.infos[name].dtype == "I8":
            zero = None if symmetric else plan.beside(name, f"{name}_zero_point")
            weights[name] = rectangles(plan, name, plan.beside(name, f"{name}_scale"), block, zero, bits)
    return weights


def plan_rows(plan: Plan) -> dict[str, Packed]:
    """Every `X.weight` of int8 in bitsandbytes' layout: `X.SCB`, 127 times the scale of each row."""
    weights = {}
    for stem in plan.stems(".weight"):
        name = f"{stem}.weight"
        if plan.tensors.infos[name].dtype == "I8":
            scale = plan.beside(name, f"{stem}.SCB")
            rows, columns = plan.shape(name)
            plan.expect(scale, [(rows,)], FLOATING, "a scale for each row")
            weights[name] = Packed((rows, columns), {"codes": name, "scale": scale}, _rows(scale))
    return weights


def _rows(name: str) -> Callable[[Read, int, int], np.ndarray]:
    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        return read("codes", (a, b)).astype(np.float32) * (finite(read("scale")[a:b], name)[:, None] / np.float32(127))

    return unpack


def idle(plan: Plan, weights: Mapping[str, Packed]) -> frozenset[str]:
    """Scales of activations beside the weights."""
    stems = {name.removesuffix("weight") for name in weights}
    return frozenset(f"{stem}{each}" for stem in stems for each in ACTIVATIONS) & frozenset(plan.tensors.infos)


def rectangles(
    plan: Plan, name: str, scale: str, block: Block, zero: str | None = None, bits: int = 8
) -> Packed:  # fmt: skip
    """The weight `name` [..., rows, columns] with its scale; block None: one for the tensor, or one for each row."""
    *lead, rows, columns = shape = plan.shape(name)
    if block is not None:
        grid = (*lead, pad_up(rows, block[0]), pad_up(columns, block[1]))
        why, shapes = f"blocks of {block[0]} x {block[1]}", [grid]
    else:
        why = "one scale for the tensor, or for each row"
        shapes = [(), (1,), (1, 1), (*lead, 1, 1), (*lead, rows, 1), (*lead, rows)]
    plan.expect(scale, shapes, FLOATING, why)
    parts = {"codes": name, "scale": scale}
    if zero is not None:
        plan.expect(zero, [plan.shape(scale)], ("I8", "I32"), "its scales")
        parts["zero"] = zero

    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        codes = read("codes", (a, b)).astype(np.float32)
        if zero is not None:
            low, high = -(1 << bits - 1), (1 << bits - 1) - 1
            codes = codes - _spread(between(read("zero"), low, high, "zero point", zero), shape, block, a, b)
        return codes * _spread(finite(read("scale"), scale), shape, block, a, b)

    return Packed(shape, parts, unpack)


def _spread(scale: np.ndarray, shape: tuple[int, ...], block: Block, a: int, b: int) -> np.ndarray:
    """Scales for the rows [a, b) of the leading axis, one for each number or broadcast to that."""
    *lead, rows, columns = shape
    if block is None:
        if scale.size == 1:
            return scale.reshape((1,) * len(shape))
        return scale.reshape(*lead, rows if scale.size == prod(shape[:-1]) else 1, 1)[a:b]
    r, c = block
    first = 0 if lead else a // r
    part = scale[a:b] if lead else scale[first : pad_up(b, r)]
    wide = np.repeat(np.repeat(part, min(r, rows), axis=-2), min(c, columns), axis=-1)[..., :columns]
    return wide[..., :rows, :] if lead else wide[a - first * min(r, rows) :][: b - a]
