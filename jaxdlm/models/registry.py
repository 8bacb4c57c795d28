"""Which family a config.json belongs to, and the shapes of the released models."""

from collections.abc import Mapping
from typing import Any

from jaxdlm import registry
from jaxdlm.argument import record
from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import CONFIG, Hints
from jaxdlm.models.table import Family

FAMILIES: dict[str, Family] = registry.families()
RELEASED: dict[str, Mapping[str, Any]] = {
    name: values for family in FAMILIES.values() for name, values in family.released.items()
}
HUB: dict[str, str] = {name: id_ for family in FAMILIES.values() for name, id_ in family.hub.items()}


def detect(values: Mapping[str, Any]) -> Family:
    """By `architectures[0]` first, `model_type` second: one family's files have carried three model types."""
    named = {key: values.get(key) for key in ("architectures", "model_type")}
    named = record(named, "config.json", CONFIG, dot=": ")
    architecture, model_type = next(iter(named["architectures"] or ()), None), named["model_type"]
    for family in FAMILIES.values():
        if family.claims(values):
            return family
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
