"""`open_packed`: quantization_config of config.json, and the weights that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdlm.argument import Kind, flag, listed, record, table, text, whole
from jaxdlm.checkpoint.errors import DtypeUnsupported, TensorsMismatch
from jaxdlm.checkpoint.packed.nf4 import plan_bits4
from jaxdlm.checkpoint.packed.scaled import Block, idle, plan_fp8, plan_int8, plan_rows
from jaxdlm.checkpoint.packed.weight import AGAIN, KEY, Packed, PackedTensors, Plan
from jaxdlm.checkpoint.packed.words import plan_awq, plan_gptq, plan_packed
from jaxdlm.checkpoint.safetensors import FP8
from jaxdlm.checkpoint.tensors import ShardedTensors, Tensors
from jaxdlm.errors import ConfigUnsupported, InputError

WHERE = f"config.json: {KEY}"
GROUP = whole(-1, 2**20)
SCHEMA: dict[str, Kind] = {
    "quant_method": text, "fmt": text, "quant_algo": text, "weight_block_size": listed(whole(1, 2**20)),
    "bits": whole(1, 8), "w_bit": whole(1, 8), "group_size": GROUP, "q_group_size": GROUP, "zero_point": flag, "version": text,
    "sym": flag, "desc_act": flag, "checkpoint_format": text, "load_in_4bit": flag, "load_in_8bit": flag,
    "config_groups": table, "format": text, "kv_cache_scheme": table,
}  # fmt: skip
WEIGHTS: dict[str, Kind] = {
    "num_bits": whole(1, 8), "type": text, "strategy": text, "group_size": GROUP, "symmetric": flag,
    "block_structure": listed(whole(1, 2**20)),
}  # fmt: skip
METHODS = ("fp8", "fbgemm_fp8", "modelopt", "awq", "gptq", "bitsandbytes", "compressed-tensors")


def open_packed(stated: Any, tensors: Tensors) -> tuple[Tensors, str]:
    """(the tensors as their weights, a note), of what config.json states under `quantization_config`.

    Raises InputError that names the key of a layout that is not read, or the tensor that does not fit it.
    """
    settings = record(stated, WHERE, SCHEMA)
    tensors = tensors.scaled() if isinstance(tensors, ShardedTensors) else tensors
    plan, method = Plan(tensors), settings.get("quant_method") or ("fp8" if "fmt" in settings else None)
    weights = _weights(plan, method, settings)
    if not weights:
        raise TensorsMismatch(
            f"holds no weight that is quantised as {WHERE} says ({method})", file=_folder(tensors), hint=AGAIN
        )
    read = PackedTensors(tensors, weights, idle(plan, weights))
    return floats(read), f"{len(weights)} weights of {method} are dequantised as they are read"


def floats(tensors: Tensors) -> Tensors:
    """The same. Raises DtypeUnsupported for FP8 of which config.json says nothing: its scales would not be read."""
    for name, info in tensors.infos.items():
        if info.dtype in FP8:
            raise DtypeUnsupported(
                f"holds {info.dtype}, of which config.json says nothing under {KEY}", file=tensors.file(name), tensor=name,
                hint="add it, or use a release in float32, bfloat16 or float16",
            )  # fmt: skip
    return tensors


def _weights(plan: Plan, method: Any, settings: Mapping[str, Any]) -> dict[str, Packed]:
    if method in ("fp8", "fbgemm_fp8", "modelopt"):
        _refuse(settings, "quant_algo", "FP8", None)
        _refuse(settings, "fmt", "e4m3", "e5m2", "float8_e4m3fn", None)
        return plan_fp8(plan, _pair(settings.get("weight_block_size"), "weight_block_size"))
    if method == "awq":
        _refuse(settings, "version", "gemm", "GEMM", None)
        _refuse(settings, "zero_point", True, None)
        bits = _first(settings, "bits", "w_bit")
        _refuse({"bits": bits}, "bits", 4)
        return plan_awq(plan, bits, _group(_first(settings, "group_size", "q_group_size")))
    if method == "gptq":
        bits = _first(settings, "bits")
        _refuse(settings, "bits", 4, 8, 2)
        _refuse(settings, "checkpoint_format", "gptq", "gptq_v2", None)
        group = _group(_first(settings, "group_size"))
        return plan_gptq(plan, bits, group, settings.get("checkpoint_format") != "gptq_v2")
    if method == "bitsandbytes":
        return plan_rows(plan) if settings.get("load_in_8bit") else plan_bits4(plan)
    if method == "compressed-tensors":
        return _compressed(plan, settings)
    raise ConfigUnsupported(f"{WHERE}.quant_method={method!r:.60} is not supported (one of {', '.join(METHODS)})")


def _compressed(plan: Plan, settings: Mapping[str, Any]) -> dict[str, Packed]:
    """One scheme for all weights that are quantised; activations are multiplied as they are."""
    _refuse(settings, "kv_cache_scheme", None)
    groups = [group for group in settings.get("config_groups", {}).values() if isinstance(group, Mapping)]
    schemes = [record(group.get("weights") or {}, f"{WHERE}.config_groups[...].weights", WEIGHTS) for group in groups]
    if not schemes or any(scheme != schemes[0] for scheme in schemes):
        raise ConfigUnsupported(f"{WHERE}.config_groups must hold one scheme of weights: {len(schemes)} are there")
    scheme = schemes[0]
    form = settings.get("format") or next((g["format"] for g in groups if isinstance(g.get("format"), str)), None)
    bits, symmetric = scheme.get("num_bits", 8), scheme.get("symmetric", True)
    _refuse(scheme, "strategy", "tensor", "channel", "group", "block", None)
    if form == "float-quantized":
        return plan_fp8(plan, _rectangle(scheme))
    if form == "int-quantized":
        return plan_int8(plan, _rectangle(scheme), bits, symmetric)
    if form == "pack-quantized":
        _refuse(scheme, "strategy", "channel", "group", None)
        _refuse(scheme, "num_bits", 4, 8, 2)  # other codes reach over the end of their word
        return plan_packed(plan, bits, scheme.get("group_size") or -1, symmetric)
    known = "float-quantized, int-quantized, pack-quantized"
    raise ConfigUnsupported(f"{WHERE}.format={form!r:.60} is not supported (one of {known})")


def _rectangle(scheme: Mapping[str, Any]) -> Block:
    """What shares a scale: a block, a group of a row, or (None) a row or the tensor."""
    if scheme.get("strategy") == "block":
        return _pair(scheme.get("block_structure"), "block_structure")
    return (1, scheme["group_size"]) if scheme.get("strategy") == "group" and scheme.get("group_size", 0) > 0 else None


def _pair(value: Any, name: str) -> Block:
    if value is not None and len(value) != 2:
        raise InputError(f"{WHERE}: {name}={list(value)} must be two sizes")
    return None if value is None else (value[0], value[1])


def _group(size: int) -> int:
    if size == 0:
        raise InputError(f"{WHERE}: group_size=0: must be a number of inputs, or -1 for all")
    return size


def _first(settings: Mapping[str, Any], *names: str) -> Any:
    value = next((settings[name] for name in names if settings.get(name) is not None), None)
    if value is None:
        raise InputError(f"{WHERE} has no {names[0]}; add it")
    return value


def _refuse(settings: Mapping[str, Any], name: str, *known: Any) -> None:
    value = settings.get(name)
    if value not in known:
        words = ", ".join(repr(each) for each in known if each is not None)
        raise ConfigUnsupported(f"{WHERE}.{name}={value!r:.60} is not supported (one of {words or 'none'})")


def _folder(tensors: Tensors) -> Path | None:
    return next((tensors.file(name).parent for name in tensors.infos), None)
