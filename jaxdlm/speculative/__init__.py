"""Autoregressive decoding, alone or with drafts that a target verifies: `decode(target, prompts, policy=...)`."""

from jaxdlm.speculative.methods import autoregressive, easyspec, eqspec, exspec, lookup, pearl, spectr, speculative
from jaxdlm.speculative.trained import s2d, specdec_pp
from jaxdlm.speculative.two_meshes import generate_on_two

__all__ = [
    "autoregressive",
    "easyspec",
    "eqspec",
    "exspec",
    "generate_on_two",
    "lookup",
    "pearl",
    "s2d",
    "specdec_pp",
    "speculative",
    "spectr",
]
