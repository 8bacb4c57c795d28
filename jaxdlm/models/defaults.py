"""Values that a family's configuration class fills in where config.json has none, one table per architecture.

A release may rely on it: the `text_config` of Gemma-3 4B states eight keys of some twenty. For classes of transformers and
their heirs (Dream and Fast-dLLM v2 of Qwen2, SDAR of Qwen3, A2D of all three) the table is the class's, key by key, and a
test compares the two. LLaDA, LLaDA-MoE and LLaDA2 bring classes of their own; there the table holds the numbers of the class
in their repository. Not filled in, since a default would only show that the file is of another network, which its
tensors
show as well: LLaDA's choice of block, norm and activation, LLaDA2's biases; and LLaDA-MoE's sizes, -1 in its class.

None: the class leaves it to be derived (heads from hidden_size, key/value heads from the heads). Keys that are not listed
must be stated. Ids of special tokens are each family's own, since a vocabulary decides what they mean.
"""

from typing import Any

_LLAMA = {
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
_QWEN2 = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
_QWEN3 = _QWEN2 | {"head_dim": 128}
_QWEN3_MOE = {key: value for key, value in _QWEN2.items() if key != "intermediate_size"} | {  # of dense layers only
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
}
_GEMMA3 = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
_DIFFUSION_GEMMA = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    },
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
_LLADA = {  # the class's sizes are those of GPT-2
    "vocab_size": 50257,
    "d_model": 768,
    "n_heads": 12,
    "n_kv_heads": None,
    "n_layers": 12,
    "mlp_hidden_size": None,
    "mlp_ratio": 4,
    "max_sequence_length": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_full_precision": True,
    "weight_tying": True,
}
_LLADA_MOE = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_LLADA2 = {
    "vocab_size": 30592,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "use_qk_norm": True,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_shared_experts": 0,
    "first_k_dense_replace": 0,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "tie_word_embeddings": False,
    # not in the class: what its router does
    "score_function": "sigmoid",
    "norm_topk_prob": True,
    "moe_router_enable_expert_bias": True,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "gemma3_text": _GEMMA3,
    "diffusion_gemma": _DIFFUSION_GEMMA,
    "dream": _QWEN2,
    "fast_dllm_v2": _QWEN2 | {"bd_size": 32},
    "sdar": _QWEN3,
    "sdar_moe": _QWEN3_MOE,
    "llada": _LLADA,
    "llada_moe": _LLADA_MOE,
    "llada2_moe": _LLADA2,
}
