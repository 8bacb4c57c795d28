"""ReCAP's groups: which columns a local forward reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout
from jaxdlm.caches.dual import dual
from jaxdlm.caches.recap import recap
from jaxdlm.core.cache import Context
from tests.caches.toys import GRID, SAME, same, toy
from tests.conformance.toys import MASK, PROMPTS


@pytest.mark.slow
@SAME
def test_a_group_of_a_whole_block_is_the_dual_cache(prediction):
    """All columns of a block are open at its first forward, so that its targets are the block."""
    lm = toy(2, prediction)
    same(decode(lm, PROMPTS, "threshold", recap(local=99), **GRID), decode(lm, PROMPTS, "threshold", dual(), **GRID))


@pytest.mark.slow
def test_targets_are_the_surest_open_columns_of_the_block():
    lm = toy(2)
    batch = layout.lay_out(lm, PROMPTS[:2], seed=0, ids=None, canvas=[[4], [MASK] * 5 + [7]], **GRID)
    rows = batch.rows._replace(block=jnp.array([0, 1], jnp.int32))
    hidden = jax.random.normal(jax.random.key(0), (2, GRID["block"], 32))
    start = batch.geometry.prompt + GRID["block"] * rows.block
    context = Context(lm.model, lm.params, batch.geometry, GRID["block"])
    chosen = np.asarray(recap(targets=2).choose(context, rows, hidden, start))
    sure = np.asarray(jax.nn.softmax(lm.model.head(lm.params, hidden).at[..., MASK].set(-jnp.inf))).max(2)
    sure[0, 0] = sure[1, 1] = -1  # given
    for row in range(2):
        best = int(start[row]) + np.argsort(-sure[row])[:2]
        assert set(np.flatnonzero(chosen[row])) == set(best)


@pytest.mark.parametrize("wrong", [{"local": -1}, {"targets": 0}, {"targets": 2.0}, {"warmup": 0.5}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be a whole number"):
        recap(**wrong)
