"""The keys of config.json that Llama, Qwen2, Qwen3 and the diffusion models grown from them have in common."""

import dataclasses
from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import Fields

# ids of the Qwen2.5 and Qwen3 tokenizers
QWEN_TOKENS: dict[str, Any] = {"pad": 151643, "eos": (151645, 151643), "turn_end": 151645}


def decoder(fields: Fields, *, tokens: dict[str, Any], windows: bool = False, **changes: Any) -> ModelConfig:
    """A dense pre-norm decoder; `changes` override or add fields, `tokens` are the family's default ids, `windows` says
    whether its class knows `use_sliding_window`."""
    fields.common()
    fields.refuse(mlp_bias=False)
    heads = fields.heads()
    vocab = fields.get("vocab_size")
    layers = fields.get("num_hidden_layers")
    if not windows:
        fields.refuse(use_sliding_window=False)
    rope = fields.rope(heads["head_dim"], "full_attention")
    numbers: dict[str, Any] = {
        "family": fields.family,
        "vocab_size": vocab,
        "num_layers": layers,
        "hidden_size": fields.get("hidden_size"),
        **heads,
        "max_position": fields.positions(rope),
        "norm_eps": fields.get("rms_norm_eps"),
        "rope": rope,
        **_windows(fields, layers, "num_experts" in changes),
        "activation": fields.activation(),
        "tie_embeddings": fields.get("tie_word_embeddings"),
        "param_dtype": fields.dtype(),
    }
    if "intermediate_size" not in changes:
        numbers["intermediate_size"] = fields.get("intermediate_size")
    needs_mask = changes.get("noise") == "mask"
    return ModelConfig(**(numbers | changes), tokens=fields.tokens(vocab, needs_mask=needs_mask, **tokens))


WINDOWED = {"sliding_window": 4096, "max_window_layers": 28}  # what the classes fill in where windows are on
KINDS = {"full_attention": "global", "sliding_attention": "local"}


def _windows(fields: Fields, layers: int, mixture: bool) -> dict[str, Any]:
    """Which layers see a window, where `use_sliding_window` is on: those that `layer_types` says, else those from
    `max_window_layers` on; of a mixture all."""
    on = fields.get("use_sliding_window", False)
    stated = fields.get("layer_types", ())
    other = next((kind for kind in stated if kind not in KINDS or (KINDS[kind] == "local" and not on)), None)
    if other is not None:
        raise ConfigUnsupported(f"{fields.family}: layer_types={other!r} is not supported (only 'full_attention')")
    fields = dataclasses.replace(fields, defaults=WINDOWED) if on else fields
    window = fields.get("sliding_window", 0) if on else 0
    first = layers if not window else 0 if mixture else fields.get("max_window_layers")
    kinds = tuple(KINDS[kind] for kind in stated) or tuple("local" if i >= first else "global" for i in range(layers))
    return {"layer_kinds": kinds, "sliding_window": window} if window and "local" in kinds else {}


def qwen3_experts(fields: Fields) -> dict[str, Any]:
    """The mixture of Qwen3-MoE: softmax router over all experts, every layer sparse, no shared expert."""
    fields.refuse(mlp_only_layers=([],), decoder_sparse_step=1, shared_expert_intermediate_size=0)
    return {
        "intermediate_size": 0,
        "num_experts": expert_count(fields),
        "top_k": fields.get("num_experts_per_tok"),
        "expert_size": fields.get("moe_intermediate_size"),
        "norm_topk": fields.get("norm_topk_prob"),
    }


def expert_count(fields: Fields) -> int:
    """`num_experts`; transformers 5 writes the same number as `num_local_experts`."""
    return fields.get("num_local_experts" if "num_local_experts" in fields.values else "num_experts")
