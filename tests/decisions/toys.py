"""Small models to decide with: an exact joint, random nets of every family, and one with words."""

import dataclasses
import functools

import numpy as np

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.models import Backbone
from jaxdlm.models.denoiser import table_denoiser
from tests.conformance.toy_models import BASE, KINDS
from tests.models.weights import loud_params

VOCAB, END, MASK = 8, 6, 7
PROMPT = [1, 2, 3]
# 0 is a pad, 6 the end of text, 7 the mask: three answers of one, two and three tokens, filled up with ends
CANVASES = np.array([[4, 6, 6, 6], [5, 4, 6, 6], [5, 4, 3, 6], [3, 3, 6, 6]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
MORE = {
    "ar": {"family": "llama", "num_kv_heads": 2, "attention": "causal", "prediction": "next", "noise": "none"},
    "uniform": {"attention": "prefix_canvas", "noise": "uniform", "self_conditioning": True, "block_size": 6},
}


def exact(canvases=CANVASES, weights=WEIGHTS) -> LM:
    """A model whose conditionals are those of a table of canvases behind the prompt."""
    model, params = table_denoiser(canvases, weights, vocab_size=VOCAB, mask=MASK, eos=END, start=len(PROMPT))
    return LM(model, params, None, "exact")


@functools.cache
def net(kind: str, dtype: str = "float32", seed: int = 1, **sizes) -> LM:
    """Random weights, far from sure of anything; ids 1..45 are words, 46 is the end, 47 the mask."""
    own = (KINDS | MORE)[kind]
    config = dataclasses.replace(BASE, **(own | {"param_dtype": dtype} | sizes))
    if config.noise != "mask":
        config = dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, mask=None))
    return LM(Backbone(config), loud_params(config, seed), None, f"net-{kind}")


def spelled(*choices, name: str = "q") -> jd.Choice:
    """A choice whose options are ids."""
    return jd.Choice(name, [jd.Option(f"o{index}", tokens=ids) for index, ids in enumerate(choices)])


def log_softmax(lm: LM, tokens) -> np.ndarray:
    """float64 log-probabilities at every row of one sequence, the mask banned: row i as the model writes it."""
    logits = np.asarray(lm.logits([list(map(int, tokens))]))[0].astype(np.float64)
    if lm.config.tokens.mask is not None:
        logits[:, lm.config.tokens.mask] = -np.inf
    return logits - np.logaddexp.reduce(logits, axis=1)[:, None]


def shares(decision: jd.Decision) -> np.ndarray:
    return np.array(list(decision.probabilities.values()))
