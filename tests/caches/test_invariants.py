"""What holds for every cache that reuses something: where it must agree with no cache, and where it must not."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import chain, decode, policies
from jaxdlm.rules.guidance import guidance
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import MASK, PROMPTS

# A cache as it is tested: small windows, so that on twelve columns something lies outside.
REUSING = {
    "prefix": {},
    "dual": {},
    "refresh": {"before": 2, "after": 1, "warmup": 2},
    "delayed": {"every": 5},
    "adaptive": {"prompt_every": 5, "response_every": 3},
    "recap": {"local": 2},
    "layer_reuse": {"keys": (0, 2)},
}
EVERY_FORWARD = {
    "prefix": {"refresh_every": 1},
    "dual": {"refresh_every": 1},
    "refresh": {"every": 1, "warmup": 0},
    "delayed": {"every": 1},
    "adaptive": {"prompt_every": 1, "response_every": 1},
    "recap": {"local": 0},
    "layer_reuse": {"keys": tuple(range(4))},
}
# Every cache under one kind of prediction, in turn, and under the other in the exhaustive run (toys.py says why).
BOTH = [
    pytest.param(cache, kind, marks=() if (number + turn) % 2 == 0 else pytest.mark.exhaustive)
    for number, cache in enumerate(REUSING)
    for turn, kind in enumerate(("same", "next"))
]


def reusing(cache: str):
    """Numbers as arrays, so that other numbers run the same program."""
    return policies.CACHES[cache](**REUSING[cache])


def hot(temperature: float):
    return policies.RECIPES["threshold"](jnp.float32(0.3), temperature=jnp.float32(temperature))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("cache", "prediction"), [pair for pair in BOTH if pair.values[0] != "layer_reuse"])
def test_one_layer_has_nothing_stale(cache, prediction):
    """In the first layer keys and values depend on the column's own token alone; layer_reuse has no layer to skip."""
    lm = toy(1, prediction)
    same(decode(lm, PROMPTS, hot(0.0), reusing(cache), **GRID), decode(lm, PROMPTS, hot(0.0), **GRID))


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "prediction"), BOTH)
def test_a_refresh_in_every_forward_is_no_cache(cache, prediction):
    """With guidance, whose rows come twice, and given columns on the canvas (infilling)."""
    lm, kept = toy(2, prediction), policies.CACHES[cache](**EVERY_FORWARD[cache])
    run = {"canvas": [[MASK] * 2 + [9, MASK, 4, 4, 4, 4, MASK, 5], [], [3]], **GRID}
    for temperature in (0.0, 1.0):
        guided = chain(guidance(jnp.float32(0.5)), hot(temperature))
        same(decode(lm, PROMPTS, guided, kept, **run), decode(lm, PROMPTS, guided, **run))


@pytest.mark.slow
def test_a_rule_that_rewrites_its_block_needs_a_cache_that_reads_it():
    """Editing: of one layer nothing is stale where the whole block is read in every forward."""
    lm, edits = toy(1), policies.RECIPES["llada21"](tau_mask=0.3, tau_edit=0.0)
    exact = decode(lm, PROMPTS, edits, **GRID)
    assert (exact.forwards > decode(lm, PROMPTS, hot(0.0), **GRID).forwards).any(), "nothing was rewritten"
    same(decode(lm, PROMPTS, edits, reusing("dual"), **GRID), exact)


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "prediction"), BOTH)
def test_two_layers_do_reuse_and_neighbours_do_not_matter(cache, prediction):
    lm, kept = toy(2, prediction), reusing(cache)
    batch, exact = decode(lm, PROMPTS, hot(0.0), kept, **GRID), decode(lm, PROMPTS, hot(0.0), **GRID)
    assert not np.array_equal(batch.score, exact.score), "nothing was read from the cache"
    others = decode(lm, [PROMPTS[2], [5, 6, 7], PROMPTS[0]], hot(0.0), kept, ids=[2, 9, 0], **GRID)
    for place, row in ((0, 2), (2, 0)):
        for field in ("tokens", "forwards", "commit_step"):
            np.testing.assert_array_equal(getattr(others, field)[place], getattr(batch, field)[row], field)


# `adaptive` counts the row's forwards, not those of the block: it reads its store at the start of a block, too
@pytest.mark.slow
@pytest.mark.parametrize("cache", [cache for cache in REUSING if cache != "adaptive"])
def test_one_forward_per_block_never_reads_the_cache(cache):
    lm = toy(2)
    at_once = policies.RECIPES["threshold"](jnp.float32(0.0), temperature=jnp.float32(0.0))
    same(decode(lm, PROMPTS, at_once, reusing(cache), **GRID), decode(lm, PROMPTS, at_once, **GRID))
