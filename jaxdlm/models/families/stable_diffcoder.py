"""Stable-DiffCoder 8B: a Llama of its own sizes that decodes in blocks of 4. github.com/ByteDance-Seed/Stable-DiffCoder.

`model_type` is that of Llama, so its architecture alone tells it; the block is in no file.
"""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import llama
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

BLOCK = 4
TOKENS = {"mask": 5, "mask_text": ("<[MASK_TOKEN]>",), "pad": 1, "bos": 0, "eos": (2,)}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `StableDiffcoderForCausalLM`."""
    fields.refuse(attention_bias=False)
    return decoder(
        fields,
        tokens=TOKENS,
        attention="block_causal",
        block_size=fields.hints.block_size or fields.get("block_size", BLOCK),
        prediction="same",
        noise="mask",
    )


_ARCHITECTURE = "StableDiffcoderForCausalLM"
FAMILY = family(
    Family(
        "stable_diffcoder",
        (_ARCHITECTURE,),
        (),
        read_config,
        decoder_tensors,
        defaults=llama.DEFAULTS,
        hub={"stable-diffcoder-8b": "ByteDance-Seed/Stable-DiffCoder-8B-Instruct"},
        released={
            "stable-diffcoder-8b": shape(
                _ARCHITECTURE, 32, 4096, 14336, 32, 8, 128, vocab_size=155136, rope_theta=5e5, rms_norm_eps=1e-6,
                max_position_embeddings=8192, tie_word_embeddings=False,
            )
        },
    )
)  # fmt: skip
