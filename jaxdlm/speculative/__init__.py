"""Autoregressive decoding, alone or with drafts that a target verifies: `decode(target, prompts, policy=...)`."""

from jaxdlm.speculative.methods import autoregressive, speculative

__all__ = ["autoregressive", "speculative"]
