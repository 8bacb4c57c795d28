"""I-DLM 8B and 32B: Qwen3 that reads from left to right everywhere, masks too, whose rows predict the next token.
arXiv 2604.11035.

Its files have SDAR's architecture, which is another network: block-causal, and predicting its own column. A file with
`use_regular_causal` is I-DLM's; one without says nothing, and a folder that is called so is refused until `family` is stated.
"""

from collections.abc import Mapping
from typing import Any

from jaxdlm.models.config import ModelConfig
from jaxdlm.models.families import qwen3, sdar
from jaxdlm.models.families._qwen import decoder
from jaxdlm.models.hub_config import Fields
from jaxdlm.models.table import Family, decoder_tensors
from jaxdlm.registry import family


def read_config(fields: Fields) -> ModelConfig:
    """config.json of I-DLM; its `block_size` is the number of masks of a round of its own decoding, not of attention."""
    fields.refuse(attention_bias=False)
    return decoder(fields, tokens=sdar.TOKENS, qk_norm=True, attention="causal", prediction="next", noise="mask")


def claims(values: Mapping[str, Any]) -> bool:
    """Whether a file of SDAR's architecture says that it is I-DLM's."""
    return values.get("use_regular_causal") is True and "SDARForCausalLM" in (values.get("architectures") or ())


FAMILY = family(Family("idlm", (), (), read_config, decoder_tensors, defaults=qwen3.DEFAULTS, claims=claims))
