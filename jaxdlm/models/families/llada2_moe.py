"""LLaDA2.0, 2.1 and 2.2, mini and flash: GLM-4-MoE shapes with fused query/key/value, block-causal.
arXiv 2512.15745, 2602.08676. With `expert_capacity` (2.2) the tokens of a block share their experts, and groups say nothing."""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from jaxdlm.models.config import ModelConfig, RopeConfig
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.families.llada_moe import TOKENS
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, Joint, Names, TensorMap, fused, tensor_maps
from jaxdlm.registry import family

_LAYER = "model.layers.{i}."
_QKV = Joint(_LAYER + "attention.query_key_value.weight", ("wq", "wk", "wv"))
NAMES: dict[str, str | Joint] = {
    "embed": "model.word_embeddings.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
    "attn_norm": _LAYER + "input_layernorm.weight",
    "mlp_norm": _LAYER + "post_attention_layernorm.weight",
    "wq": _QKV,
    "wk": _QKV,
    "wv": _QKV,
    "wo": _LAYER + "attention.dense.weight",
    "q_norm": _LAYER + "attention.query_layernorm.weight",
    "k_norm": _LAYER + "attention.key_layernorm.weight",
    "gate": _LAYER + "mlp.gate_proj.weight",
    "up": _LAYER + "mlp.up_proj.weight",
    "down": _LAYER + "mlp.down_proj.weight",
    "router": _LAYER + "mlp.gate.weight",
    "router_bias": _LAYER + "mlp.gate.expert_bias",
    "e_gate": _LAYER + "mlp.experts.{e}.gate_proj.weight",
    "e_up": _LAYER + "mlp.experts.{e}.up_proj.weight",
    "e_down": _LAYER + "mlp.experts.{e}.down_proj.weight",
    "s_gate": _LAYER + "mlp.shared_experts.gate_proj.weight",
    "s_up": _LAYER + "mlp.shared_experts.up_proj.weight",
    "s_down": _LAYER + "mlp.shared_experts.down_proj.weight",
}
# the form that training code saves: one tensor [E, out, in] per projection
MERGED = {f"e_{part}": _LAYER + f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")}

DEFAULTS = {
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
_RELEASED: dict[str, Any] = {
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


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `LLaDA2MoeModelLM`. `sliding_window` is ignored, as the released code never uses it."""
    fields.common()
    fields.refuse(use_bias=False, use_qkv_bias=False, use_rmsnorm=True, norm_head=False)
    fields.refuse(score_function=("sigmoid", "softmax"), router_dtype=("fp32", "float32"))
    shared, block = fields.get("expert_capacity", 0), fields.get("block_size", 32)
    heads = fields.heads()
    rope = _rope(fields, heads["head_dim"])
    vocab = fields.get("vocab_size")
    expert_size = fields.get("moe_intermediate_size")
    return ModelConfig(
        family="llada2_moe",
        vocab_size=vocab,
        num_layers=fields.get("num_hidden_layers"),
        hidden_size=fields.get("hidden_size"),
        **heads,
        intermediate_size=fields.get("intermediate_size"),
        max_position=fields.positions(rope),
        norm_eps=fields.get("rms_norm_eps"),
        qk_norm=fields.get("use_qk_norm"),
        rope=rope,
        activation=fields.activation(),
        num_experts=fields.get("num_experts"),
        top_k=fields.get("num_experts_per_tok"),
        expert_size=expert_size,
        shared_size=fields.get("num_shared_experts") * expert_size,
        first_dense_layers=fields.get("first_k_dense_replace"),
        router_score=fields.get("score_function"),
        router_bias=fields.get("moe_router_enable_expert_bias"),
        n_group=1 if shared else fields.get("n_group"),
        topk_group=1 if shared else fields.get("topk_group"),
        norm_topk=True if shared else fields.get("norm_topk_prob"),
        expert_capacity=shared,
        routing_block=block if shared else 0,
        routed_scale=fields.get("routed_scaling_factor"),
        router_in_f32=True,
        tie_embeddings=fields.get("tie_word_embeddings"),
        attention="block_causal",
        block_size=fields.hints.block_size or block,
        prediction="same",
        noise="mask",
        tokens=fields.tokens(vocab, needs_mask=True, **TOKENS),
        param_dtype=fields.dtype(),
    )


def _rope(fields: Fields, head_dim: int) -> RopeConfig:
    """`rotary_dim` is the released key; partial_rotary_factor is the same as a fraction of head_dim."""
    rope = fields.rope(head_dim)
    rotary = fields.get("rotary_dim", 0) or rope.rotary_dim
    return dataclasses.replace(rope, rotary_dim=rotary)


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """The released form, or one of the two merged ones where such a tensor is present."""
    merged = any(MERGED["e_gate"].format(i=layer) in names for layer in range(config.num_layers))
    table: Names = {**NAMES, **(MERGED if merged else fused(names))}
    return tensor_maps(config, table)


FAMILY = family(
    Family(
        "llada2_moe",
        ("LLaDA2MoeModelLM", "LLaDA21MoeModelLM"),
        ("llada2_moe", "llada2_moe_veomni", "llada21_moe"),
        read_config,
        tensors,
        defaults=DEFAULTS,
        hub={f"llada2-{size}": f"inclusionAI/LLaDA2.0-{size}" for size in ("mini", "flash")},
        released={
            "llada2-mini": shape(
                "LLaDA2MoeModelLM", 20, 2048, 5120, 16, 4, 128, moe_intermediate_size=512, **_RELEASED
            ),
            "llada2-flash": shape(
                "LLaDA2MoeModelLM", 32, 4096, 9216, 32, 4, 128, moe_intermediate_size=1024, **_RELEASED
            ),
        },
    )
)
