"""DiffusionGemma end to end: a causal prefix, canvases of noise, against a slow loop over one row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, Status, decode, policies
from jaxdlm._load import LM
from jaxdlm.core.keys import column_gumbel, column_integer, row_keys
from jaxdlm.core.loop import BEFORE
from jaxdlm.core.model import Past
from jaxdlm.models import Backbone, TokenIds
from jaxdlm.models.params import init_params
from tests.marks import usual
from tests.models.configs import CONFIGS

CANVAS, VOCAB, PREFIX, END = 6, 61, 32, 1
SHARP = 300.0
STEPS, GAMMA, KAPPA = 6, 4.0, 100.0  # a model that was never trained is not confident: holding still is enough
PROMPTS = ([3, 3, 9, 4], [6, 3, 9, 4], [5, 12, 30, 21, 4, 4, 17, 40, 2, 9, 33, 25, 18, 7, 3, 28, 10, 5])
IDS = (0, 1, 2)  # the first and the third row settle early with these draws


@functools.cache
def lm() -> LM:
    """Dense, since a router's near-ties would turn the last bits of a batch into other experts; and sharp."""
    dense = {"num_experts": 0, "top_k": 0, "expert_size": 0, "moe_parallel_dense": False, "norm_topk": False}
    layers = {"num_layers": 3, "layer_kinds": ("local", "local", "global"), "logit_scale": SHARP}
    tokens = TokenIds(mask=None, pad=0, eos=(END,))
    config = dataclasses.replace(CONFIGS["prefix_canvas"], tokens=tokens, **dense, **layers)
    return LM(Backbone(config), init_params(config, jax.random.key(4)), None, "toy-canvas")


@functools.partial(jax.jit, static_argnums=0)
def passes(model, params, prefix, count, canvas, probabilities, known):
    """Logits of a canvas behind the first `count` tokens of `prefix`: a pass each, nothing kept."""
    position = jnp.arange(PREFIX, dtype=jnp.int32)[None]
    valid = position < count
    out = model.prefix(params, prefix[None], position, valid)
    at = count + jnp.arange(CANVAS, dtype=jnp.int32)[None]
    soft = model.expected_embedding(params, probabilities[None]) * known
    seen = Past(out.kv, position, valid)
    return model.head(
        params, model.canvas(params, canvas[None], at, jnp.ones((1, CANVAS), bool), seen, soft=soft).hidden
    )[0]


def entropy(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p, -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def oracle(prompt, index, canvases):
    """Tokens and forwards of one row, from the published sampler's text."""
    key = row_keys(jnp.asarray([0], jnp.int32), jnp.asarray([index], jnp.uint32))[0]
    text, step = list(prompt), 0
    for _ in range(canvases):
        position = jnp.arange(len(text), len(text) + CANVAS, dtype=jnp.int32)
        canvas = np.array(column_integer(jax.random.fold_in(key, BEFORE), position, VOCAB))
        probabilities, previous = np.zeros((CANVAS, VOCAB), np.float32), None
        for tick in range(STEPS):
            prefix = np.array(text + [0] * (PREFIX - len(text)), np.int32)
            raw = passes(lm().model, lm().params, prefix, len(text), canvas, probabilities, jnp.float32(tick > 0))
            shaped = np.asarray(raw, np.float64) / (0.4 + 0.4 * (1 - tick / STEPS))
            draws = jax.random.fold_in(key, step)
            noise = np.asarray(column_gumbel(jax.random.fold_in(draws, 1), position, VOCAB))
            token, best = (shaped + noise).argmax(1), shaped.argmax(1)
            p, doubt = entropy(shaped)
            order, before, accepted = np.argsort(doubt, kind="stable"), 0.0, set()
            for at in order:
                if before <= GAMMA:
                    accepted.add(at)
                before += doubt[at]
            step += 1
            settled = previous is not None and (best == previous).all() and doubt.mean() < KAPPA
            if settled or tick == STEPS - 1:
                canvas = best
                break
            fresh = np.asarray(column_integer(jax.random.fold_in(draws, 3), position, VOCAB))
            canvas = np.array([token[i] if i in accepted else fresh[i] for i in range(CANVAS)])
            probabilities, previous = p.astype(np.float32), best
        text += [int(token) for token in canvas]
        if END in canvas:
            text = text[: len(text) - CANVAS + list(canvas).index(END) + 1]
            break
    return text[len(prompt) :], step


def run(cache, prompts=PROMPTS, ids=IDS, max_new=2 * CANVAS):
    policy = policies.RECIPES["entropy_bound"](GAMMA, STEPS, kappa=KAPPA)
    return decode(lm(), prompts, policy, cache, ids=ids, max_new=max_new)


@pytest.mark.slow
@pytest.mark.parametrize("cache", usual(["none", "encoder"], "encoder"))
def test_decodes_like_the_slow_loop(cache):
    out = run(cache)
    for row, prompt in enumerate(PROMPTS):
        text, forwards = oracle(prompt, IDS[row], 2)
        assert out.tokens[row, : len(text)].tolist() == text
        assert (out.tokens[row, len(text) :] == END).all()
        assert out.forwards[row] == forwards
        assert (out.status[row] == Status.EOS) == (END in text)
    assert out.forwards.min() < out.forwards.max() == 2 * STEPS, "the stop is not tested"


def test_what_does_not_fit_is_refused():
    for policy, cache, why in (
        ("threshold", "none", "use policy='entropy_bound'"),
        ("entropy_bound", "dual", "use cache='encoder' or 'none'"),
        (policies.RECIPES["freedave"](host="entropy_bound"), "none", "without freedave"),
    ):
        with pytest.raises(InputError, match=why):
            decode(lm(), PROMPTS, policy, cache, max_new=CANVAS)
    with pytest.raises(InputError, match="leave canvas"):
        decode(lm(), PROMPTS, "entropy_bound", canvas=[[1], [1], [1]], max_new=CANVAS)
