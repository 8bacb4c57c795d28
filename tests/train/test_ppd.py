"""Prompt tokens are trained on what they will be asked: the same forward as at decoding, the target's own words behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.train.recipes import ppd
from tests.speculative.test_jacobi import lattice
from tests.speculative.test_loop import TARGET
from tests.speculative.test_ppd import guesses
from tests.speculative.toys import END, PROMPTS, expected

TEXTS = ppd.Texts(
    jnp.array([[*PROMPTS[0], *expected(3)[0]][:14], [*PROMPTS[2], *expected(3)[2]][:14]], jnp.int32),
    jnp.array([4, 7], jnp.int32), jnp.array([14, 12], jnp.int32),
)  # fmt: skip
CUT = jnp.array([[5, 9], [8, 10]], jnp.int32)
ROWS = TARGET.params["embed"][jnp.array([2, 7, 5])]


@pytest.mark.slow
def test_prompt_tokens_are_read_as_at_decoding():
    """Several cuts at once, none of which sees another or the text behind it."""
    mine, _, goes_on = jax.jit(ppd.both, static_argnums=3)(ROWS, TEXTS, CUT, TARGET.model, TARGET.params)
    for row in range(2):
        for place, cut in enumerate(CUT[row].tolist()):
            known = TEXTS.tokens[row, :cut].tolist()
            np.testing.assert_allclose(mine[row, place], guesses(known, 3, ROWS), rtol=1e-4, atol=1e-4)
            assert goes_on[row, place].tolist() == [cut + j + 1 < int(TEXTS.stop[row]) for j in range(3)]


@pytest.mark.slow
def test_targets_are_the_tokens_further_on():
    """Of a target that counts: behind a cut that ends in c the j-th prompt token learns c + 1 + j."""
    table = np.full((1, 24, 24), -9.0)
    table[0, np.arange(24), (np.arange(24) + 1) % 24] = 9.0
    counting = lattice(table)
    texts = ppd.Texts(jnp.arange(3, 13, dtype=jnp.int32)[None], jnp.array([3], jnp.int32), jnp.array([10], jnp.int32))
    params = {"embed": jnp.zeros((24, 2)), "table": counting.params}

    class Counting(type(counting.model)):
        def head(self, params, hidden, first=None):
            return super().head(params["table"], hidden, first)

    _, theirs, _ = ppd.both(jnp.zeros((3, 2)), texts, jnp.array([[4, 6]]), Counting(counting.config), params)
    assert theirs.argmax(-1).tolist() == [[[8, 9, 10], [10, 11, 12]]]


@pytest.mark.slow
def test_a_step_lowers_the_loss_and_moves_nothing_else():
    value = lambda rows: ppd.loss(rows, TEXTS, CUT, TARGET.model, TARGET.params)  # noqa: E731
    before, gradient = jax.jit(jax.value_and_grad(value))(ROWS)
    assert jax.jit(value)(ROWS - 1e-2 * gradient) < before
    assert END not in TEXTS.tokens[0, :5].tolist()
