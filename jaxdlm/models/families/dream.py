"""Dream-v0-7B, Dream-Coder-7B and DiffuCoder-7B: Qwen2 with full attention; row i - 1 predicts token i.
arXiv 2508.15487."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

TOKENS = {
    "mask": 151666,
    "mask_text": ("<|mask|>",),
    "pad": 151643,
    "bos": 151665,
    "eos": (151643,),
    "turn_end": 151645,
}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `DreamModel`. The release recommends at most 2048 tokens whatever max_position_embeddings is."""
    hints.notes.append("Dream: keep prompt and answer within 2048 tokens, as its authors advise")
    fields = Fields(values, "dream", hints, DEFAULTS["dream"])
    return decoder(fields, tokens=TOKENS, qkv_bias=True, attention="full", prediction="next", noise="mask")


FAMILY = Family("dream", ("DreamModel", "DreamForCausalLM"), ("Dream", "dream"), read_config, decoder_tensors)
