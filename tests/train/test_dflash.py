"""Blocks are trained on what they will be asked: several in one forward, each as at decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.model import KV
from jaxdlm.speculative.drafters.dflash import untrained
from jaxdlm.speculative.state import Lent
from jaxdlm.speculative.warp import warp
from jaxdlm.train.recipes import dflash
from tests.speculative.drafters.test_dflash import block_logits
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import next_logits
from tests.train.test_ppd import TEXTS

DRAFTER = untrained(TARGET, warp()).borrow(Lent(TARGET.model, TARGET.params, KV((), ())))


@pytest.mark.slow
def test_blocks_are_read_as_at_decoding_and_learn_the_target_further_on():
    anchor = jnp.array([[5, 9], [7, 10]], jnp.int32)
    mine, theirs, goes_on = jax.jit(lambda: dflash.blocks(DRAFTER, TEXTS, anchor))()
    for row in range(2):
        tokens = np.asarray(TEXTS.tokens)[row].tolist()
        for place, a in enumerate(anchor[row].tolist()):
            np.testing.assert_allclose(mine[row, place], block_logits(DRAFTER, tokens[: a + 1]), rtol=1e-3, atol=1e-3)
            assert goes_on[row, place].tolist() == [a + i < int(TEXTS.stop[row]) for i in (1, 2, 3)]
            for i in (1, 2, 3):
                if goes_on[row, place, i - 1]:
                    wanted = next_logits(TARGET, tokens[: a + i])
                    np.testing.assert_allclose(theirs[row, place, i - 1], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.exhaustive
def test_a_step_lowers_the_loss():
    value = jax.jit(jax.value_and_grad(lambda leaves: dflash.loss(leaves, TEXTS, jax.random.key(0), DRAFTER, 2)))
    before, gradient = value(DRAFTER.leaves)
    after, _ = value(jax.tree.map(lambda leaf, slope: leaf - 3e-2 * slope, DRAFTER.leaves, gradient))
    assert after < before


def test_blocks_begin_where_the_answer_goes_on():
    where = np.asarray(dflash.anchors(TEXTS, jax.random.key(3), 50))
    first, stop = np.asarray(TEXTS.first)[:, None], np.asarray(TEXTS.stop)[:, None]
    assert (where >= first - 1).all() and (where <= stop - 2).all() and (where == first - 1).any()
