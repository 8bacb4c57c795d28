"""LLaDA-MoE-7B-A1B: Qwen3-MoE shapes, full attention, router probabilities used without renormalising.
arXiv 2509.24389."""

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._qwen import decoder, expert_count
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

DEFAULTS = {  # its sizes are -1 in its class
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_7B = {
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "expert_intermediate_size": 1024,
    "vocab_size": 157184,
    "rope_theta": 50000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
# shared with LLaDA2
TOKENS = {
    "mask": 156895,
    "mask_text": ("<|mask|>",),
    "pad": 156892,
    "bos": 156891,
    "eos": (156892,),
    "turn_end": 156900,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `LLaDAMoEModelLM`. norm_topk_prob is ignored there, so it is here."""
    fields.refuse(
        attention_bias=False,
        clip_qkv=False,
        qk_layernorm=True,
        moe_router_enable_expert_bias=False,
        moe_router_score_function="softmax",
        shared_expert_intermediate_size=0,
        router_num_group=1,
        router_topk_group=1,
        partial_rotary_factor=1,
        routed_scaling_factor=1,
    )
    if 0 in fields.get("moe_layer_freq", ()):
        raise ConfigUnsupported("llada_moe: moe_layer_freq with a 0 (a dense layer) is not supported")
    return decoder(
        fields,
        tokens=TOKENS,
        intermediate_size=0,
        qk_norm=True,
        num_experts=expert_count(fields),
        top_k=fields.get("num_experts_per_tok"),
        expert_size=fields.get("expert_intermediate_size"),
        attention="full",
        prediction="same",
        noise="mask",
    )


FAMILY = family(
    Family(
        "llada_moe",
        ("LLaDAMoEModelLM",),
        ("llada_moe", "lladamoe", "dllm"),
        read_config,
        decoder_tensors,
        defaults=DEFAULTS,
        hub={"llada-moe-7b": "inclusionAI/LLaDA-MoE-7B-A1B-Instruct"},
        released={"llada-moe-7b": shape("LLaDAMoEModelLM", 16, 2048, 8192, 16, 16, 128, **_7B)},
    )
)
