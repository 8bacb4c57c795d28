"""A row's result depends on its own prompt, id and seed, on the model, the policy and the cache, and nothing else."""

import jax
import numpy as np
import pytest

from jaxdlm import InputError, decode, policies
from jaxdlm._decode import _run
from tests.conformance.toy_models import KINDS
from tests.conformance.toys import (
    CASES,
    COVER,
    EDGES,
    GRID,
    LONGER,
    MASK,
    PROMPTS,
    REFUSED,
    RULES,
    covering,
    meets,
    model,
    parameters,
    policy,
    temperatures,
)


def same(a, row: int, b, other: int) -> None:
    np.testing.assert_array_equal(a.tokens[row], b.tokens[other])
    np.testing.assert_array_equal(a.forwards[row], b.forwards[other])
    np.testing.assert_array_equal(a.commit_step[row], b.commit_step[other])
    assert a.status[row] == b.status[other]
    np.testing.assert_allclose(a.score[row], b.score[other], rtol=2e-4, atol=2e-5)


def neighbours_and_order_do_not_matter(kind, recipe, cache, prompts) -> None:
    lm = model(kind)
    for temperature in temperatures(recipe):
        run = {"policy": policy(recipe, temperature), "cache": cache, **GRID, "seed": 5}
        batch = decode(lm, prompts, **run)
        order = [2, 0, 1]
        permuted = decode(lm, [prompts[i] for i in order], ids=order, **run)
        for place, row in enumerate(order):
            same(permuted, place, batch, row)
        for row in (0, 1):
            same(decode(lm, [prompts[row]], ids=[row], **run), 0, batch, row)
        assert (batch.tokens != MASK).all(), "a mask is left, or was proposed"


def test_the_covering_cases_cover():
    """Every recipe, every cache that a masked model takes, and every kind of model."""
    kinds, recipes, caches = map(set, zip(*COVER))
    assert kinds == set(KINDS) and recipes == set(RULES)
    assert caches == {cache for cache in policies.CACHES if any(meets("threshold", cache, kind) for kind in KINDS)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "recipe", "cache"), covering(CASES))
def test_neighbours_and_order_do_not_matter(kind, recipe, cache):
    """Programs of three rows and of one; by `test_families` the pairs that are not here, in programs of three."""
    neighbours_and_order_do_not_matter(kind, recipe, cache, PROMPTS)


FIRST = ("same", "threshold", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recipe", "cache"),
    [FIRST, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in CASES if case != FIRST)],
)
def test_neither_does_a_neighbour_in_other_columns(kind, recipe, cache):
    """The third prompt is longer than 16 tokens: another program, which `decode` chooses before it looks at the recipe."""
    neighbours_and_order_do_not_matter(kind, recipe, cache, LONGER)


@pytest.mark.parametrize(
    ("kind", "recipe", "cache"),
    covering([("same", *pair) for pair in EDGES], lambda recipe: "temperature" in parameters(recipe)),
)
def test_seed_and_id_change_the_draws_and_nothing_else_does(kind, recipe, cache):
    """In the program of three rows that has been compiled above."""
    lm, run = model(kind), {"policy": policy(recipe, 1.0), "cache": cache, **GRID}
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[2]]
    out = decode(lm, prompts, seed=1, **run)
    assert (out.tokens[0] != out.tokens[1]).any(), "two ids drew alike"
    assert (out.tokens != decode(lm, prompts, seed=2, **run).tokens).any(), "two seeds drew alike"
    twins = decode(lm, prompts, seed=1, ids=[4, 4, 9], **run)
    np.testing.assert_array_equal(twins.tokens[0], twins.tokens[1])


def test_a_cache_too_narrow_for_the_policy_is_refused():
    before = _run._cache_size()
    for recipe, cache in REFUSED:
        with pytest.raises(InputError, match="cache"):
            decode(model("same"), PROMPTS, policy(recipe), cache, **GRID)
    assert _run._cache_size() == before, "refused only after it was traced"


@pytest.mark.slow
def test_models_differ_and_rows_differ():
    """Guards the guards: equal results above would mean little if the toys always wrote the same text."""
    outputs = [decode(model(name), PROMPTS, "threshold", **GRID).tokens for name in ("same", "next")]
    assert (outputs[0] != outputs[1]).any()
    assert len({tuple(row) for row in outputs[0]}) == 3
    assert len(jax.tree.leaves(model("same").params)) > 4
