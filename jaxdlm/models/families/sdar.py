"""SDAR 1.7B to 30B-A3B and TraDo: Qwen3 decoded block by block. arXiv 2510.06303."""

from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import qwen3
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder, qwen3_experts
from jaxdlm.models.families._shapes import A3B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

TOKENS = QWEN_TOKENS | {"mask": 151669, "mask_text": ("<|MASK|>", "<MASK>"), "bos": 151643}

# the block size of a release is not in every copy of its config.json
RELEASED_BLOCK = {f"JetLM/SDAR-{size}-Chat": 4 for size in ("1.7B", "4B", "8B", "30B-A3B")}


def block_size(fields: Fields) -> int:
    """Caller's word, config.json, or the released repository's; never a guess."""
    known = fields.hints.block_size or fields.get("block_size", None) or RELEASED_BLOCK.get(fields.hints.source)
    if known is None:
        raise InputError(f"{fields.family}: config.json has no block_size and releases differ (4 to 64); state it")
    return known


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `SDARForCausalLM`."""
    return _block_decoder(fields)


def read_moe_config(fields: Fields) -> ModelConfig:
    """config.json of `SDARMoeForCausalLM`."""
    return _block_decoder(fields, **qwen3_experts(fields))


def _block_decoder(fields: Fields, **changes: Any) -> ModelConfig:
    fields.refuse(attention_bias=False)
    return decoder(
        fields,
        tokens=TOKENS,
        qk_norm=True,
        attention="block_causal",
        block_size=block_size(fields),
        prediction="same",
        noise="mask",
        **changes,
    )


FAMILY = family(
    Family(
        "sdar",
        ("SDARForCausalLM",),
        ("sdar",),
        read_config,
        decoder_tensors,
        defaults=qwen3.DEFAULTS,
        hub={f"sdar-{size}b": f"JetLM/SDAR-{size}B-Chat" for size in ("1.7", "4", "8")},
        released={
            "sdar-1.7b": qwen_shape("SDARForCausalLM", 28, 2048, 6144, 16, 8, 128, block_size=4),
            "sdar-4b": qwen_shape("SDARForCausalLM", 36, 2560, 9728, 32, 8, 128, block_size=4),
            "sdar-8b": qwen_shape("SDARForCausalLM", 36, 4096, 12288, 32, 8, 128, block_size=4),
        },
    )
)
MOE = family(
    Family(
        "sdar_moe",
        ("SDARMoeForCausalLM", "SDARMoEForCausalLM"),
        ("sdar_moe",),
        read_moe_config,
        decoder_tensors,
        defaults=qwen3.DEFAULTS_MOE,
        hub={"sdar-30b-a3b": "JetLM/SDAR-30B-A3B-Chat"},
        released={"sdar-30b-a3b": qwen_shape("SDARMoeForCausalLM", 48, 2048, 6144, 32, 4, 128, block_size=4, **A3B)},
    )
)
