"""Fast-dLLM v2: Qwen2.5 decoded in blocks of 32; inside the block row i - 1 predicts token i. arXiv 2509.26328."""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.defaults import DEFAULTS
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.hub_config import Fields, Hints
from jaxdlm.models.table import Family, decoder_tensors

TOKENS = {
    "mask": 151665,
    "mask_text": ("|<MASK>|",),
    "pad": 151643,
    "eos": (151645,),
    "turn_end": 151645,
}


def read_config(values: Mapping[str, Any], hints: Hints) -> ModelConfig:
    """config.json of `Fast_dLLM_QwenForCausalLM`; `bd_size` is the block size."""
    fields = Fields(values, "fast_dllm_v2", hints, DEFAULTS["fast_dllm_v2"])
    return decoder(
        fields,
        tokens=TOKENS,
        qkv_bias=True,
        attention="block_causal",
        block_size=hints.block_size or fields.get("bd_size"),
        prediction="next",
        noise="mask",
    )


FAMILY = Family("fast_dllm_v2", ("Fast_dLLM_QwenForCausalLM",), ("Fast_dLLM_Qwen",), read_config, decoder_tensors)
