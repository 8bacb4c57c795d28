"""A row's result depends on its own prompt, id and seed, on the model, the policy and the cache, and nothing else."""

import jax
import numpy as np
import pytest

from jaxdlm import InputError, decode
from jaxdlm._decode import _run
from tests.conformance.toys import CASES, EDGES, GRID, MASK, PROMPTS, REFUSED, model, parameters, policy, temperatures


def same(a, row: int, b, other: int) -> None:
    np.testing.assert_array_equal(a.tokens[row], b.tokens[other])
    np.testing.assert_array_equal(a.forwards[row], b.forwards[other])
    np.testing.assert_array_equal(a.commit_step[row], b.commit_step[other])
    assert a.status[row] == b.status[other]
    np.testing.assert_allclose(a.score[row], b.score[other], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("prediction", "recipe", "cache"), CASES)
def test_neighbours_and_order_do_not_matter(prediction, recipe, cache):
    """The third prompt is longer than 16 tokens, so that it stands in other columns than those beside it."""
    lm = model(prediction)
    for temperature in temperatures(recipe):
        run = {"policy": policy(recipe, temperature), "cache": cache, **GRID, "seed": 5}
        batch = decode(lm, PROMPTS, **run)
        order = [2, 0, 1]
        permuted = decode(lm, [PROMPTS[i] for i in order], ids=order, **run)
        for place, row in enumerate(order):
            same(permuted, place, batch, row)
        for row in (0, 1):
            same(decode(lm, [PROMPTS[row]], ids=[row], **run), 0, batch, row)
        assert (batch.tokens != MASK).all(), "a mask is left, or was proposed"


@pytest.mark.parametrize(("recipe", "cache"), [pair for pair in EDGES if "temperature" in parameters(pair[0])])
def test_seed_and_id_change_the_draws_and_nothing_else_does(recipe, cache):
    run = {"policy": policy(recipe, 1.0), "cache": cache, **GRID}
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[2]]
    out = decode(model("same"), prompts, seed=1, **run)
    assert (out.tokens[0] != out.tokens[1]).any(), "two ids drew alike"
    assert (out.tokens != decode(model("same"), prompts, seed=2, **run).tokens).any(), "two seeds drew alike"
    twins = decode(model("same"), prompts, seed=1, ids=[4, 4, 9], **run)
    np.testing.assert_array_equal(twins.tokens[0], twins.tokens[1])


def test_a_cache_too_narrow_for_the_policy_is_refused():
    before = _run._cache_size()
    for recipe, cache in REFUSED:
        with pytest.raises(InputError, match="cache"):
            decode(model("same"), PROMPTS, policy(recipe), cache, **GRID)
    assert _run._cache_size() == before, "refused only after it was traced"


def test_models_differ_and_rows_differ():
    """Guards the guards: equal results above would mean little if the toys always wrote the same text."""
    outputs = [decode(model(name), PROMPTS, "threshold", **GRID).tokens for name in ("same", "next")]
    assert (outputs[0] != outputs[1]).any()
    assert len({tuple(row) for row in outputs[0]}) == 3
    assert len(jax.tree.leaves(model("same").params)) > 4
