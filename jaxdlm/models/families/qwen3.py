"""Qwen3 dense and mixture: normalised queries and keys, no biases. arXiv 2505.09388."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder, qwen3_experts
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `Qwen3ForCausalLM`."""
    fields = Fields(values, "qwen3", hints, DEFAULTS["qwen3"])
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=QWEN_TOKENS, qk_norm=True)


def read_moe_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `Qwen3MoeForCausalLM`; dense layers among the sparse ones are refused."""
    fields = Fields(values, "qwen3_moe", hints, DEFAULTS["qwen3_moe"])
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=QWEN_TOKENS, qk_norm=True, **qwen3_experts(fields))


FAMILY = Family("qwen3", ("Qwen3ForCausalLM",), ("qwen3",), read_config, decoder_tensors)
MOE = Family("qwen3_moe", ("Qwen3MoeForCausalLM",), ("qwen3_moe",), read_moe_config, decoder_tensors)
