"""Which family a config.json belongs to, and the shapes of the released models."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.argument import record
from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import (
    a2d,
    diffusion_gemma,
    dream,
    fast_dllm_v2,
    gemma3,
    llada,
    llada2_moe,
    llada_moe,
    llama,
    native,
    qwen2,
    qwen3,
    sdar,
)
from jaxdlm.models.hub_config import CONFIG, Hints
from jaxdlm.models.released import RELEASED
from jaxdlm.models.table import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        llada.FAMILY,
        llada_moe.FAMILY,
        llada2_moe.FAMILY,
        dream.FAMILY,
        sdar.FAMILY,
        sdar.MOE,
        fast_dllm_v2.FAMILY,
        a2d.FAMILY,
        diffusion_gemma.FAMILY,
        llama.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        qwen3.MOE,
        gemma3.FAMILY,
        native.FAMILY,
    )
}


def detect(values: Mapping[str, Any]) -> Family:
    """By `architectures[0]` first, `model_type` second: one family's files have carried three model types."""
    named = {key: values.get(key) for key in ("architectures", "model_type")}
    named = record(named, "config.json", CONFIG, dot=": ")
    architecture, model_type = next(iter(named["architectures"] or ()), None), named["model_type"]
    for family in FAMILIES.values():
        if architecture in family.architectures:
            return family
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    raise ConfigUnsupported(
        f"config.json: architecture {architecture!r} with model_type {model_type!r} is not supported; "
        f"families: {', '.join(FAMILIES)}"
    )


def read_config(values: Mapping[str, Any], hints: Hints | None = None, family: str | None = None) -> ModelConfig:
    """ModelConfig of a config.json; `family` overrides the detection."""
    return (family_named(family) if family else detect(values)).read_config(values, hints or Hints())


def family_named(name: str) -> Family:
    """The family of `ModelConfig.family`."""
    if name not in FAMILIES:
        raise InputError(f"family {name!r} is unknown; one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def released_config(name: str) -> ModelConfig:
    """ModelConfig of a released model by its short name, for random weights of the true shape."""
    if name not in RELEASED:
        raise InputError(f"released shape {name!r} is unknown; one of {', '.join(RELEASED)}")
    return read_config(RELEASED[name])
