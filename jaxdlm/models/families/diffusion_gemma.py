"""DiffusionGemma 26B-A4B, text part: Gemma-4 mixture with a causal prefix and a canvas of uniform noise.

The image tower of a checkpoint is ignored. transformers keeps W - 1 prefix columns visible to the canvas in local
layers, the original sampler W; `load(..., canvas_window=)` chooses, W by default.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.families.gemma3 import layer_kinds, text_fields
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import DECODER, Family, Joint, TensorMap, tensor_maps
from jaxdlm.registry import family

_LAYER = "model.decoder.layers.{i}."
_EXPERTS = Joint(_LAYER + "experts.gate_up_proj", ("e_gate", "e_up"), axis=1)
NAMES: dict[str, str | Joint] = {
    leaf: name.replace("model.", "model.decoder.", 1) for leaf, name in DECODER.items() if leaf != "lm_head"
} | {
    "post_attn_norm": _LAYER + "post_attention_layernorm.weight",
    "mlp_norm": _LAYER + "pre_feedforward_layernorm.weight",
    "moe_in_norm": _LAYER + "pre_feedforward_layernorm_2.weight",
    "dense_out_norm": _LAYER + "post_feedforward_layernorm_1.weight",
    "moe_out_norm": _LAYER + "post_feedforward_layernorm_2.weight",
    "post_mlp_norm": _LAYER + "post_feedforward_layernorm.weight",
    "router": _LAYER + "router.proj.weight",
    "router_scale": _LAYER + "router.scale",
    "per_expert_scale": _LAYER + "router.per_expert_scale",
    "e_gate": _EXPERTS,
    "e_up": _EXPERTS,
    "e_down": _LAYER + "experts.down_proj",
    "layer_scalar_canvas": _LAYER + "layer_scalar",
    "layer_scalar_prefix": "model.encoder.language_model.layers.{i}.layer_scalar",
    "self_cond/pre_norm": "model.decoder.self_conditioning.pre_norm.weight",
    "self_cond/gate": "model.decoder.self_conditioning.gate_proj.weight",
    "self_cond/up": "model.decoder.self_conditioning.up_proj.weight",
    "self_cond/down": "model.decoder.self_conditioning.down_proj.weight",
}

DEFAULTS: dict[str, Any] = {
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
_26B = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "canvas_length": 256,
    "text_config": shape(
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
        rope_parameters=DEFAULTS["rope_parameters"],
    ),
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `DiffusionGemmaForBlockDiffusion`: released keys, and those that transformers 5 writes back."""
    canvas, fields = fields, text_fields(fields)
    fields.common()
    fields.refuse(attention_bias=False, use_bidirectional_attention="vision", rope_scaling=None)
    hidden, vocab = fields.get("hidden_size"), fields.get("vocab_size")
    layers = fields.get("num_hidden_layers")
    kinds = (*layer_kinds(fields, layers)[:-1], "global")  # the class insists on the last
    heads = fields.heads()
    global_head_dim, global_kv_heads = _global_heads(fields, kinds)
    return ModelConfig(
        family="diffusion_gemma",
        vocab_size=vocab,
        num_layers=layers,
        hidden_size=hidden,
        **heads,
        intermediate_size=fields.get("intermediate_size"),
        max_position=fields.get("max_position_embeddings"),
        norm_eps=fields.get("rms_norm_eps"),
        norm_scale_in_f32=True,
        sandwich_norm=True,
        qk_norm=True,
        v_norm=True,
        attn_scale=1.0,
        rope=fields.rope(global_head_dim, "full_attention"),
        rope_local=fields.rope(heads["head_dim"], "sliding_attention"),
        layer_kinds=kinds,
        sliding_window=fields.get("sliding_window"),
        global_head_dim=global_head_dim,
        global_kv_heads=global_kv_heads or heads["num_kv_heads"],
        k_eq_v_global=True,
        activation=fields.activation("hidden_activation"),
        num_experts=fields.get("num_experts"),
        top_k=fields.get("top_k_experts"),
        expert_size=fields.get("moe_intermediate_size"),
        norm_topk=True,
        moe_parallel_dense=True,
        tie_embeddings=fields.get("tie_word_embeddings"),
        embed_scale=math.sqrt(hidden),
        final_softcap=fields.get("final_logit_softcapping"),
        layer_scalar=True,
        self_conditioning=True,
        attention="prefix_canvas",
        block_size=fields.hints.block_size or canvas.get("canvas_length", 256),
        prediction="same",
        noise="uniform",
        tokens=fields.tokens(vocab, pad=0, bos=2, eos=(1, 106, 50), turn_end=106),
        param_dtype=fields.dtype(),
    )


def _global_heads(fields: Fields, kinds: tuple[str, ...]) -> tuple[int, int]:
    """(head size, key/value heads or 0) of global layers: two top-level keys, or one `per_layer_config` entry each."""
    per_layer = fields.get("per_layer_config", None)
    if per_layer is None:
        return fields.get("global_head_dim"), fields.get("num_global_key_value_heads", 0)
    by_layer = {
        key.lstrip("0") or "0": entry for key, entry in per_layer.items()
    }  # transformers writes "05" beside "11"
    entries = [by_layer.get(str(layer)) for layer, kind in enumerate(kinds) if kind == "global"]
    if not entries or not all(isinstance(entry, Mapping) and entry == entries[0] for entry in entries):
        raise InputError(
            "config.json: per_layer_config must hold one and the same entry for every full_attention layer"
        )
    entry = Fields(entries[0], fields.family, fields.hints, where=f"{fields.where}per_layer_config[...].")
    return entry.get("head_dim"), entry.get("num_key_value_heads", 0)


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """The text part; the canvas and the prefix pass share all weights but the layer scalars."""
    return tensor_maps(config, NAMES)


FAMILY = family(
    Family(
        "diffusion_gemma",
        ("DiffusionGemmaForBlockDiffusion",),
        ("diffusion_gemma",),
        read_config,
        tensors,
        ignore=("*.rotary_emb.inv_freq", "model.encoder.vision_tower.*", "model.encoder.embed_vision.*"),
        twins=("model.encoder.language_model.", "model.decoder."),
        defaults=DEFAULTS,
        released={"diffusion-gemma-26b": _26B},
    )
)
