"""Layer reuse: below the depth only changed columns are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout
from jaxdlm.caches.layer_reuse import layer_reuse
from jaxdlm.core import loop
from jaxdlm.core.rule import Decoding
from tests.caches.toys import GRID, toy
from tests.conformance.toys import PROMPTS, policy


@pytest.mark.slow
def test_between_key_steps_only_written_columns_enter_the_upper_layers_anew():
    lm, run = toy(2), jax.jit(loop.run)
    batch = layout.lay_out(lm, PROMPTS[:2], seed=0, ids=None, **GRID)
    kept = layer_reuse(1, keys=(0,))
    decoding = Decoding(lm.model, lm.params, policy("low_confidence"), kept, batch.geometry)
    carries = [loop.init(batch.rows, decoding, "none")]
    for trip in (1, 2, 3):
        carries.append(run(carries[-1], jnp.int32(trip), decoding))
    for key, before, after in zip((True, False, False), carries[:-1], carries[1:], strict=True):
        written = np.asarray(before.rows.tokens) != np.asarray(before.cache.tokens)
        changed = (np.asarray(before.cache.hidden) != np.asarray(after.cache.hidden)).any(2)
        np.testing.assert_array_equal(changed & (not key), written & (not key))
        np.testing.assert_array_equal(np.asarray(after.cache.tokens), np.asarray(before.rows.tokens))
    assert written.sum() == 2, "one column per row and forward"


def test_a_depth_of_the_whole_model_is_refused():
    with pytest.raises(InputError, match="depth=2: the model has 2 layers"):
        decode(toy(2), PROMPTS, "threshold", layer_reuse(2), **GRID)


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"depth": 1.0}, {"keys": (0, 1.5)}, {"keys": (1, 2)}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        layer_reuse(**wrong)
