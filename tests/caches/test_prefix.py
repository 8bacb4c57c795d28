"""The prefix cache: where it must agree with no cache, and where it must not."""

import numpy as np
import pytest

from jaxdlm import InputError, chain, decode, sample, threshold
from jaxdlm.caches.prefix import prefix
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import PROMPTS


def test_one_layer_has_nothing_stale():
    """In the first layer keys and values depend on the column's own token alone."""
    same(decode(toy(1), PROMPTS, "threshold", prefix(), **GRID), decode(toy(1), PROMPTS, "threshold", **GRID))


@pytest.mark.parametrize("prediction", ["same", "next"])
def test_a_refresh_in_every_forward_is_no_cache(prediction):
    lm = toy(2, prediction)
    same(decode(lm, PROMPTS, "threshold", prefix(1), **GRID), decode(lm, PROMPTS, "threshold", **GRID))


@pytest.mark.parametrize("prediction", ["same", "next"])
def test_two_layers_do_reuse_and_neighbours_do_not_matter(prediction):
    lm = toy(2, prediction)
    batch, exact = decode(lm, PROMPTS, "threshold", prefix(), **GRID), decode(lm, PROMPTS, "threshold", **GRID)
    assert not np.array_equal(batch.score, exact.score), "nothing was read from the cache"
    for row, prompt in enumerate(PROMPTS[:2]):
        alone = decode(lm, [prompt], "threshold", prefix(), **GRID)
        np.testing.assert_array_equal(alone.tokens[0], batch.tokens[row])
        np.testing.assert_array_equal(alone.forwards[0], batch.forwards[row])


def test_one_forward_per_block_never_reads_the_cache():
    lm, policy = toy(2), chain(sample(), threshold(0.0))
    same(decode(lm, PROMPTS, policy, prefix(), **GRID), decode(lm, PROMPTS, policy, **GRID))


@pytest.mark.parametrize("every", [0, 1.5, "2", float("nan")])
def test_bad_interval(every):
    with pytest.raises(InputError, match="refresh_every"):
        prefix(every)
