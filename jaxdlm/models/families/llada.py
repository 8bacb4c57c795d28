"""LLaDA-8B Base, Instruct and 1.5: Llama with full attention under renamed tensors. arXiv 2502.09992."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import ModelConfig, RopeConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, TensorMap, tensor_maps

_BLOCK = "model.transformer.blocks.{i}."
NAMES = {
    "embed": "model.transformer.wte.weight",
    "final_norm": "model.transformer.ln_f.weight",
    "lm_head": "model.transformer.ff_out.weight",
    "attn_norm": _BLOCK + "attn_norm.weight",
    "mlp_norm": _BLOCK + "ff_norm.weight",
    "wq": _BLOCK + "q_proj.weight",
    "wk": _BLOCK + "k_proj.weight",
    "wv": _BLOCK + "v_proj.weight",
    "wo": _BLOCK + "attn_out.weight",
    "gate": _BLOCK + "ff_proj.weight",
    "up": _BLOCK + "up_proj.weight",
    "down": _BLOCK + "ff_out.weight",
}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `LLaDAModelLM`; settings that no release uses are refused by name."""
    fields = Fields(values, "llada", hints, DEFAULTS["llada"])
    fields.common()
    fields.refuse(
        alibi=False,
        rope=True,
        block_type="llama",
        layer_norm_type="rms",
        activation_type="silu",
        attention_layer_norm=False,
        input_emb_norm=False,
        scale_logits=False,
        include_bias=False,
        include_qkv_bias=False,
        bias_for_layer_norm=False,
        clip_qkv=False,
        block_group_size=1,
    )
    hidden, heads = fields.integer("d_model"), fields.integer("n_heads")
    if heads <= 0 or hidden % heads:
        raise InputError(f"config.json: d_model {hidden} is no multiple of n_heads {heads}")
    rope = fields.rope(hidden // heads)
    if rope != RopeConfig(theta=rope.theta):
        raise ConfigUnsupported(f"llada: rope_scaling of type {rope.kind!r} is not supported (only 'default')")
    vocab = fields.integer("embedding_size", 0) or fields.integer("vocab_size")
    kv_heads = fields.integer("n_kv_heads", 0) or (1 if values.get("multi_query_attention") else heads)
    return ModelConfig(
        family="llada",
        vocab_size=vocab,
        num_layers=fields.integer("n_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=fields.integer("mlp_hidden_size", 0) or int(fields.real("mlp_ratio") * hidden),
        max_position=fields.integer("max_sequence_length"),
        norm_eps=fields.real("rms_norm_eps"),
        rope=rope,
        rope_in_f32=fields.flag("rope_full_precision"),
        tie_embeddings=fields.flag("weight_tying"),
        attention="full",
        prediction="same",
        noise="mask",
        tokens=fields.tokens(
            vocab,
            needs_mask=True,
            mask=126336,
            mask_text=("<|mdm_mask|>",),
            pad=126081,
            bos=126080,
            eos=(126081,),
            turn_end=126348,
        ),
        param_dtype=fields.dtype(),
    )


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """Mind the shared suffix: a block's `ff_out` is its down projection, the top-level `ff_out` is the head."""
    return tensor_maps(config, NAMES)


FAMILY = Family(
    name="llada",
    architectures=("LLaDAModelLM", "LLaDAModel"),
    model_types=("llada",),
    read_config=read_config,
    tensors=tensors,
    heads=(NAMES["lm_head"],),
    tie_key="weight_tying",
)
