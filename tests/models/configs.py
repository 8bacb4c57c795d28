"""Tiny configurations without a torch oracle: one per attention, feed-forward and segment structure."""

import dataclasses
from typing import Any

from jaxdlm.models import ModelConfig, RopeConfig, TokenIds

BASE = ModelConfig(
    family="jaxdlm",
    vocab_size=61,
    num_layers=3,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_position=64,
    norm_eps=1e-6,
    rope=RopeConfig(theta=1e4),
    tokens=TokenIds(mask=60, pad=0, eos=(1,)),
    attention="full",
    prediction="same",
    noise="mask",
    param_dtype="float32",
)


def change(**fields: Any) -> ModelConfig:
    return dataclasses.replace(BASE, **fields)


MOE = {"num_experts": 8, "top_k": 3, "expert_size": 12}
BLOCK = {"attention": "block_causal", "block_size": 4}
GROUPED = MOE | {"n_group": 4, "topk_group": 2, "router_score": "sigmoid", "router_bias": True, "norm_topk": True}

CONFIGS: dict[str, ModelConfig] = {
    "full": BASE,
    "causal": change(attention="causal", prediction="next", qkv_bias=True, tie_embeddings=True),
    "block": change(**BLOCK, qk_norm=True, head_dim=12),
    "embedded": change(activation="relu2", gated_mlp=False, logit_scale=0.2, tie_embeddings=True, qk_norm=True),
    "moe": change(**MOE, qk_norm=True),
    "grouped_moe": change(
        **BLOCK,
        **GROUPED,
        num_layers=4,
        shared_size=12,
        first_dense_layers=1,
        routed_scale=2.5,
        router_in_f32=True,
        rope=RopeConfig(theta=1e4, rotary_dim=4),
    ),
    "local_global": change(
        attention="causal",
        prediction="next",
        num_layers=8,
        layer_kinds=("local",) * 5 + ("global",) + ("local",) * 2,
        sliding_window=4,
        rope_local=RopeConfig(theta=1e3),
        sandwich_norm=True,
        norm_plus_one=True,
        norm_scale_in_f32=True,
        embed_scale=32**0.5,
        final_softcap=5.0,
    ),
    "prefix_canvas": change(
        **MOE,
        attention="prefix_canvas",
        block_size=6,
        noise="uniform",
        num_layers=6,
        layer_kinds=("local", "local", "global") * 2,
        sliding_window=4,
        global_head_dim=16,
        global_kv_heads=1,
        k_eq_v_global=True,
        v_norm=True,
        qk_norm=True,
        sandwich_norm=True,
        moe_parallel_dense=True,
        norm_topk=True,
        layer_scalar=True,
        self_conditioning=True,
        attn_scale=1.0,
        tie_embeddings=True,
    ),
}


def shrunk(config: ModelConfig) -> ModelConfig:
    """The structure of a released model in sizes of a test: layers of each kind, experts in groups, blocks."""
    sizes: dict[str, Any] = {
        "vocab_size": 61, "num_layers": 2, "hidden_size": 32, "num_heads": 4, "head_dim": 8, "max_position": 64,
        "num_kv_heads": 4 if config.num_kv_heads == config.num_heads else 2, "param_dtype": "float32",
        "rope": dataclasses.replace(BASE.rope, rotary_dim=4 if config.rope.rotary_dim else None),
        "tokens": dataclasses.replace(BASE.tokens, mask=None if config.tokens.mask is None else BASE.tokens.mask),
    }  # fmt: skip
    if config.intermediate_size:
        sizes["intermediate_size"] = 48
    if config.num_experts:
        sizes |= MOE | {"shared_size": 12 if config.shared_size else 0, "num_layers": 2 + config.first_dense_layers}
    if config.n_group > 1:
        sizes |= {"n_group": 4, "topk_group": 2}
    if config.layer_kinds:
        sizes |= {"num_layers": 3, "layer_kinds": ("local", "local", "global"), "sliding_window": 4}
    if config.global_head_dim:
        sizes |= {"global_head_dim": 16, "global_kv_heads": 1}
    if config.block_size:
        sizes["block_size"] = 4
    return dataclasses.replace(config, **sizes)
