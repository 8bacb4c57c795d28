"""config.json of released models, reduced to the keys that decide the shape.

For benchmarks and plans, never for loading weights: a checkpoint is always read by its own file.
"""

from typing import Any

_QWEN = {"vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
# the experts of Qwen3-30B-A3B and what was grown from it
A3B = {
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
QWEN_7B = (28, 3584, 18944, 28, 4, 128)


def shape(
    architecture: str, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, head_dim: int, **rest: Any
) -> dict[str, Any]:
    """The keys that most decoders have, and the rest."""
    return {
        "architectures": [architecture],
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **rest,
    }


def qwen_shape(architecture: str, *sizes: int, **rest: Any) -> dict[str, Any]:
    """With the numbers that most releases of Qwen2.5 and Qwen3 have in common."""
    return shape(architecture, *sizes, **(_QWEN | rest))
