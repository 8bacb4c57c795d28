"""Llama 3.x: grouped heads, llama3 frequency scaling. arXiv 2407.21783."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

LLAMA_TOKENS = {"bos": 128000, "eos": (128001, 128008, 128009), "turn_end": 128009}
DEFAULTS = {"tie_word_embeddings": False}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `LlamaForCausalLM` (biases refused)."""
    fields = Fields(values, "llama", hints, DEFAULTS)
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=LLAMA_TOKENS)


FAMILY = Family("llama", ("LlamaForCausalLM",), ("llama",), read_config, decoder_tensors)
