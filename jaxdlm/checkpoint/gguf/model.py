"""`read_gguf`: a GGUF file as the files of a Hub folder, made from its header alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdlm.checkpoint.gguf.config import Architecture, architecture, hub_config, place_tensors
from jaxdlm.checkpoint.gguf.header import Header, read_header
from jaxdlm.checkpoint.gguf.metadata import Metadata
from jaxdlm.checkpoint.gguf.tensors import GgufTensors
from jaxdlm.checkpoint.gguf.tokenizer import hub_tokenizer
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.table import TensorMap

SUFFIX = ".gguf"


@dataclass(frozen=True)
class Gguf:
    """A file that was read. documents: name -> contents of the JSON files that a Hub folder would have."""

    header: Header
    architecture: Architecture
    documents: Mapping[str, Any]

    @property
    def dtype(self) -> str | None:
        """The dtype that its weights are loaded in by default: bfloat16 if any are quantised, else None, as stored."""
        return "bfloat16" if any(stored.kind.quantised for stored in self.header.tensors.values()) else None

    def tensors(self, config: ModelConfig, maps: Iterable[TensorMap]) -> GgufTensors:
        """The tensors that the maps ask for, by their Hub names. Raises CheckpointError."""
        return place_tensors(self.header, self.architecture, config, maps)


def read_gguf(path: Path) -> Gguf:
    """A file's header, checked. Raises CheckpointError and ConfigUnsupported, each naming key or tensor, and InputError
    without the package gguf."""
    metadata = Metadata(read_header(path))
    documents: dict[str, Any] = {"config.json": hub_config(metadata)}
    tokenizer = hub_tokenizer(metadata)
    if tokenizer is not None:
        spec, settings, template = tokenizer
        documents["tokenizer.json"] = spec
        documents["tokenizer_config.json"] = settings | ({} if template is None else {"chat_template": template})
    return Gguf(metadata.header, architecture(metadata), documents)
