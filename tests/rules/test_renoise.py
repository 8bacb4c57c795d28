"""The rules of a uniform canvas, on one row made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.core.carry import Geometry, Update
from jaxdlm.rules.renoise import anneal, renoise, stop_when_stable
from tests.rules.hand import apply, call, row

RAW = jnp.asarray(np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), jnp.float32)


def test_the_temperature_falls_from_t_max_and_never_reaches_t_min():
    for tick, temperature in ((0, 0.8), (24, 0.6), (47, 0.4 + 0.4 / 48)):
        update = apply(anneal(), RAW, row([1, 1], tick=tick))
        below = (RAW - RAW.max(1, keepdims=True)) / temperature
        np.testing.assert_allclose(update.logits, below, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(update.condition, np.exp(below) / np.exp(below).sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1e-30, [1, 0, 0]), (jnp.float32(np.inf), [0.5, 0.5, 0])], ids=repr
)
def test_temperatures_at_the_ends_are_greedy_and_uniform(temperature, expected):
    """Logits that overflow by any small temperature; a banned token stays banned by any large one."""
    raw = jnp.float32([[1e30, -1e30, -jnp.inf]] if temperature == 1e-30 else [[1e4, -1e4, -jnp.inf]])
    update = apply(anneal(t_min=temperature, t_max=temperature), raw, row([1]))
    np.testing.assert_allclose(update.condition[0], expected)
    assert update.logits[0, 2] == -np.inf


def test_what_is_not_chosen_becomes_noise_and_nothing_is_final():
    view = row([1, 1, 1, 0], tokens=[3, 3, 3, 2])
    update = Update(
        jnp.zeros((4, 5)), token=jnp.asarray([4, 4, 4, 4], jnp.int32), commit=jnp.asarray([True, False, False, False])
    )
    update, _ = call(renoise(), update, (), view)
    assert not update.commit.any()
    assert int(update.fill[0]) == 4
    assert int(update.fill[3]) == 2
    assert ((update.fill >= 0) & (update.fill < 5)).all()


def step(rule, state, best, doubt, tick):
    logits = 9 * (np.arange(5)[None, :] == np.asarray(best)[:, None]).astype(np.float32)
    score = np.full(len(best), -doubt, np.float32)
    update = Update(logits, token=np.zeros(len(best), np.int32), score=score, commit=np.zeros(len(best), bool))
    update, state = call(rule, update, state, row([1] * len(best), tick=tick))
    return bool(update.commit.all()), np.asarray(update.token).tolist(), state


def test_a_canvas_stops_when_it_holds_and_is_sure():
    rule = stop_when_stable(steps=10, kappa=0.01, history=2)
    state = rule.init(2, 5)
    for tick, (best, doubt, stops) in enumerate(
        [([1, 2], 0, False), ([1, 2], 0, False), ([1, 2], 0.01, False), ([1, 2], 0.009, True), ([1, 3], 0, False)]
    ):
        stopped, token, state = step(rule, state, best, doubt, tick)
        assert stopped == stops
        assert token == (best if stops else [0, 0])
    assert step(rule, state, [4, 4], 9.0, 9)[:2] == (True, [4, 4]), "the last forward writes the arg max"
    assert not step(rule, state, [1, 3], 0.0, 0)[0], "a new block knows nothing of the one before"
    assert int(rule.forwards(Geometry(16, 6, 3))) == 30


def test_bad_arguments():
    bad = ({"steps": 0}, {"steps": None}, {"t_min": 0.0}, {"t_min": None}, {"t_max": -1}, {"t_max": 1e31})
    for wrong in (*bad, {"kappa": -1}, {"history": 0}, {"gamma": -1}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be"):
            policies.RECIPES["entropy_bound"](**wrong)
