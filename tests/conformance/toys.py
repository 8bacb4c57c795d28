"""Random two-layer models, and the table that the conformance tests run over: every recipe on every cache."""

import functools
import inspect

import jax
import jax.numpy as jnp

from jaxdlm import FilterWeights, Rule, policies
from jaxdlm.core.rule import Stepper
from jaxdlm.load import LM
from jaxdlm.models import Backbone, ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds
from jaxdlm.models.params import init_params

VOCAB, MASK, END = 48, 47, 46
GRID = {"max_new": 8, "block": 4}
PROMPTS = ([3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6], [12, 30, 21, 4, 4, 17, 40, 2, 9, 33, 25, 18, 7, 3, 28, 10, 5, 1, 39])


@functools.cache
def model(prediction: str) -> LM:
    """ "same": each row speaks for its own column, as in LLaDA; "next": for the following one, as in Dream."""
    config = ModelConfig(
        family="llada" if prediction == "same" else "dream", vocab_size=VOCAB, num_layers=2, hidden_size=32,
        num_heads=4, num_kv_heads=4 if prediction == "same" else 2, head_dim=8, intermediate_size=48, max_position=128,
        norm_eps=1e-6, qkv_bias=prediction == "next", rope=RopeConfig(theta=10000.0), attention="full",
        prediction=prediction, noise="mask", tokens=TokenIds(mask=MASK, pad=0, eos=(END,)), param_dtype="float32",
    )  # fmt: skip
    return LM(Backbone(config), init_params(config, jax.random.key(1), loud=True), None, f"toy-{prediction}")


def parameters(recipe: str) -> dict:
    return {name: item.default for name, item in inspect.signature(policies.RECIPES[recipe]).parameters.items()}


def filter_weights(block: int = GRID["block"]) -> FilterWeights:
    """A filter that was never trained, for the toys' blocks."""
    keys = jax.random.split(jax.random.key(2), 2)
    w1, w2 = (3 * jax.random.normal(key, (block, block)) for key in keys)
    return FilterWeights(w1, jnp.zeros(block), w2, jnp.ones(block))


def policy(recipe: str, heat: float | None = None, **arguments):
    """A recipe; `heat` is its temperature as an array, so that every temperature runs the same program."""
    if heat is not None and "temperature" in parameters(recipe):
        arguments["temperature"] = jnp.float32(heat)
    if recipe == "learn2pd":
        arguments["weights"] = filter_weights()
    return policies.RECIPES[recipe](**arguments)


def meets(recipe: str, cache: str) -> bool:
    """Whether the cache serves as many columns as the recipe looks at, and models with full attention."""
    kept, rule = policies.CACHES[cache](), policies.RECIPES[recipe]()
    if getattr(kept, "attention", "full") != "full" or (isinstance(rule, Stepper) and not kept.versions):
        return False
    return kept.window == "canvas" or rule.view == "block"


RULES = [recipe for recipe in policies.RECIPES if isinstance(policies.RECIPES[recipe](), Rule)]  # diffusion only
CROSS = [(recipe, cache) for recipe in RULES for cache in policies.CACHES]
PAIRS = [pair for pair in CROSS if meets(*pair)]
REFUSED = [pair for pair in CROSS if not meets(*pair)]
# Each recipe without a cache and each cache under one recipe: for what does not depend on how the two meet.
EDGES = [(recipe, cache) for recipe, cache in PAIRS if cache == "none" or recipe == "threshold"]
# The shift of `next` prediction lies in the window that a cache returns: no recipe sees it.
CASES = [("same", *pair) for pair in PAIRS] + [("next", *pair) for pair in PAIRS if pair[0] == "threshold"]
