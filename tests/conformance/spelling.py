"""Random models that read and write letters: toys with the tokenizer of `tests.grammar.toys.byte_level`."""

import dataclasses
import functools

from jaxdlm._load import LM
from jaxdlm.models import Backbone
from tests.conformance.toys import model as masked
from tests.grammar import toys
from tests.models.weights import loud_params
from tests.speculative.toys import model as causal


@functools.cache
def spelling_model(kind):
    """A kind of `tests.conformance.toys`, or "causal"."""
    base, own = causal(0) if kind == "causal" else masked(kind), toys.byte_level()
    tokens = dataclasses.replace(own.config.tokens, mask=None) if kind == "causal" else own.config.tokens
    config = dataclasses.replace(base.config, vocab_size=own.config.vocab_size, tokens=tokens)
    return LM(Backbone(config), loud_params(config, 3), own.tokenizer, f"spelling {kind}")
