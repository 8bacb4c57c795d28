"""Layer reuse: below the depth only changed columns are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, layout
from jaxdlm.caches.layer_reuse import SCHEDULES, layer_reuse
from jaxdlm.core import loop
from jaxdlm.core.carry import Rows
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


def due(cache, steps=100):
    zero = jnp.zeros(steps, jnp.int32)
    rows = dict.fromkeys(Rows._fields, zero) | {"tick": jnp.arange(steps, dtype=jnp.int32)}
    return np.flatnonzero(cache.due(Rows(**rows))).tolist()


def test_the_released_schedules_are_those_of_their_conditions():
    """As the released code asks them of a step."""
    conditions = {
        "50ls": lambda s: s in (0, 1, 2, 3, 5, 10, 15, 25, 35), "50ls2": lambda s: s in (0, 10, 11, 12, 15, 20, 25, 30, 35, 45),
        "50ls3": lambda s: s in (0, 20, 25, 30, 35, 45, 46, 47, 48, 49),
        "50ls4": lambda s: s in (0, 9, 13, 14, 15, 28, 29, 32, 36), "75ls": lambda s: s < 75 and (s > 65 or s < 10 or s % 5 == 0),
        "75ls2": lambda s: s in (0, 1, 2, 3, 5, 10, 15, 25, 35, 45, 55, 65),
        "100ls": lambda s: s > 85 or s < 10 or s % 5 == 0, "pro": lambda s: int((9 + 8 * s) ** 0.5) ** 2 == 9 + 8 * s,
    }  # fmt: skip
    assert set(conditions) == set(SCHEDULES)
    for name, condition in conditions.items():
        assert due(layer_reuse(keys=name)) == [step for step in range(100) if condition(step)], name
    assert due(layer_reuse(keys=7)) == list(range(0, 100, 7)) == due(layer_reuse(keys=jnp.int32(7)))
    assert due(layer_reuse()) == due(layer_reuse(keys="50ls"))


def test_a_learned_schedule_is_read_where_it_lies(tmp_path):
    learned = layer_reuse(keys="tiny")
    assert learned.keys[0] == 0 and due(learned, 16) == list(learned.keys)
    (tmp_path / "own.json").write_text('{"keys": [0, 4]}')
    assert due(layer_reuse(keys=str(tmp_path / "own.json"))) == [0, 4]
    for text, message in (('{"keys": [1]}', "keys must hold 0"), ("{", "holds no key steps"), ('{"a": 1}', "holds no key steps"),
                          ('{"keys": [0, -1]}', r"keys\[1\]")):  # fmt: skip
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=message):
            layer_reuse(keys=str(tmp_path / "bad.json"))
    with pytest.raises(InputError, match="keys='60ls': must be key steps, a number, one of 50ls"):
        layer_reuse(keys="60ls")


@pytest.mark.parametrize(
    "wrong", [{"keys": None}, {"keys": 0}, {"depth": -1}, {"depth": 1.0}, {"keys": (0, 1.5)}, {"keys": (1, 2)}]
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        layer_reuse(**wrong)
