"""Llama 3.x: grouped heads, llama3 frequency scaling. arXiv 2407.21783."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

LLAMA3_TOKENS: dict[str, Any] = {"bos": 128000, "eos": (128001, 128008, 128009), "turn_end": 128009}


def special_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """The ids that the class fills in, which are those of Llama 1 and 2; those of Llama 3 for its larger vocabulary."""
    size = values.get("vocab_size")
    if isinstance(size, int) and size > LLAMA3_TOKENS["turn_end"]:
        return LLAMA3_TOKENS
    return {name: value for name, value in (("bos", 1), ("eos", (2,))) if f"{name}_token_id" not in values}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `LlamaForCausalLM` (biases refused)."""
    fields = Fields(values, "llama", hints, DEFAULTS["llama"])
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=special_ids(values))


FAMILY = Family("llama", ("LlamaForCausalLM",), ("llama",), read_config, decoder_tensors)
