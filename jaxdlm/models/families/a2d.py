"""Tiny-A2D: small Qwen2, Qwen3 or Llama checkpoints turned into diffusion models, full or block-causal, without shift.

From the dllm project (github.com/ZHZisZZ/dllm); the mask token is added by its tokenizer code, not by config.json.
"""

import dataclasses
from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import llama, qwen2, qwen3
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder
from jaxdlm.models.families._shapes import qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

# of each class that it grew from: its defaults, what the network has more, special ids
BASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "qwen2": (qwen2.DEFAULTS, {"qkv_bias": True}, QWEN_TOKENS | {"mask": 151665}),
    "qwen3": (qwen3.DEFAULTS, {"qk_norm": True}, QWEN_TOKENS | {"mask": 151669}),
    "llama": (llama.DEFAULTS, {}, {}),
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of an A2D model. Block-causal if a block size is stated or the name says bd3lm (32), else full."""
    name = f"{fields.get('model_type', '')} {' '.join(fields.get('architectures', ()))}".lower()
    base = next((base for base in BASES if base in name), None)
    if base is None or "qwen3_5" in name or "qwen3moe" in name:
        raise ConfigUnsupported(
            f"a2d: model_type={fields.values.get('model_type')!r} is not supported ({', '.join(BASES)})"
        )
    defaults, shape, tokens = BASES[base]
    tokens = llama.special_ids(fields.values) if base == "llama" else tokens
    fields, hints = dataclasses.replace(fields, defaults=defaults), fields.hints
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


FAMILY = family(
    Family(
        "a2d",
        ("A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel", "A2DLlamaLMHeadModel"),
        ("a2d-qwen2", "a2d-qwen3", "a2d-llama"),
        read_config,
        decoder_tensors,
        hub={
            "a2d-qwen3-0.6b": "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",
            "a2d-qwen2.5-0.5b": "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
        },
        released={
            "a2d-qwen3-0.6b": qwen_shape("A2DQwen3LMHeadModel", 28, 1024, 3072, 16, 8, 128, tie_word_embeddings=True),
            "a2d-qwen2.5-0.5b": qwen_shape("A2DQwen2LMHeadModel", 24, 896, 4864, 14, 2, 64, tie_word_embeddings=True),
        },
    )
)
