"""The shipped models: made by the recipes of this package, and as good as their notes say."""

import json

import jax
import jax.numpy as jnp
import pytest

from jaxdlm._load import ASSETS, load
from jaxdlm.errors import InputError
from jaxdlm.eval.task import TASKS
from jaxdlm.models.params import abstract_params
from jaxdlm.train.data import PROMPT_LENGTHS
from jaxdlm.train.export import data_hash
from jaxdlm.train.measure import accuracy
from jaxdlm.train.recipes.tiny import MASKED_EARLY, MASKED_LATE, pick, recipe

NAMES = ("tiny", "tiny-ar", "tiny-draft")


@pytest.mark.parametrize("name", NAMES)
def test_notes_name_the_data_that_the_recipe_makes(name):
    notes = json.loads((ASSETS / name / "recipe.json").read_text())
    assert notes["recipe"] == name and notes["steps"] > 0 and notes["tokens"] > 0
    assert notes["data"] == data_hash(recipe(name, notes["seed"]))
    assert set(notes["gate_passed"]) == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_shapes_are_those_of_the_recipe(name):
    lm = load(name)
    assert lm.config == recipe(name).model.config
    shapes = jax.tree.map(lambda leaf: leaf.shape, abstract_params(lm.config))
    assert jax.tree.map(jnp.shape, lm.params) == shapes


def test_shipped_files_stay_small():
    """What is trained for a model by itself, and all together."""
    sizes = {file: file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()}
    assert all(size < 6 * 10**6 for file, size in sizes.items() if file.name != "model.safetensors")
    assert sum(sizes.values()) < 19 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "least"), [("tiny", "reverse", 0.85), ("tiny", "shuffle", 0.85), ("tiny-ar", "copy", 0.85)]
)
def test_held_out_accuracy_at_one_token_per_step(name, task, least):
    lm = load(name)
    table = accuracy(lm.model, lm.params, [task], n=24, seed=11)
    assert table[task]["correct"] >= least, table


def test_buckets_hold_their_shares_in_every_window():
    for buckets in (MASKED_EARLY, MASKED_LATE):
        assert sum(bucket.share for bucket in buckets) == pytest.approx(1)
        assert {bucket.prompt for bucket in buckets} <= set(PROMPT_LENGTHS)
        picked = [pick(buckets, step) for step in range(300, 500)]
        for bucket in buckets:
            assert picked.count(bucket) / 200 == pytest.approx(bucket.share, abs=0.02)


def test_unknown_recipes_are_named():
    with pytest.raises(InputError, match="recipe 'huge'"):
        recipe("huge")
