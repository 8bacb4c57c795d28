"""Dream-v0-7B, Dream-Coder-7B and DiffuCoder-7B: Qwen2 with full attention; row i - 1 predicts token i.
arXiv 2508.15487."""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import qwen2
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.families._shapes import QWEN_7B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

TOKENS = {
    "mask": 151666,
    "mask_text": ("<|mask|>",),
    "pad": 151643,
    "bos": 151665,
    "eos": (151643,),
    "turn_end": 151645,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `DreamModel`. The release recommends at most 2048 tokens whatever max_position_embeddings is."""
    fields.hints.notes.append("Dream: keep prompt and answer within 2048 tokens, as its authors advise")
    return decoder(fields, tokens=TOKENS, qkv_bias=True, attention="full", prediction="next", noise="mask")


FAMILY = family(
    Family(
        "dream",
        ("DreamModel", "DreamForCausalLM"),
        ("Dream", "dream"),
        read_config,
        decoder_tensors,
        defaults=qwen2.DEFAULTS,
        hub={"dream-7b": "Dream-org/Dream-v0-Instruct-7B"},
        released={"dream-7b": qwen_shape("DreamModel", *QWEN_7B, vocab_size=152064, max_position_embeddings=131072)},
    )
)
