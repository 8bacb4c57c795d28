"""Qwen2 and Qwen2.5: grouped heads with query/key/value biases. arXiv 2407.10671, 2412.15115."""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import llama
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder
from jaxdlm.models.families._shapes import QWEN_7B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

DEFAULTS = llama.DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `Qwen2ForCausalLM`; the biases are part of the class and have no key."""
    return decoder(fields, tokens=QWEN_TOKENS, windows=True, qkv_bias=True)


FAMILY = family(
    Family(
        "qwen2",
        ("Qwen2ForCausalLM",),
        ("qwen2",),
        read_config,
        decoder_tensors,
        defaults=DEFAULTS,
        hub={f"qwen2.5-{size}b": f"Qwen/Qwen2.5-{size}B-Instruct" for size in ("0.5", "1.5", "3", "7")},
        released={
            "qwen2.5-0.5b": qwen_shape("Qwen2ForCausalLM", 24, 896, 4864, 14, 2, 64, tie_word_embeddings=True),
            "qwen2.5-1.5b": qwen_shape("Qwen2ForCausalLM", 28, 1536, 8960, 12, 2, 128, tie_word_embeddings=True),
            "qwen2.5-3b": qwen_shape("Qwen2ForCausalLM", 36, 2048, 11008, 16, 2, 128, tie_word_embeddings=True),
            "qwen2.5-7b": qwen_shape("Qwen2ForCausalLM", *QWEN_7B, vocab_size=152064),
        },
    )
)
