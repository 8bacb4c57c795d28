"""The library's own format: config.json carries a ModelConfig, tensors are named by their path in the tree."""

from collections.abc import Collection, Iterator

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.params import named_specs
from jaxdlm.models.table import Family, Op, TensorMap
from jaxdlm.registry import family


def read_config(fields: Fields) -> ModelConfig:
    """The object under "jaxdlm"; a stated block size replaces its own."""
    config = ModelConfig.from_json(fields.get("jaxdlm"))
    length = fields.hints.block_size
    return config.in_blocks(length) if length else config


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """One tensor per leaf, stacked over layers as in memory: "segments/0/0/wq"."""
    for name, spec in named_specs(config):
        path = tuple(int(part) if part.isdigit() else part for part in name.split("/"))
        op = Op(spec.shape, spec.shape, tuple(range(len(spec.shape))))
        yield TensorMap(path, None, (name,), op, spec.shape, spec.shape)


FAMILY = family(Family("jaxdlm", ("JaxDLM",), ("jaxdlm",), read_config, tensors, ignore=(), heads=("lm_head",)))
