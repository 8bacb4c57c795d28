"""The library's own format: config.json carries a ModelConfig, tensors are named by their path in the tree."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.params import named_specs
from jaxdlm.models.table import Family, Op, TensorMap


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """The object under "jaxdlm"; a stated block size replaces its own."""
    config = ModelConfig.from_json(Fields(values, "jaxdlm", hints).get("jaxdlm"))
    return config.in_blocks(hints.block_size) if hints.block_size else config


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """One tensor per leaf, stacked over layers as in memory: "segments/0/0/wq"."""
    for name, spec in named_specs(config):
        path = tuple(int(part) if part.isdigit() else part for part in name.split("/"))
        op = Op(spec.shape, spec.shape, tuple(range(len(spec.shape))))
        yield TensorMap(path, None, (name,), op, spec.shape, spec.shape)


FAMILY = Family("jaxdlm", ("JaxDLM",), ("jaxdlm",), read_config, tensors, ignore=(), heads=("lm_head",))
