"""Tiny-A2D: small Qwen2, Qwen3 or Llama checkpoints turned into diffusion models, full or block-causal, without shift.

From the dllm project (github.com/ZHZisZZ/dllm); the mask token is added by its tokenizer code, not by config.json.
"""

from collections.abc import Mapping
from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder
from jaxdlm.models.families.llama import special_ids
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

BASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2": ({"qkv_bias": True}, QWEN_TOKENS | {"mask": 151665}),
    "qwen3": ({"qk_norm": True}, QWEN_TOKENS | {"mask": 151669}),
    "llama": ({}, {}),
}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of an A2D model. Block-causal if a block size is stated or the name says bd3lm (32), else full."""
    stated = Fields(values, "a2d", hints)
    name = f"{stated.get('model_type', '')} {' '.join(stated.get('architectures', ()))}".lower()
    base = next((base for base in BASES if base in name), None)
    if base is None or "qwen3_5" in name or "qwen3moe" in name:
        raise ConfigUnsupported(f"a2d: model_type={values.get('model_type')!r} is not supported ({', '.join(BASES)})")
    shape, tokens = BASES[base]
    tokens = special_ids(values) if base == "llama" else tokens
    fields = Fields(values, "a2d", hints, DEFAULTS[base])
    fields.refuse(attention_bias=False)
    block = hints.block_size or fields.get("block_size", 0) or (32 if "bd3lm" in hints.source.lower() else 0)
    attention = hints.attention or ("block_causal" if block else "full")
    return decoder(
        fields,
        tokens=tokens | {"mask_text": ("<|mask|>",)},
        attention=attention,
        block_size=block if attention == "block_causal" else 0,
        prediction="same",
        noise="mask",
        **shape,
    )


FAMILY = Family(
    "a2d",
    ("A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel", "A2DLlamaLMHeadModel"),
    ("a2d-qwen2", "a2d-qwen3", "a2d-llama"),
    read_config,
    decoder_tensors,
)
