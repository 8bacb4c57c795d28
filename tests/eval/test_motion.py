"""Trajectories as tokens: against SciPy's B-splines and least squares, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline

from jaxdlm import InputError
from jaxdlm.eval import motion
from jaxdlm.eval.motion import RIDGE, basis, codec, decode, encode, error, problems

RNG = np.random.default_rng(0)


def scipy_basis(steps, bases):
    knots = np.concatenate([np.zeros(3), np.linspace(0, 1, bases - 2), np.ones(3)])
    return BSpline.design_matrix(np.linspace(0, 1, steps), knots, 3).toarray()


@pytest.mark.parametrize(("steps", "bases"), [(50, 10), (7, 4), (33, 12), (2, 5)])
def test_the_basis_is_scipys(steps, bases):
    np.testing.assert_allclose(basis(steps, bases), scipy_basis(steps, bases), atol=1e-6)
    np.testing.assert_allclose(basis(steps, bases).sum(1), 1, atol=1e-6)


def slow_tokens(actions, form):
    """Ridge regression as least squares with more rows, the first control point given."""
    phi, tokens = scipy_basis(len(actions), form.bases), []
    for joint in actions.T.astype(np.float64):
        rest, target = phi[:, 1:], joint - phi[:, 0] * joint[0]
        rows = np.concatenate([rest, np.sqrt(RIDGE) * np.eye(form.bases - 1)])
        points = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(form.bases - 1)]), rcond=None)[0]
        points = np.concatenate([[joint[0]], points])
        tokens.append(
            np.clip(np.round((points - form.low) / (form.high - form.low) * (form.levels - 1)), 0, form.levels - 1)
        )
    return np.stack(tokens, axis=1).reshape(-1).astype(int)


def test_encoding_is_ridge_regression_and_decoding_a_spline():
    form, actions = codec(), problems(RNG, 12).actions
    tokens = np.asarray(encode(jnp.asarray(actions), form))
    wanted = np.stack([slow_tokens(each, form) for each in actions])
    assert tokens.shape == (12, 20) and abs(tokens - wanted).max() <= 1 and (tokens != wanted).mean() < 0.02, (
        "halves round"
    )
    points = form.low + tokens.reshape(12, 10, 2) / 255 * 3
    knots = np.concatenate([np.zeros(3), np.linspace(0, 1, 8), np.ones(3)])
    spline = BSpline(knots, np.moveaxis(points, 1, 0), 3)(np.linspace(0, 1, 50))
    np.testing.assert_allclose(decode(jnp.asarray(tokens), 50, 2, form), np.moveaxis(spline, 0, 1), atol=1e-5)


def test_there_and_back_costs_a_level_or_so_and_chunks_join():
    actions = problems(RNG, 50).actions
    tokens = np.asarray(encode(jnp.asarray(actions)))
    assert error(tokens, actions).mean() < 0.01, "a level is 3 / 255"
    back = np.asarray(decode(jnp.asarray(tokens), 50, 2))
    assert abs(back[:, 0] - actions[:, 0]).max() <= 1.5 / 255 + 1e-6, "the first action is a control point"
    again = np.asarray(encode(jnp.asarray(back)))
    assert abs(again - tokens).max() <= 1
    assert error(tokens, actions + 1).mean() == pytest.approx(1, abs=0.05)


def test_both_are_pure_and_differ_in_nothing_for_a_row_alone():
    actions = jnp.asarray(problems(RNG, 3).actions)
    np.testing.assert_array_equal(encode(actions)[1:2], encode(actions[1:2]))
    assert jax.eval_shape(lambda x: decode(encode(x), 50, 2), actions).shape == (3, 50, 2)


def test_a_command_says_where_to_and_how():
    made = problems(np.random.default_rng(1), 200)
    assert made.command.shape == (200, 5) and set(made.command[:, 0].tolist()) == set(range(motion.STYLE, motion.SIZE))
    levels = np.round((made.actions[:, [0, -1]] + 1.5) / 3 * 255).astype(int).reshape(200, 4)
    np.testing.assert_array_equal(made.command[:, 1:], levels)
    assert abs(made.actions).max() < 1.5
    straight = made.actions[made.command[:, 0] == motion.STYLE]
    middle = straight[:, [24, 25]].mean(1)
    np.testing.assert_allclose(middle, straight[:, [0, -1]].mean(1), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"bases": 3}, "bases=3"), ({"levels": 1}, "levels=1"), ({"low": 2}, "low=2.0 is not below high=1.5")],
)
def test_bad_codecs(wrong, message):
    with pytest.raises(InputError, match=message):
        codec(**wrong)
