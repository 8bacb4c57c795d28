"""Gemma-3 text models: sandwich norms, five sliding-window layers for each global one. arXiv 2503.19786."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import DECODER, Family, TensorMap, tensor_maps

NAMES = DECODER | {
    "post_attn_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "mlp_norm": "model.layers.{i}.pre_feedforward_layernorm.weight",
    "post_mlp_norm": "model.layers.{i}.post_feedforward_layernorm.weight",
}
# where multimodal files keep the text model
PREFIXES = ("language_model.model.", "model.language_model.")
# keys that a multimodal file states for all of its parts
WHOLE = ("eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype")
WHOLE += ("quantization_config", "quantization")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")  # the second beside the first prefix


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `Gemma3ForCausalLM`, or the text part of `Gemma3ForConditionalGeneration`."""
    fields = text_fields(values, "gemma3_text", hints)
    fields.common()
    fields.refuse(attention_bias=False, attn_logit_softcapping=(), use_bidirectional_attention=False)
    heads = fields.heads()
    vocab = fields.get("vocab_size")
    hidden = fields.get("hidden_size")
    layers = fields.get("num_hidden_layers")
    return ModelConfig(
        family="gemma3_text",
        vocab_size=vocab,
        num_layers=layers,
        hidden_size=hidden,
        **heads,
        intermediate_size=fields.get("intermediate_size"),
        max_position=fields.get("max_position_embeddings"),
        norm_eps=fields.get("rms_norm_eps"),
        norm_plus_one=True,
        norm_scale_in_f32=True,
        sandwich_norm=True,
        qk_norm=True,
        attn_scale=fields.get("query_pre_attn_scalar") ** -0.5,
        rope=fields.rope(heads["head_dim"], "full_attention"),
        rope_local=fields.rope(heads["head_dim"], "sliding_attention", base="rope_local_base_freq"),
        layer_kinds=layer_kinds(fields, layers),
        sliding_window=fields.get("sliding_window"),
        activation=fields.activation("hidden_activation"),
        tie_embeddings=fields.get("tie_word_embeddings"),
        embed_scale=math.sqrt(hidden),
        final_softcap=fields.get("final_logit_softcapping", None),
        attention="causal",
        prediction="next",
        tokens=fields.tokens(vocab, pad=0, bos=2, eos=(1,), turn_end=106),
        param_dtype=fields.dtype(),
    )


def text_fields(values: Mapping[str, Any], family: str, hints: Hints) -> Fields:
    """The text model's part of a multimodal file, with the whole file's ids, ties and types."""
    text = Fields(values, family, hints).get("text_config", None)
    if text is None:
        return Fields(values, family, hints, DEFAULTS[family])
    whole = {key: values[key] for key in WHOLE if values.get(key) is not None}
    return Fields({**text, **whole}, family, hints, DEFAULTS[family], where="text_config.")


def layer_kinds(fields: Fields, layers: int) -> tuple[str, ...]:
    """From `layer_types`, else every sixth (`sliding_window_pattern`-th) layer is global."""
    types = fields.get("layer_types", None)
    if types is None:
        pattern = fields.get("sliding_window_pattern")
        return tuple("local" if (i + 1) % pattern else "global" for i in range(layers))
    names = {"full_attention": "global", "sliding_attention": "local"}
    unknown = [kind for kind in types if kind not in names]
    if unknown:
        raise ConfigUnsupported(f"{fields.family}: layer_types={unknown[0]!r} is not supported ({', '.join(names)})")
    return tuple(names[kind] for kind in types)


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """`post_attention_layernorm` follows the attention here; multimodal prefixes are found among `names`."""
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names)), "model.")
    table = {leaf: prefix + name.removeprefix("model.") for leaf, name in NAMES.items() if leaf != "lm_head"}
    return tensor_maps(config, table | {"lm_head": HEADS[prefix == PREFIXES[0]]})


FAMILY = Family(
    "gemma3_text",
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    ("gemma3_text", "gemma3"),
    read_config,
    tensors,
    ignore=(
        "*.rotary_emb.inv_freq",
        "vision_tower.*",
        "multi_modal_projector.*",
        "model.vision_tower.*",
        "model.multi_modal_projector.*",
    ),
    heads=HEADS,
)
