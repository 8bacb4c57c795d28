"""LLaDA-8B Base, Instruct and 1.5: Llama with full attention under renamed tensors. arXiv 2502.09992."""

from collections.abc import Collection, Iterator

from jaxdlm.errors import ConfigUnsupported, InputError
from jaxdlm.models.config import ModelConfig, RopeConfig
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, TensorMap, tensor_maps
from jaxdlm.registry import family

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

DEFAULTS = {  # the class's sizes are those of GPT-2; its choice of block, norm and activation is not filled in
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
_8B = {
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


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `LLaDAModelLM`; settings that no release uses are refused by name."""
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
    hidden, heads = fields.get("d_model"), fields.get("n_heads")
    if hidden % heads:
        raise InputError(f"config.json: d_model {hidden} is no multiple of n_heads {heads}")
    rope = fields.rope(hidden // heads)
    if rope != RopeConfig(theta=rope.theta):
        raise ConfigUnsupported(f"llada: rope_scaling of type {rope.kind!r} is not supported (only 'default')")
    vocab = fields.get("embedding_size", 0) or fields.get("vocab_size")
    kv_heads = fields.get("n_kv_heads", 0) or (1 if fields.get("multi_query_attention", False) else heads)
    return ModelConfig(
        family="llada",
        vocab_size=vocab,
        num_layers=fields.get("n_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=fields.get("mlp_hidden_size", 0) or int(fields.get("mlp_ratio") * hidden),
        max_position=fields.get("max_sequence_length"),
        norm_eps=fields.get("rms_norm_eps"),
        rope=rope,
        rope_in_f32=fields.get("rope_full_precision"),
        tie_embeddings=fields.get("weight_tying"),
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


FAMILY = family(
    Family(
        "llada",
        ("LLaDAModelLM", "LLaDAModel"),
        ("llada",),
        read_config,
        tensors,
        heads=(NAMES["lm_head"],),
        tie_key="weight_tying",
        defaults=DEFAULTS,
        hub={"llada-8b": "GSAI-ML/LLaDA-8B-Instruct", "llada-1.5-8b": "GSAI-ML/LLaDA-1.5"},
        released={"llada-8b": _8B, "llada-1.5-8b": _8B},
        lead_bos=True,  # base model included (arXiv 2502.09992)
    )
)
