"""config.json of released models, reduced to the keys that decide the shape.

For benchmarks and plans, never for loading weights: a checkpoint is always read by its own file.
"""

from typing import Any

_QWEN = {"vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}


def _decoder(
    architecture: str, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, head_dim: int, **rest: Any
) -> dict[str, Any]:
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


def _qwen(architecture: str, *sizes: int, **rest: Any) -> dict[str, Any]:
    return _decoder(architecture, *sizes, **(_QWEN | rest))


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _llama(*sizes: int, scaling: dict[str, Any] | None, tied: bool, length: int = 131072) -> dict[str, Any]:
    rest = {"vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "rope_scaling": scaling}
    return _decoder("LlamaForCausalLM", *sizes, **rest, tie_word_embeddings=tied, max_position_embeddings=length)


def _gemma(*sizes: int, window: int, rows: int, linear: float | None, scalar: int = 256) -> dict[str, Any]:
    return _decoder(
        "Gemma3ForCausalLM",
        *sizes,
        vocab_size=rows,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        rope_scaling=None if linear is None else {"rope_type": "linear", "factor": linear},
        sliding_window=window,
        query_pre_attn_scalar=scalar,
        hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=32768 if linear is None else 131072,
    )


_LLADA2 = {
    "vocab_size": 157184,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "score_function": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "max_position_embeddings": 32768,
    "first_k_dense_replace": 1,
    "rotary_dim": 64,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rms_norm_eps": 1e-6,
}
_A3B = {
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
_LLADA = {
    "architectures": ["LLaDAModelLM"],
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 4096,
    "weight_tying": False,
}
_LLADA_MOE = {
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "expert_intermediate_size": 1024,
    "vocab_size": 157184,
    "rope_theta": 50000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
_DIFFUSION_GEMMA = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "canvas_length": 256,
    "text_config": _decoder(
        "DiffusionGemmaForBlockDiffusion",
        *(30, 2816, 2112, 16, 8, 256),
        vocab_size=262144,
        global_head_dim=512,
        num_global_key_value_heads=2,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        sliding_window=1024,
        max_position_embeddings=262144,
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        },
    ),
}
_DREAM_SIZES = (28, 3584, 18944, 28, 4, 128)

RELEASED: dict[str, dict[str, Any]] = {
    "llada-8b": _LLADA,
    "llada-1.5-8b": _LLADA,
    "llada-moe-7b": _decoder("LLaDAMoEModelLM", 16, 2048, 8192, 16, 16, 128, **_LLADA_MOE),
    "llada2-mini": _decoder("LLaDA2MoeModelLM", 20, 2048, 5120, 16, 4, 128, moe_intermediate_size=512, **_LLADA2),
    "llada2-flash": _decoder("LLaDA2MoeModelLM", 32, 4096, 9216, 32, 4, 128, moe_intermediate_size=1024, **_LLADA2),
    "dream-7b": _qwen("DreamModel", *_DREAM_SIZES, vocab_size=152064, max_position_embeddings=131072),
    "sdar-1.7b": _qwen("SDARForCausalLM", 28, 2048, 6144, 16, 8, 128, block_size=4),
    "sdar-4b": _qwen("SDARForCausalLM", 36, 2560, 9728, 32, 8, 128, block_size=4),
    "sdar-8b": _qwen("SDARForCausalLM", 36, 4096, 12288, 32, 8, 128, block_size=4),
    "sdar-30b-a3b": _qwen("SDARMoeForCausalLM", 48, 2048, 6144, 32, 4, 128, block_size=4, **_A3B),
    "fast-dllm-v2-7b": _qwen("Fast_dLLM_QwenForCausalLM", *_DREAM_SIZES, vocab_size=152064, bd_size=32),
    "fast-dllm-v2-1.5b": _qwen(
        "Fast_dLLM_QwenForCausalLM", 28, 1536, 8960, 12, 2, 128, bd_size=32, tie_word_embeddings=True
    ),
    "a2d-qwen3-0.6b": _qwen("A2DQwen3LMHeadModel", 28, 1024, 3072, 16, 8, 128, tie_word_embeddings=True),
    "a2d-qwen2.5-0.5b": _qwen("A2DQwen2LMHeadModel", 24, 896, 4864, 14, 2, 64, tie_word_embeddings=True),
    "diffusion-gemma-26b": _DIFFUSION_GEMMA,
    "qwen2.5-0.5b": _qwen("Qwen2ForCausalLM", 24, 896, 4864, 14, 2, 64, tie_word_embeddings=True),
    "qwen2.5-1.5b": _qwen("Qwen2ForCausalLM", 28, 1536, 8960, 12, 2, 128, tie_word_embeddings=True),
    "qwen2.5-3b": _qwen("Qwen2ForCausalLM", 36, 2048, 11008, 16, 2, 128, tie_word_embeddings=True),
    "qwen2.5-7b": _qwen("Qwen2ForCausalLM", *_DREAM_SIZES, vocab_size=152064),
    "qwen3-0.6b": _qwen("Qwen3ForCausalLM", 28, 1024, 3072, 16, 8, 128, tie_word_embeddings=True),
    "qwen3-1.7b": _qwen("Qwen3ForCausalLM", 28, 2048, 6144, 16, 8, 128, tie_word_embeddings=True),
    "qwen3-4b": _qwen("Qwen3ForCausalLM", 36, 2560, 9728, 32, 8, 128, tie_word_embeddings=True),
    "qwen3-8b": _qwen("Qwen3ForCausalLM", 36, 4096, 12288, 32, 8, 128, max_position_embeddings=40960),
    "qwen3-30b-a3b": _qwen("Qwen3MoeForCausalLM", 48, 2048, 6144, 32, 4, 128, **_A3B),
    "llama3.2-1b": _llama(16, 2048, 8192, 32, 8, 64, scaling=_llama3(32.0), tied=True),
    "llama3.2-3b": _llama(28, 3072, 8192, 24, 8, 128, scaling=_llama3(32.0), tied=True),
    "llama3.1-8b": _llama(32, 4096, 14336, 32, 8, 128, scaling=_llama3(8.0), tied=False),
    "llama3-8b": _llama(32, 4096, 14336, 32, 8, 128, scaling=None, tied=False, length=8192),
    "gemma3-270m": _gemma(18, 640, 2048, 4, 1, 256, window=512, rows=262144, linear=None),
    "gemma3-1b": _gemma(26, 1152, 6912, 4, 1, 256, window=512, rows=262144, linear=None),
    "gemma3-4b": _gemma(34, 2560, 10240, 8, 4, 256, window=1024, rows=262208, linear=8.0),
    "gemma3-12b": _gemma(48, 3840, 15360, 16, 8, 256, window=1024, rows=262208, linear=8.0),
    "gemma3-27b": _gemma(62, 5376, 21504, 32, 16, 128, window=1024, rows=262208, linear=8.0, scalar=168),
}
