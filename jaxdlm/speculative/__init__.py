"""Autoregressive decoding, alone or with drafts that a target verifies: `decode(target, prompts, policy=...)`."""

from jaxdlm.speculative.methods import autoregressive, easyspec, eqspec, exspec, lookup, pearl, spectr, speculative

__all__ = ["autoregressive", "easyspec", "eqspec", "exspec", "lookup", "pearl", "speculative", "spectr"]
