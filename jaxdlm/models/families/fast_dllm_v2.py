"""Fast-dLLM v2: Qwen2.5 decoded in blocks of 32; inside the block row i - 1 predicts token i. arXiv 2509.26328."""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import qwen2
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.families._shapes import QWEN_7B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

TOKENS = {
    "mask": 151665,
    "mask_text": ("|<MASK>|",),
    "pad": 151643,
    "eos": (151645,),
    "turn_end": 151645,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `Fast_dLLM_QwenForCausalLM`; `bd_size` is the block size."""
    return decoder(
        fields,
        tokens=TOKENS,
        qkv_bias=True,
        attention="block_causal",
        block_size=fields.hints.block_size or fields.get("bd_size"),
        prediction="next",
        noise="mask",
    )


_ARCHITECTURE = "Fast_dLLM_QwenForCausalLM"
FAMILY = family(
    Family(
        "fast_dllm_v2",
        (_ARCHITECTURE,),
        ("Fast_dLLM_Qwen",),
        read_config,
        decoder_tensors,
        defaults=qwen2.DEFAULTS | {"bd_size": 32},
        hub={f"fast-dllm-v2-{size}b": f"Efficient-Large-Model/Fast_dLLM_v2_{size}B" for size in ("7", "1.5")},
        released={
            "fast-dllm-v2-7b": qwen_shape(_ARCHITECTURE, *QWEN_7B, vocab_size=152064, bd_size=32),
            "fast-dllm-v2-1.5b": qwen_shape(
                _ARCHITECTURE, 28, 1536, 8960, 12, 2, 128, bd_size=32, tie_word_embeddings=True
            ),
        },
    )
)
