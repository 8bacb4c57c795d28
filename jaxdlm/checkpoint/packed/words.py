"""Codes of 2 to 8 bits in 32-bit words: AWQ, GPTQ and compressed-tensors' `pack-quantized`.

Ŵ[o, i] = (code[o, i] - zero[o, g]) · scale[o, g], with g the group of input i: i // group_size, or g_idx[i].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxdlm.checkpoint.errors import HeaderInvalid
from jaxdlm.checkpoint.packed.weight import AGAIN, FLOATING, Packed, Plan, Read, between, fields, finite, pad_up

# AWQ's nibble i of a word is column ORDER[i] of its eight
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
WORDS = ("I32", "U32")


def plan_awq(plan: Plan, bits: int, group: int) -> dict[str, Packed]:
    """`X.qweight` [I, O/8], `X.qzeros` [G, O/8], `X.scales` [G, O]: eight outputs to a word, in `ORDER`."""
    weights = {}
    for stem in plan.stems(".qweight"):
        name = f"{stem}.qweight"
        inputs, words = _two(plan, name)
        outputs, (size, groups) = words * (32 // bits), _groups(plan, name, inputs, group)
        zeros, scales = (plan.beside(name, f"{stem}.{part}") for part in ("qzeros", "scales"))
        plan.expect(name, [(inputs, words)], WORDS, "itself")
        plan.expect(scales, [(groups, outputs)], FLOATING, f"groups of {size} inputs")
        plan.expect(zeros, [(groups, words)], WORDS, f"groups of {size} inputs")
        parts = {"codes": name, "zeros": zeros, "scales": scales}
        weights[f"{stem}.weight"] = Packed((outputs, inputs), parts, _awq(bits, size, inputs, scales))
    return weights


def _awq(bits: int, group: int, inputs: int, scales: str) -> Callable[[Read, int, int], np.ndarray]:
    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        count = 32 // bits
        words = slice(a // count, pad_up(b, count))
        cut = slice(a - words.start * count, b - words.start * count)
        codes = fields(read("codes")[:, words], bits, ORDER)[:, cut]
        zeros = fields(read("zeros")[:, words], bits, ORDER)[:, cut]
        of = np.arange(inputs) // group
        return ((codes - zeros[of]).astype(np.float32) * finite(read("scales")[:, a:b], scales)[of]).T

    return unpack


def plan_gptq(plan: Plan, bits: int, group: int, plus_one: bool) -> dict[str, Packed]:
    """`X.qweight` [I·bits/32, O], `X.qzeros` [G, O·bits/32], `X.scales` [G, O], perhaps `X.g_idx` [I]: words of inputs.

    plus_one: zero points are stored less 1 (`checkpoint_format` "gptq").
    """
    weights = {}
    for stem in plan.stems(".qweight"):
        name = f"{stem}.qweight"
        count = 32 // bits
        words, outputs = _two(plan, name)
        inputs = words * count
        size, groups = _groups(plan, name, inputs, group)
        zeros, scales = (plan.beside(name, f"{stem}.{part}") for part in ("qzeros", "scales"))
        plan.expect(name, [(words, outputs)], WORDS, "itself")
        plan.expect(scales, [(groups, outputs)], FLOATING, f"groups of {size} inputs")
        plan.expect(zeros, [(groups, pad_up(outputs, count))], WORDS, f"groups of {size} inputs")
        parts = {"codes": name, "zeros": zeros, "scales": scales}
        if f"{stem}.g_idx" in plan.tensors.infos:
            parts["group"] = plan.expect(f"{stem}.g_idx", [(inputs,)], ("I32", "I64"), f"{inputs} inputs")
        unpack = _gptq(bits, size, inputs, groups, plus_one, parts)
        weights[f"{stem}.weight"] = Packed((outputs, inputs), parts, unpack)
    return weights


def _gptq(
    bits: int, group: int, inputs: int, groups: int, plus_one: bool, parts: dict[str, str]
) -> Callable[[Read, int, int], np.ndarray]:  # fmt: skip
    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        count, most = 32 // bits, (1 << bits) - 1
        codes = fields(np.ascontiguousarray(read("codes")[:, a:b].T), bits)
        words = slice(a // count, pad_up(b, count))
        zeros = fields(read("zeros")[:, words], bits)[:, a - words.start * count :][:, : b - a]
        zeros = between(zeros + plus_one, 0, most, "zero point", parts["zeros"])
        of = np.arange(inputs) // group
        if "group" in parts:
            of = between(read("group"), 0, groups - 1, "group", parts["group"])
        return (codes - zeros.T[:, of]).astype(np.float32) * finite(read("scales")[:, a:b], parts["scales"]).T[:, of]

    return unpack


def plan_packed(plan: Plan, bits: int, group: int, symmetric: bool) -> dict[str, Packed]:
    """`X.weight_packed` [O, I·bits/32], `X.weight_scale` [O, G], `X.weight_shape`, and what goes with these.

    Codes are stored plus 2^(bits - 1), as are the zero points of `X.weight_zero_point` [O·bits/32, G] where they are not
    symmetric; `X.weight_g_idx` has the group of each input, or -1 throughout.
    """
    weights = {}
    count = 32 // bits
    for stem in plan.stems(".weight_packed"):
        name = f"{stem}.weight_packed"
        plan.expect(shaped := plan.beside(name, f"{stem}.weight_shape"), [(2,)], ("I64", "I32"), "two sizes")
        outputs, inputs = (int(size) for size in plan.tensors.read(shaped))
        plan.expect(name, [(outputs, pad_up(max(inputs, 0), count))], WORDS, f"{shaped} ({outputs}, {inputs})")
        size = inputs if group < 1 else group
        groups = pad_up(inputs, size)
        scales = plan.beside(name, f"{stem}.weight_scale")
        plan.expect(
            scales, [(outputs, groups), (outputs,)][: 2 if groups == 1 else 1], FLOATING, f"groups of {size} inputs"
        )
        parts = {"codes": name, "scales": scales, "shape": shaped}
        if not symmetric:
            zeros = plan.beside(name, f"{stem}.weight_zero_point")
            parts["zeros"] = plan.expect(zeros, [(pad_up(outputs, count), groups)], WORDS, f"groups of {size} inputs")
        if f"{stem}.weight_g_idx" in plan.tensors.infos:
            parts["group"] = plan.expect(f"{stem}.weight_g_idx", [(inputs,)], ("I32", "I64"), f"{inputs} inputs")
        weights[f"{stem}.weight"] = Packed((outputs, inputs), parts, _packed(bits, size, inputs, groups, parts))
    return weights


def _packed(
    bits: int, size: int, inputs: int, groups: int, parts: dict[str, str]
) -> Callable[[Read, int, int], np.ndarray]:  # fmt: skip
    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        count = 32 // bits
        codes = fields(read("codes", (a, b)), bits)[:, :inputs]
        zeros = np.full((b - a, groups), 1 << bits - 1, np.int32)
        if "zeros" in parts:
            words = slice(a // count, pad_up(b, count))
            every = fields(np.ascontiguousarray(read("zeros")[words].T), bits)
            zeros = every[:, a - words.start * count :][:, : b - a].T
        of = np.arange(inputs) // size
        if "group" in parts and (index := read("group")).max(initial=-1) >= 0:
            of = between(index, 0, groups - 1, "group", parts["group"])
        scales = finite(read("scales", (a, b)), parts["scales"]).reshape(b - a, groups)
        return (codes - zeros[:, of]).astype(np.float32) * scales[:, of]

    return unpack


def _two(plan: Plan, name: str) -> tuple[int, int]:
    shape = plan.shape(name)
    if len(shape) != 2:
        raise HeaderInvalid(f"has the shape {shape}, which is no matrix", tensor=name, hint=AGAIN)
    return shape[0], shape[1]


def _groups(plan: Plan, name: str, inputs: int, group: int) -> tuple[int, int]:
    """(inputs of a group, groups); -1: all inputs are one."""
    if inputs % (size := inputs if group == -1 else group):
        raise HeaderInvalid(
            f"has {inputs} inputs, no multiple of group_size {size}", file=plan.tensors.file(name), tensor=name,
            hint="check quantization_config in config.json",
        )  # fmt: skip
    return size, inputs // size
