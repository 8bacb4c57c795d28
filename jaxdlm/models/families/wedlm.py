"""WeDLM 7B and 8B: Qwen2.5 or Qwen3 whose masks are read causally in the order in which columns are stored. arXiv 2512.22737.

Filled tokens are stored before masks, each under its own position, so a mask sees what is filled behind it in the text too
(`ModelConfig.order`). A row predicts its own column. Whether the network has Qwen2's biases or Qwen3's normalised queries and
keys is said by `attention_bias` and `qk_norm`, which must be there: what the class fills in is not what was released.
"""

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._qwen import QWEN_TOKENS, decoder
from jaxdlm.models.families._shapes import QWEN_7B, qwen_shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family

TOKENS = QWEN_TOKENS | {"mask": 151665}  # of the training code, where config.json has none
DEFAULTS = {"hidden_act": "silu", "tie_word_embeddings": False}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `WeDLMForCausalLM`."""
    return decoder(
        fields,
        tokens=TOKENS,
        qkv_bias=fields.get("attention_bias"),
        qk_norm=fields.get("qk_norm"),
        attention="causal",
        order="storage",
        prediction="same",
        noise="mask",
    )


FAMILY = family(
    Family(
        "wedlm",
        ("WeDLMForCausalLM",),
        ("wedlm",),
        read_config,
        decoder_tensors,
        defaults=DEFAULTS,
        hub={f"wedlm-{size}b": f"tencent/WeDLM-{size}B-Instruct" for size in (7, 8)},
        released={
            "wedlm-7b": qwen_shape("WeDLMForCausalLM", *QWEN_7B, vocab_size=152064, attention_bias=True, qk_norm=False),
            "wedlm-8b": qwen_shape(
                "WeDLMForCausalLM",
                36,
                4096,
                12288,
                32,
                8,
                128,
                attention_bias=False,
                qk_norm=True,
                max_position_embeddings=16384,
            ),
        },
    )
)
