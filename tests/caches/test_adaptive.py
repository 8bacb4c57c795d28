"""dLLM-Cache between its limits: everything renewed, and nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout
from jaxdlm.caches.adaptive import adaptive, turn
from jaxdlm.core import loop
from jaxdlm.core.rule import Decoding
from tests.batch.jobs import rows as random_rows
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import PROMPTS, policy


@pytest.mark.slow
def test_all_columns_and_the_prompt_renewed_is_no_cache():
    lm, renewed = toy(2), adaptive(prompt_every=1, response_every=64, ratio=1.0)
    same(decode(lm, PROMPTS, "threshold", renewed, **GRID), decode(lm, PROMPTS, "threshold", **GRID))


@pytest.mark.slow
def test_no_column_renewed_leaves_the_outputs_of_all_layers_but_the_first():
    lm, run = toy(2), jax.jit(loop.run)
    batch = layout.lay_out(lm, PROMPTS[:2], seed=0, ids=None, **GRID)
    kept = adaptive(64, 64, ratio=0.0)
    decoding = Decoding(lm.model, lm.params, policy("low_confidence"), kept, batch.geometry)
    carry = run(loop.init(batch.rows, decoding, "none"), jnp.int32(1), decoding)
    later = run(carry, jnp.int32(4), decoding)
    ((before,),), ((after,),) = carry.cache, later.cache
    for name in ("mixed", "fed"):
        old, new = np.asarray(getattr(before, name)), np.asarray(getattr(after, name))
        np.testing.assert_array_equal(old[1], new[1])
        assert (old[0] != new[0]).any(), "the first layer is always computed"
    assert (np.asarray(before.v)[1] != np.asarray(after.v)[1]).any(), "values are renewed on the way"
    np.testing.assert_array_equal(np.asarray(before.k)[1], np.asarray(after.k)[1])


def test_columns_at_rest_have_not_turned_at_all():
    """Whatever rounding did to their values, so that the lowest of them come first; others are ranked by their angle."""
    rng = np.random.default_rng(0)
    old = rng.normal(0, 3, (2, 64, 2, 16)).astype(np.float32)
    new = old * (1 + rng.normal(0, 3e-6, old.shape)).astype(np.float32)
    new[:, ::8] += rng.normal(0, 0.1, new[:, ::8].shape).astype(np.float32)
    turned = np.asarray(jax.jit(turn)(new, old, jnp.ones((2, 64), bool)))
    wide = [x.astype(np.float64).reshape(2, 64, -1) for x in (new, old)]
    cosine = (wide[0] * wide[1]).sum(2) / np.sqrt((wide[0] ** 2).sum(2) * (wide[1] ** 2).sum(2))
    np.testing.assert_allclose(turned[:, ::8], 1 - cosine[:, ::8], rtol=1e-3)
    assert (np.delete(turned, np.s_[::8], axis=1) == 0).all()
    most = np.asarray(adaptive(ratio=0.25).most(turned))
    expected = sorted({*range(0, 64, 8), *[column for column in range(10) if column % 8]})
    np.testing.assert_array_equal(np.sort(most, 1), [expected] * 2)
    absent = np.asarray(turn(new, old, jnp.zeros((2, 64), bool)))
    assert (absent == -np.inf).all()


@pytest.mark.slow
def test_a_row_alone_is_the_row_in_a_batch():
    """Blocks that are finished stand still, and an edited one is decoded on without a change."""
    rows = [row["tokens"] for row in random_rows(12, longest=14)]
    lm, run = toy(2, attention="block_causal"), {"max_new": 16, "block": 4}
    together = decode(lm, rows, "llada21", "adaptive", **run)
    for index in (2, 8):
        alone = decode(lm, [rows[index]], "llada21", "adaptive", **run)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[index])
        assert alone.forwards[0] == together.forwards[index]


@pytest.mark.parametrize("wrong", [{"prompt_every": 0}, {"response_every": 1.5}, {"ratio": 1.1}, {"ratio": "all"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be"):
        adaptive(**wrong)
