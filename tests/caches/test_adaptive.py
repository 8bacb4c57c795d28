"""dLLM-Cache between its limits: everything renewed, and nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout
from jaxdlm.caches.adaptive import adaptive
from jaxdlm.core import loop
from tests.caches.toys import GRID, same, toy
from tests.conformance.toys import PROMPTS, policy


def test_all_columns_and_the_prompt_renewed_is_no_cache():
    lm, renewed = toy(2), adaptive(prompt_every=1, response_every=64, ratio=1.0)
    same(decode(lm, PROMPTS, "threshold", renewed, **GRID), decode(lm, PROMPTS, "threshold", **GRID))


def test_no_column_renewed_leaves_the_outputs_of_all_layers_but_the_first():
    lm, run = toy(2), jax.jit(loop.run, static_argnames=("model", "geometry"))
    batch = layout.lay_out(lm, PROMPTS[:2], seed=0, ids=None, **GRID)
    fixed = {"params": lm.params, "policy": policy("low_confidence"), "cache": adaptive(64, 64, ratio=0.0)}
    fixed |= {"model": lm.model, "geometry": batch.geometry}
    carry = run(loop.init(batch.rows, **fixed, save="none", steps=0), jnp.int32(1), **fixed)
    later = run(carry, jnp.int32(4), **fixed)
    ((before,),), ((after,),) = carry.cache, later.cache
    for name in ("mixed", "fed"):
        old, new = np.asarray(getattr(before, name)), np.asarray(getattr(after, name))
        np.testing.assert_array_equal(old[1], new[1])
        assert (old[0] != new[0]).any(), "the first layer is always computed"
    assert (np.asarray(before.v)[1] != np.asarray(after.v)[1]).any(), "values are renewed on the way"
    np.testing.assert_array_equal(np.asarray(before.k)[1], np.asarray(after.k)[1])


@pytest.mark.parametrize("wrong", [{"prompt_every": 0}, {"response_every": 1.5}, {"ratio": 1.1}, {"ratio": "all"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be"):
        adaptive(**wrong)
