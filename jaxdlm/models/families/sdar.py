"""SDAR 1.7B to 30B-A3B and TraDo: Qwen3 decoded block by block. arXiv 2510.06303."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder, qwen3_experts
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

TOKENS = QWEN_TOKENS | {"mask": 151669, "mask_text": ("<|MASK|>", "<MASK>"), "bos": 151643}

# the block size of a release is not in every copy of its config.json
RELEASED_BLOCK = {f"JetLM/SDAR-{size}-Chat": 4 for size in ("1.7B", "4B", "8B", "30B-A3B")}


def block_size(fields: Fields) -> int:
    """Caller's word, config.json, or the released repository's; never a guess."""
    known = fields.hints.block_size or fields.get("block_size", None) or RELEASED_BLOCK.get(fields.hints.source)
    if known is None:
        raise InputError(f"{fields.family}: config.json has no block_size and releases differ (4 to 64); state it")
    return known


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `SDARForCausalLM`."""
    fields = Fields(values, "sdar", hints, DEFAULTS["sdar"])
    return _block_decoder(fields)


def read_moe_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `SDARMoeForCausalLM`."""
    fields = Fields(values, "sdar_moe", hints, DEFAULTS["sdar_moe"])
    return _block_decoder(fields, **qwen3_experts(fields))


def _block_decoder(fields: Fields, **changes: Any) -> ModelConfig:
    fields.refuse(attention_bias=False)
    return decoder(
        fields,
        tokens=TOKENS,
        qk_norm=True,
        attention="block_causal",
        block_size=block_size(fields),
        prediction="same",
        noise="mask",
        **changes,
    )


FAMILY = Family("sdar", ("SDARForCausalLM",), ("sdar",), read_config, decoder_tensors)
MOE = Family("sdar_moe", ("SDARMoeForCausalLM", "SDARMoEForCausalLM"), ("sdar_moe",), read_moe_config, decoder_tensors)
