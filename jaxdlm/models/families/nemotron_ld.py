"""Nemotron-Labs-Diffusion 3B, 8B, 14B: Ministral 3 with one set of weights for three modes. arXiv 2607.05722.

`nemotron_ld` writes masks: blocks of `block_size` behind the prompt, each seen whole behind a prefix that is read causally
(cache "encoder"), each column predicted in its own row. `nemotron_ld_ar`, stated as `family`, is the same checkpoint from left
to right. Departure from the released loop: the first token of a block is not taken from the causal pass before it.
"""

from collections.abc import Collection, Iterator
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.families._shapes import shape
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import DECODER, Family, TensorMap, tensor_maps
from jaxdlm.registry import family

HEADS = ("diffusion_head.weight", "language_model.diffusion_head.weight")
PREFIXES = ("encoder.", "model.encoder.", "language_model.")
TOKENS = {"mask": 100, "bos": 1, "eos": (11,)}
DEFAULTS = {  # of its class, which is Ministral 3's
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "block_size": 32,
}


def read_config(fields: Fields) -> ModelConfig:
    """config.json of `NemotronLabsDiffusionModel` as a model that writes masks."""
    block = fields.hints.block_size or fields.get("block_size")
    return _decoder(fields, attention="prefix_canvas", block_size=block, prediction="same", noise="mask")


def read_ar_config(fields: Fields) -> ModelConfig:
    """The same as a model that only continues a text."""
    return _decoder(fields)


def _decoder(fields: Fields, **mode: Any) -> ModelConfig:
    fields.refuse(attention_bias=False, sliding_window=())
    return decoder(fields, tokens=TOKENS, **mode)


def tensors(config: ModelConfig, names: Collection[str] = ()) -> Iterator[TensorMap]:
    """Of Llama, under the prefix that the checkpoint has."""
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}embed_tokens.weight" in names), PREFIXES[0])
    table = {leaf: name.replace("model.", prefix, 1) for leaf, name in DECODER.items()}
    return tensor_maps(config, table | {"lm_head": next((head for head in HEADS if head in names), HEADS[0])})


def _released(layers: int, hidden: int, ffn: int, theta: float) -> dict[str, Any]:
    yarn = {
        "rope_type": "yarn", "rope_theta": theta, "factor": 16.0, "original_max_position_embeddings": 16384,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
    }  # fmt: skip
    rest = {"vocab_size": 131072, "rms_norm_eps": 1e-5, "max_position_embeddings": 262144, "rope_parameters": yarn}
    return shape("NemotronLabsDiffusionModel", layers, hidden, ffn, 32, 8, 128, **rest, tie_word_embeddings=False)


FAMILY = family(
    Family(
        "nemotron_ld",
        ("NemotronLabsDiffusionModel", "MinistralDiffEncoderModel"),
        ("nemotron_labs_diffusion", "ministral_dlm"),
        read_config,
        tensors,
        heads=HEADS,
        defaults=DEFAULTS,
        hub={f"nemotron-ld-{size}b": f"nvidia/Nemotron-Labs-Diffusion-{size}B" for size in (3, 8, 14)},
        released={
            "nemotron-ld-3b": _released(26, 3072, 9216, 1e6),
            "nemotron-ld-8b": _released(34, 4096, 14336, 1e6),
            "nemotron-ld-14b": _released(40, 5120, 16384, 1e9),
        },
    )
)
AUTOREGRESSIVE = family(Family("nemotron_ld_ar", (), (), read_ar_config, tensors, heads=HEADS, defaults=DEFAULTS))
