"""The loss against a plain NumPy one, for both predictions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.train.losses import answer_loss
from jaxdlm.train.step import init_state
from tests.train.small import small_recipe


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-ar"])
def test_weighted_cross_entropy_of_the_answer_columns(name):
    recipe = small_recipe(name)
    params, batch = init_state(recipe).params, recipe.batch_at(0, 1)
    tokens = jnp.asarray(batch["tokens"])
    position = jnp.broadcast_to(jnp.arange(48, dtype=jnp.int32)[None], tokens.shape)
    hidden = recipe.model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden
    logits = np.asarray(recipe.model.head(params, hidden), np.float64)
    want = 0.0
    for b in range(16):
        for j in range(16):
            row = logits[b, 32 + j - (name == "tiny-ar")]
            want += batch["weight"][b, j] * (np.log(np.exp(row).sum()) - row[batch["target"][b, j]])
    assert float(answer_loss(recipe.model, params, batch)) == pytest.approx(want, rel=1e-5)
