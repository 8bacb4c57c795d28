"""Qwen2 and Qwen2.5: grouped heads with query/key/value biases. arXiv 2407.10671, 2412.15115."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `Qwen2ForCausalLM`; the biases are part of the class and have no key."""
    return decoder(Fields(values, "qwen2", hints, DEFAULTS["qwen2"]), tokens=QWEN_TOKENS, qkv_bias=True)


FAMILY = Family("qwen2", ("Qwen2ForCausalLM",), ("qwen2",), read_config, decoder_tensors)
