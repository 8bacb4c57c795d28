"""Training: the loss falls, a resumed run equals an uninterrupted one, frozen leaves stay."""

import json

import jax
import numpy as np
import pytest

from jaxdlm.train.step import Budget, init_state, learning_rate, load_state, make_step, place, save_state, train
from tests.marks import exhaustive
from tests.train.small import small_recipe


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", exhaustive("tiny-ar")])
def test_a_few_steps_reduce_the_loss(name, tmp_path):
    train(small_recipe(name), tmp_path, Budget(40), every=5)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == list(range(5, 41, 5))
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]
    assert curve[-1]["tokens"] == 40 * 16 * 48


@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path):
    recipe = small_recipe()
    whole = train(recipe, tmp_path / "whole", Budget(6))

    # the same schedule, cut after three steps, and taken up again from the files
    state, step_fn = init_state(recipe), make_step(recipe)
    for step in range(3):
        state, batch = place(state, recipe.batch_at(recipe.seed, step))
        state, _ = step_fn(state, batch, np.float32(learning_rate(recipe, step, step / 6)))
    save_state(tmp_path / "cut", state)
    resumed = train(recipe, tmp_path / "cut", Budget(6), resume=True)
    assert int(resumed.step) == 6
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(leaves(load_state(tmp_path / "cut", init_state(recipe))), leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_rows_are_split_over_the_devices_and_one_device_gives_the_same():
    recipe = small_recipe()
    state, batch = place(init_state(recipe), recipe.batch_at(0, 0))
    assert len(batch["tokens"].sharding.device_set) == len(jax.devices())
    split = recipe.loss_fn(recipe.model, state.params, batch)
    alone = recipe.loss_fn(recipe.model, init_state(recipe).params, recipe.batch_at(0, 0))
    np.testing.assert_allclose(float(split), float(alone), rtol=1e-5)


@pytest.mark.slow
def test_only_trainable_paths_move():
    recipe = small_recipe(trainable=r".*/(up|down)")
    state, batch = place(init_state(recipe), recipe.batch_at(0, 0))
    before = jax.tree.map(np.asarray, state.params)
    after, _ = make_step(recipe)(state, batch, np.float32(0.01))
    moved = {
        str(path[-1].key)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after.params), strict=True)
        if not np.array_equal(a, np.asarray(b))
    }
    assert moved == {"up", "down"}


def test_schedule_and_budget():
    recipe = small_recipe()
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(recipe.peak_lr / 5)
    assert learning_rate(recipe, 100, 1.0) == pytest.approx(0.05 * recipe.peak_lr)
    assert Budget(10).progress(5, 1e9) == 0.5
    assert Budget(10, minutes=1.0).progress(1, 30.0) == 0.5
