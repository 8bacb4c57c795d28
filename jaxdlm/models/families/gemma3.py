"""Gemma-3 text models: sandwich norms, five sliding-window layers for each global one. arXiv 2503.19786."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import DECODER, Family, TensorMap, tensor_maps
from jaxdlm.registry import family

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

DEFAULTS = {
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


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `Gemma3ForCausalLM`, or the text part of `Gemma3ForConditionalGeneration`."""
    fields = text_fields(fields)
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


def text_fields(fields: Fields) -> Fields:
    """The text model's part of a multimodal file, with the whole file's ids, ties and types."""
    text = fields.get("text_config", None)
    if text is None:
        return fields
    whole = {key: fields.values[key] for key in WHOLE if fields.values.get(key) is not None}
    return dataclasses.replace(fields, values={**text, **whole}, where="text_config.")


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


def _released(*sizes: int, window: int, rows: int, linear: float | None, scalar: int = 256) -> dict[str, Any]:
    return shape(
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


FAMILY = family(
    Family(
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
        defaults=DEFAULTS,
        hub={f"gemma3-{size}": f"google/gemma-3-{size}-it" for size in ("270m", "1b", "4b", "12b", "27b")},
        released={
            "gemma3-270m": _released(18, 640, 2048, 4, 1, 256, window=512, rows=262144, linear=None),
            "gemma3-1b": _released(26, 1152, 6912, 4, 1, 256, window=512, rows=262144, linear=None),
            "gemma3-4b": _released(34, 2560, 10240, 8, 4, 256, window=1024, rows=262208, linear=8.0),
            "gemma3-12b": _released(48, 3840, 15360, 16, 8, 256, window=1024, rows=262208, linear=8.0),
            "gemma3-27b": _released(62, 5376, 21504, 32, 16, 128, window=1024, rows=262208, linear=8.0, scalar=168),
        },
    )
)
