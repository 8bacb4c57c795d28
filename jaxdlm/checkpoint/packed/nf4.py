"""bitsandbytes' 4 bits: two codes to a byte, the first in the high half; Ŵ = map[code] · absmax[block].

`X.weight` has the bytes, `X.weight.quant_map` the 16 values (NF4 or FP4), `X.weight.absmax` the largest of each block of
`blocksize` numbers in a row, `X.weight.quant_state.bitsandbytes__nf4` a record of JSON. Where absmax has codes, too:
absmax = nested_map[code] · nested_absmax[block] + nested_offset. arXiv 2305.14314.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from jaxdlm.argument import listed, one_of, real, record, text, whole
from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import HeaderInvalid
from jaxdlm.checkpoint.packed.weight import AGAIN, Packed, Plan, Read, finite, pad_up

STATE = ".weight.quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
SCHEMA = {
    "quant_type": one_of(*KINDS), "blocksize": whole(1, 2**20), "shape": listed(whole(1, 2**31)), "dtype": text,
}  # fmt: skip
NESTED = {"nested_blocksize": whole(1, 2**20), "nested_offset": real(-(10.0**30), 10.0**30)}


def plan_bits4(plan: Plan) -> dict[str, Packed]:
    """Every weight that has a record."""
    weights: dict[str, Packed] = {}
    for kind in KINDS:
        for stem in plan.stems(STATE + kind):
            weights[f"{stem}.weight"] = _weight(plan, stem, f"{stem}{STATE}{kind}")
    for stem in plan.stems(".weight.absmax"):  # a record that is gone
        if f"{stem}.weight" not in weights:
            plan.beside(f"{stem}.weight.absmax", *(f"{stem}{STATE}{kind}" for kind in KINDS))
    return weights


def _weight(plan: Plan, stem: str, state: str) -> Packed:
    name = f"{stem}.weight"
    plan.beside(state, name)
    about = _record(plan, state)
    shape, size = tuple(about["shape"]), prod(about["shape"])
    half, blocks = pad_up(size, 2), pad_up(size, about["blocksize"])
    plan.expect(name, [(half, 1), (1, half), (half,)], ("U8",), f"{shape} of {state}")
    nested = "nested_blocksize" in about
    parts = {"codes": name, "state": state}
    parts["absmax"] = plan.beside(name, f"{name}.absmax")
    parts["map"] = plan.expect(plan.beside(name, f"{name}.quant_map"), [(16,)], ("F32",), "4 bits")
    plan.expect(parts["absmax"], [(blocks,)], ("U8",) if nested else ("F32",), f"blocks of {about['blocksize']}")
    if nested:
        parts["outer"] = plan.beside(name, f"{name}.nested_absmax")
        parts["outer_map"] = plan.expect(
            plan.beside(name, f"{name}.nested_quant_map"), [(256,)], ("F32",), "a byte for each block"
        )
        outer = pad_up(blocks, about["nested_blocksize"])
        plan.expect(parts["outer"], [(outer,)], ("F32",), f"blocks of {about['nested_blocksize']}")
    return Packed(shape, parts, _unpack(about, parts, len(plan.shape(name)) > 1 and plan.shape(name)[0] == 1 < half))


def _record(plan: Plan, state: str) -> dict[str, Any]:
    plan.expect(state, [plan.shape(state)], ("U8",), "itself")
    where = f"{plan.tensors.file(state).name}: {state}"
    values = strict_json.parse(plan.tensors.read(state).tobytes(), plan.tensors.file(state))
    about = record(values, where, SCHEMA, required=True)
    if about.get("nested_blocksize") is not None:
        return record(about, where, NESTED, required=True)
    if any(key.startswith("nested_") and value is not None for key, value in about.items()):
        raise HeaderInvalid("has no nested_blocksize", file=plan.tensors.file(state), tensor=state, hint=AGAIN)
    return about


def _unpack(about: dict[str, Any], parts: dict[str, str], lying: bool) -> Callable[[Read, int, int], np.ndarray]:
    """lying: the bytes are one row, of which no part can be read."""
    shape, block = tuple(about["shape"]), about["blocksize"]

    def absmax(read: Read, first: int, last: int) -> np.ndarray:
        if "outer" not in parts:
            return finite(read("absmax")[first:last], parts["absmax"])
        codes, outer = read("absmax")[first:last], finite(read("outer"), parts["outer"])
        of = np.arange(first, last) // about["nested_blocksize"]
        return read("outer_map")[codes] * outer[of] + np.float32(about["nested_offset"])

    def unpack(read: Read, a: int, b: int) -> np.ndarray:
        row = prod(shape[1:])
        begin, end = a * row, b * row
        cut = (begin // 2, pad_up(end, 2))
        data = read("codes").reshape(-1)[slice(*cut)] if lying else read("codes", cut).reshape(-1)
        codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[begin - 2 * cut[0] :][: end - begin]
        first = begin // block
        scale = absmax(read, first, pad_up(end, block))[np.arange(begin, end) // block - first]
        return (finite(read("map"), parts["map"])[codes] * scale).reshape(b - a, *shape[1:])

    return unpack
