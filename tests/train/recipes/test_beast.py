"""Commands and chunks as training batches, and a model that learns from them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.eval import motion
from jaxdlm.train.recipes import beast


def test_a_batch_hides_levels_of_the_chunk_that_its_command_asks_for():
    made, again = beast.batch(3, 5), beast.batch(3, 5)
    for name in made:
        np.testing.assert_array_equal(made[name], again[name])
    assert made["tokens"].shape == (64, 25) and made["target"].max() < 256
    canvas, hidden = made["tokens"][:, 5:], made["weight"] > 0
    np.testing.assert_array_equal(canvas, np.where(hidden, motion.MASK, made["target"]))
    np.testing.assert_allclose(made["weight"].sum(1), 1 / 64, rtol=1e-5)
    assert set(hidden.sum(1).tolist()) == set(range(1, 21)), "from one column to all"
    back = np.asarray(motion.decode(jnp.asarray(made["target"]), motion.STEPS, motion.JOINTS))
    levels = np.clip(np.round((back[:, [0, -1]] + 1.5) / 3 * 255), 0, 255).reshape(64, 4)
    assert abs(levels - made["tokens"][:, 1:5]).max() <= 2, "from the start to the goal of the command"


@pytest.mark.exhaustive
def test_a_short_training_answers_better_than_the_mean_chunk(tmp_path):
    lm, steps = beast.trained(tmp_path, steps=600)
    held = motion.problems(np.random.default_rng([2**31]), 32)
    mean = np.sqrt(np.mean((held.actions - held.actions.mean(0)) ** 2, axis=(1, 2))).mean()
    out = jd.decode(lm, held.command.tolist(), "low_confidence,steps=4", max_new=20, block=20, stop=False)
    assert steps == 600 and motion.error(out.tokens, held.actions).mean() < 0.7 * mean
