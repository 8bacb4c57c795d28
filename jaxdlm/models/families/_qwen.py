"""The keys of config.json that Llama, Qwen2, Qwen3 and the diffusion models grown from them have in common."""

from typing import Any

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.hub_config import Fields

# ids of the Qwen2.5 and Qwen3 tokenizers
QWEN_TOKENS: dict[str, Any] = {"pad": 151643, "eos": (151645, 151643), "turn_end": 151645}


def decoder(fields: Fields, *, tokens: dict[str, Any], **changes: Any) -> ModelConfig:
    """A dense pre-norm decoder; `changes` override or add fields, `tokens` are the family's default ids."""
    fields.common()
    fields.refuse(mlp_bias=False)
    heads = fields.heads()
    vocab = fields.get("vocab_size")
    layers = fields.get("num_hidden_layers")
    _full_attention_only(fields)
    numbers: dict[str, Any] = {
        "family": fields.family,
        "vocab_size": vocab,
        "num_layers": layers,
        "hidden_size": fields.get("hidden_size"),
        **heads,
        "max_position": fields.get("max_position_embeddings"),
        "norm_eps": fields.get("rms_norm_eps"),
        "rope": fields.rope(heads["head_dim"], "full_attention"),
        "activation": fields.activation(),
        "tie_embeddings": fields.get("tie_word_embeddings"),
        "param_dtype": fields.dtype(),
    }
    if "intermediate_size" not in changes:
        numbers["intermediate_size"] = fields.get("intermediate_size")
    needs_mask = changes.get("noise") == "mask"
    return ModelConfig(**(numbers | changes), tokens=fields.tokens(vocab, needs_mask=needs_mask, **tokens))


def _full_attention_only(fields: Fields) -> None:
    other = next((kind for kind in fields.get("layer_types", ()) if kind != "full_attention"), None)
    if other is not None:
        raise ConfigUnsupported(f"{fields.family}: layer_types={other!r} is not supported (only 'full_attention')")


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
