"""Random causal models over a small vocabulary, and slow decoders that know no cache, no loop and no batch.

Models of one vocabulary have one configuration and one name, so that every draft runs the same compiled program.
"""

import dataclasses
import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chisquare

from jaxdlm._load import LM
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds
from tests.models.weights import loud_params

VOCAB, END, MAX_NEW = 23, 1, 12
PROMPTS = ([3, 9, 4, 2], [7], [2, 11, 5, 8, 13, 6, 12], [21, 4, 4, 17, 20, 2, 9, 3, 18, 7], [12, 3])


@functools.cache
def model(seed: int, layers: int = 2, vocab: int = VOCAB, end: int = END) -> LM:
    config = ModelConfig(
        family="llama", vocab_size=vocab, num_layers=layers, hidden_size=24, num_heads=2, num_kv_heads=1, head_dim=12,
        intermediate_size=32, max_position=128, norm_eps=1e-6, rope=RopeConfig(theta=10000.0), attention="causal",
        prediction="next", noise="none", tokens=TokenIds(pad=0, eos=(end,)), param_dtype="float32",
    )  # fmt: skip
    return LM(Backbone(config), loud_params(config, seed), None, "toy")


@functools.cache
def two_modes(seed: int) -> LM:
    """The model as one that also fills masks, behind a causal prefix; the mask is an id that none of it ever says."""
    lm = model(seed)
    tokens = dataclasses.replace(lm.config.tokens, mask=VOCAB - 1)
    mode = {"attention": "prefix_canvas", "prediction": "same", "noise": "mask", "block_size": 8, "tokens": tokens}
    return LM(Backbone(dataclasses.replace(lm.config, **mode)), lm.params, None, lm.name)


def near(lm: LM, noise: float, seed: int = 9) -> LM:
    """A draft that often agrees: the model itself with noise on its weights."""
    leaves, tree = jax.tree.flatten(lm.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + noise * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    return LM(lm.model, jax.tree.unflatten(tree, moved), None, lm.name)


@functools.partial(jax.jit, static_argnums=0)
def _rows(model, params, tokens):
    """Logits of one row of 32 columns, without any cache."""
    position = jnp.arange(tokens.shape[0], dtype=jnp.int32)[None]
    return model.head(params, model.apply(params, tokens[None], position, jnp.ones_like(position, bool)).hidden)[0]


def next_logits(lm: LM, tokens: list[int]) -> np.ndarray:
    padded = np.zeros(32, np.int32)
    padded[: len(tokens)] = tokens
    return np.asarray(_rows(lm.model, lm.params, jnp.asarray(padded)))[len(tokens) - 1]


def distribution_of(
    lm: LM,
    start: list[int],
    length: int,
    temperature: float = 1.0,
    least: float = 0.0,
    bend=lambda logits, text: logits,
) -> dict[tuple[int, ...], float]:
    """Probability of every continuation of `length` tokens that has `least`; after the end all tokens read the end.

    bend: what a guide makes of the logits behind an answer.
    """
    end = lm.config.tokens.eos[0]
    distribution: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for text, mass in distribution.items():
            if end in text:
                longer[*text, end] = mass
                continue
            logits = bend(next_logits(lm, [*start, *text]).astype(np.float64), list(text)) / temperature
            p = np.exp(logits - logits.max())
            p *= mass / p.sum()
            longer |= {(*text, int(token)): p[token] for token in np.flatnonzero((p >= least) & (p > 0))}
        distribution = longer
    return distribution


def fit(texts: np.ndarray, distribution: dict[tuple[int, ...], float]) -> float:
    """p-value of drawn texts under a distribution; what is expected fewer than five times counts together."""
    seen = Counter(map(tuple, texts.tolist()))
    common = {text: chance * len(texts) for text, chance in distribution.items() if chance * len(texts) >= 5}
    observed, wanted = [seen[text] for text in common], list(common.values())
    rest = len(texts) - sum(wanted)
    if rest > 1e-6:
        observed, wanted = [*observed, len(texts) - sum(observed)], [*wanted, rest]
    assert len(wanted) > 8
    return chisquare(observed, wanted).pvalue


def greedy_decode(
    lm: LM, prompt: list[int], max_new: int = MAX_NEW, end: int = END, bend=lambda logits, text: logits
) -> list[int]:
    """Greedy decoding, each token from a forward over everything; the columns after the end read END."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_new:
        tokens.append(int(bend(next_logits(lm, tokens), tokens[len(prompt) :]).argmax()))
        if tokens[-1] == end:
            break
    written = tokens[len(prompt) :]
    return written + [end] * (max_new - len(written))


@functools.cache
def expected(seed: int) -> np.ndarray:
    return np.array([greedy_decode(model(seed), prompt) for prompt in PROMPTS])
