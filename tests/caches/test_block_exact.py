"""The exact cache of block-causal models: the same tokens, forwards and commit steps as without a cache."""

import numpy as np
import pytest

from jaxdlm import InputError, decode, policies
from jaxdlm.caches.block_exact import BlockExactCache
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import MASK, PROMPTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "prediction"),
    [
        pytest.param("llada2", "same", marks=pytest.mark.exhaustive),
        ("threshold", "next"),
        pytest.param("llada2", "next", marks=pytest.mark.exhaustive),
        pytest.param("threshold", "same", marks=pytest.mark.exhaustive),
    ],
)
def test_equals_no_cache_with_and_without_a_prompt_tail(prediction, recipe):
    """Prompts of 4, 7, 14 tokens and 3 (no whole block at all); blocks of 4."""
    lm, prompts = toy(2, prediction, "block_causal"), [*PROMPTS, [5, 6, 7]]
    policy = policies.RECIPES[recipe](tau=0.3)
    batch = decode(lm, prompts, policy, "block_exact", **GRID)
    exact = decode(lm, prompts, policy, **GRID)
    same(batch, exact)
    np.testing.assert_allclose(batch.score, exact.score, rtol=1e-3, atol=1e-5)
    alone = decode(lm, prompts[1:2], policy, "block_exact", **GRID)
    np.testing.assert_array_equal(alone.tokens[0], batch.tokens[1])


@pytest.mark.slow
def test_blocks_that_were_given_are_skipped_and_still_seen():
    lm = toy(2, "same", "block_causal")
    canvas = [[MASK] * 4 + [9, 3, 8, 4, 1, 2, 3, 4], [7, 7, 7, 7, 6, 6, 6, 6, 5]]
    run = {**GRID, "max_new": 16, "canvas": canvas}
    same(decode(lm, PROMPTS[:2], "sdar", "block_exact", **run), decode(lm, PROMPTS[:2], "sdar", **run))


def test_full_attention_is_refused():
    with pytest.raises(InputError, match="block_causal"):
        decode(toy(), PROMPTS, "threshold", BlockExactCache(), **GRID)
