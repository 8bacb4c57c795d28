"""Random models that read and write letters: toys with the tokenizer of `tests.grammar.toys.byte_level`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

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


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, tokens):
    position = jnp.arange(tokens.shape[0], dtype=jnp.int32)[None]
    return model.head(params, model.apply(params, tokens[None], position, jnp.ones_like(position, bool)).hidden)[0]


def logits_behind(lm, prompt, text):
    """Of the token behind a prompt and these, from a forward over all of them."""
    known = [*lm.tokenizer.encode_prompt(prompt, raw=True), *text]
    return np.asarray(_logits(lm.model, lm.params, jnp.asarray([*known, *[0] * (64 - len(known))])))[len(known) - 1]


def greedy(lm, prompt, room, allowed, ends):
    """The likeliest allowed token after the other, from a loop on the host over the logits of the whole text; allowed: of the
    tokens so far, bool[V]."""
    text = []
    while len(text) < room and (not text or text[-1] not in ends):
        text.append(int(np.argmax(np.where(allowed(text), logits_behind(lm, prompt, text), -np.inf))))
    return text
