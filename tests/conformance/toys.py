"""The tables that the conformance tests run over: recipes, caches, kinds of models."""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from jaxdlm import InputError, Rule, policies, resolve
from jaxdlm.rules import FilterWeights
from tests.conformance.toy_models import BASE, END, KINDS, MASK, OWN, VOCAB, model, untrained  # noqa: F401

GRID = {"max_new": 8, "block": 4}
PROMPTS = ([3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6], [12, 30, 21, 4, 4, 17, 40, 2, 9, 33, 25, 18, 7, 3])  # one program
LONGER = (*PROMPTS[:2], [*PROMPTS[2], 28, 10, 5, 1, 39])  # more than 16 columns: a program of its own


def parameters(recipe: str) -> dict:
    return {name: item.default for name, item in inspect.signature(policies.RECIPES[recipe]).parameters.items()}


def temperatures(recipe: str) -> tuple[float | None, ...]:
    """Temperatures at which a recipe is tested, by one program; none where it has no such thing."""
    return (0.0, 1.0) if "temperature" in parameters(recipe) else (None,)


def filter_weights(block: int = GRID["block"]) -> FilterWeights:
    """A filter that was never trained, for the toys' blocks."""
    keys = jax.random.split(jax.random.key(2), 2)
    w1, w2 = (3 * jax.random.normal(key, (block, block)) for key in keys)
    return FilterWeights(w1, jnp.zeros(block), w2, jnp.ones(block))


def policy(recipe: str, temperature: float | None = None, **arguments):
    """A recipe; `temperature` is its temperature as an array, so that every temperature runs the same program."""
    if temperature is not None and "temperature" in parameters(recipe):
        arguments["temperature"] = jnp.float32(temperature)
    if recipe == "fast_dllm_v2":
        arguments = {"sub_block": 2} | arguments
    if recipe == "learn2pd":
        arguments["weights"] = filter_weights()
    return policies.RECIPES[recipe](**arguments)


@functools.cache
def meets(recipe: str, cache: str, kind: str = "same") -> bool:
    """Whether `decode` takes the two together on such a model."""
    try:
        resolve.check(untrained(kind), policy(recipe), policies.CACHES[cache]())
    except InputError:
        return False
    return True


# Recipes of masked diffusion; the one of uniform noise has tests of its own, with a model of its own.
RULES = [name for name in policies.RECIPES if isinstance(policies.RECIPES[name](), Rule) and name != "entropy_bound"]
CROSS = [(recipe, cache) for recipe in RULES for cache in policies.CACHES]
REFUSED = [pair for pair in CROSS if not meets(*pair)]
# Every recipe with every cache on every family: test_families, by the two halves of the loop. As whole programs, which cost
# one compilation each: every recipe without a cache, and every cache under one recipe that commits in parallel, one that
# sees the canvas and one that steps on its own.
MEETING = {"threshold": policies.CACHES, "prophet": ("prefix",), "freedave": ("dual",)}
PAIRS = [(recipe, cache) for recipe, cache in CROSS if cache == "none" or cache in MEETING.get(recipe, ())]
PAIRS = [("same", *pair) for pair in PAIRS if pair not in REFUSED]
# What the suite runs of them, and `-m exhaustive` the rest: (kind of model, recipe, cache), every recipe once, and among
# them every cache and every kind.
COVER = [
    ("same", "low_confidence", "none"), ("same", "random", "refresh"), ("next", "maskgit_plus", "none"),
    ("same", "topk_margin", "delayed"), ("next", "entropy", "dual"), ("same", "origin", "recap"),
    ("same", "threshold", "none"), ("same", "factor", "adaptive"), ("same", "local_leap", "layer_reuse"),
    ("same", "credit", "none"), ("same", "dparallel", "none"), ("same", "d3llm", "none"), ("same", "prophet", "prefix"),
    ("same", "ccd", "none"), ("same", "ccd_ds", "none"), ("same", "freedave", "dual"), ("same", "learn2pd", "none"),
    ("same", "best", "none"), ("llada2", "llada2", "block_exact"), ("same", "llada21", "none"),
    ("same", "llada22", "none"), ("sdar", "sdar", "none"), ("v2", "fast_dllm_v2", "sub_block"),
]  # fmt: skip
COVER += [("same", recipe, "none") for recipe in RULES if recipe not in {recipe for _, recipe, _ in COVER}]  # new ones
# Recipes that differ from another one in which columns they choose, by the same fields of a row: how they meet families,
# caches and languages is that one's affair, and by default they run on one family alone.
ALIKE = {
    "klass": "credit", "eb": "threshold", "dus": "threshold", "hierarchical": "local_leap", "slow_fast": "threshold",
    "p2": "saber", "rcr": "saber", "remdm": "saber", "wino": "saber", "dawn": "local_leap", "d2f": "d3llm", "daedal": "d3llm",
}  # fmt: skip
# For what does not depend on how the two meet: how devices and programs share the work.
EDGES = [(r, c) for _, r, c in PAIRS if c == "none" or (r == "threshold" and c in ("dual", "delayed", "adaptive"))]
CASES = list(PAIRS)
# The shift of `next` prediction lies in the window that a cache returns: no recipe sees it.
CASES += [("next", "threshold", cache) for cache in ("none", "dual")]
# Block-causal models lay out their prompts otherwise, and have a cache of their own.
CASES += [("sdar", "sdar", cache) for cache in ("none", "block_exact")]
CASES += [("v2", "fast_dllm_v2", cache) for cache in ("none", "block_exact", "sub_block")]
CASES += [("llada2", "llada2", "block_exact")]


# Recipes whose whole programs hold no part that another one's have not: by default test_families runs them, in halves.
PLAIN = {
    "low_confidence", "random", "topk_margin", "entropy", "credit", "dparallel", "ccd", "ccd_ds", "learn2pd", "llada21", "saber",
}  # fmt: skip


def covering(cases: list[tuple[str, str, str]], wanted: Callable[[str], bool] = lambda recipe: True) -> list:
    """`COVER` but for the recipes of `ALIKE` and `PLAIN`, and what else is in the two, marked `exhaustive`; of recipes that are
    wanted."""
    every = [case for case in dict.fromkeys([*COVER, *cases]) if wanted(case[1])]
    usual = [case for case in COVER if case[1] not in ALIKE and case[1] not in PLAIN]
    return [case if case in usual else pytest.param(*case, marks=pytest.mark.exhaustive) for case in every]
