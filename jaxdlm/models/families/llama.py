"""Llama 3.x: grouped heads, llama3 frequency scaling. arXiv 2407.21783."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
LLAMA3_TOKENS: dict[str, Any] = {"bos": 128000, "eos": (128001, 128008, 128009), "turn_end": 128009}


def special_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """The ids that the class fills in, which are those of Llama 1 and 2; those of Llama 3 for its larger vocabulary."""
    size = values.get("vocab_size")
    if isinstance(size, int) and size > LLAMA3_TOKENS["turn_end"]:
        return LLAMA3_TOKENS
    return {name: value for name, value in (("bos", 1), ("eos", (2,))) if f"{name}_token_id" not in values}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `LlamaForCausalLM` (biases refused)."""
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=special_ids(fields.values))


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _released(*sizes: int, scaling: dict[str, Any] | None, tied: bool, length: int = 131072) -> dict[str, Any]:
    rest = {"vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "rope_scaling": scaling}
    return shape("LlamaForCausalLM", *sizes, **rest, tie_word_embeddings=tied, max_position_embeddings=length)


FAMILY = family(
    Family(
        "llama",
        ("LlamaForCausalLM",),
        ("llama",),
        read_config,
        decoder_tensors,
        defaults=DEFAULTS,
        hub={
            "llama3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
            "llama3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
            "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
            "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
        },
        released={
            "llama3.2-1b": _released(16, 2048, 8192, 32, 8, 64, scaling=_llama3(32.0), tied=True),
            "llama3.2-3b": _released(28, 3072, 8192, 24, 8, 128, scaling=_llama3(32.0), tied=True),
            "llama3.1-8b": _released(32, 4096, 14336, 32, 8, 128, scaling=_llama3(8.0), tied=False),
            "llama3-8b": _released(32, 4096, 14336, 32, 8, 128, scaling=None, tied=False, length=8192),
        },
    )
)
