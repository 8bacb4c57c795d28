"""Qwen3 dense and mixture: normalised queries and keys, no biases. arXiv 2505.09388."""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import qwen2
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder, qwen3_experts
from jaxdlm.models.families._shapes import A3B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

DEFAULTS = qwen2.DEFAULTS | {"head_dim": 128}
DEFAULTS_MOE = {
    key: value for key, value in qwen2.DEFAULTS.items() if key != "intermediate_size"
} | {  # of dense layers only
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `Qwen3ForCausalLM`."""
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=QWEN_TOKENS, windows=True, qk_norm=True)


def read_moe_config(fields: Fields) -> ModelConfig:
    """config.json of `Qwen3MoeForCausalLM`; dense layers among the sparse ones are refused."""
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=QWEN_TOKENS, windows=True, qk_norm=True, **qwen3_experts(fields))


FAMILY = family(
    Family(
        "qwen3",
        ("Qwen3ForCausalLM",),
        ("qwen3",),
        read_config,
        decoder_tensors,
        defaults=DEFAULTS,
        hub={f"qwen3-{size}b": f"Qwen/Qwen3-{size}B" for size in ("0.6", "1.7", "4", "8")},
        released={
            "qwen3-0.6b": qwen_shape("Qwen3ForCausalLM", 28, 1024, 3072, 16, 8, 128, tie_word_embeddings=True),
            "qwen3-1.7b": qwen_shape("Qwen3ForCausalLM", 28, 2048, 6144, 16, 8, 128, tie_word_embeddings=True),
            "qwen3-4b": qwen_shape("Qwen3ForCausalLM", 36, 2560, 9728, 32, 8, 128, tie_word_embeddings=True),
            "qwen3-8b": qwen_shape("Qwen3ForCausalLM", 36, 4096, 12288, 32, 8, 128, max_position_embeddings=40960),
        },
    )
)
MOE = family(
    Family(
        "qwen3_moe",
        ("Qwen3MoeForCausalLM",),
        ("qwen3_moe",),
        read_moe_config,
        decoder_tensors,
        defaults=DEFAULTS_MOE,
        hub={"qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B"},
        released={"qwen3-30b-a3b": qwen_shape("Qwen3MoeForCausalLM", 48, 2048, 6144, 32, 4, 128, **A3B)},
    )
)
