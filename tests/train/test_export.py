"""Exported folders: they load, hold what was trained (rounded), and speak the benchmark's vocabulary."""

import json

import jax
import numpy as np
import pytest

from jaxdlm._load import load
from jaxdlm.errors import InputError
from jaxdlm.eval.task import TASKS, make
from jaxdlm.eval.tasks import vocab
from jaxdlm.train.data import prompt_ids
from jaxdlm.train.export import curve_picture, export, rounded
from jaxdlm.train.step import init_state
from tests.train.small import small_recipe


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    recipe = small_recipe()
    state = init_state(recipe)
    export(recipe, state, folder)
    return folder, recipe, state


def test_the_folder_loads_as_it_was_trained(exported):
    folder, recipe, state = exported
    lm = load(folder, dtype="float32")
    assert lm.config == recipe.model.config
    for a, b in zip(jax.tree.leaves(rounded(state.params)), jax.tree.leaves(lm.params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    notes = json.loads((folder / "recipe.json").read_text())
    assert notes["seed"] == 0 and len(notes["data"]) == 16


def test_the_tokenizer_reads_and_writes_every_task(exported):
    tokenizer = load(exported[0]).tokenizer
    for name in TASKS:
        for example in make(name, 6, "train"):
            ids = vocab.encode(vocab.words(example.answer))
            assert tokenizer.encode(example.answer) == ids
            assert tokenizer.decode([*ids, vocab.EOS, vocab.EOS]) == example.answer
            assert tokenizer.encode_prompt(example.prompt) == prompt_ids(tuple(vocab.words(example.prompt)))


def test_close_writing_is_read_and_unknown_words_are_named(exported):
    tokenizer = load(exported[0]).tokenizer
    assert tokenizer.encode_prompt("reverse: [Alan,Kate]") == tokenizer.encode_prompt("reverse : [ Alan , Kate ]")
    with pytest.raises(InputError, match="'hello'"):
        tokenizer.encode_prompt("hello")
    with pytest.raises(InputError, match="mask"):
        tokenizer.encode_prompt("copy <mask>")


def test_curve_picture(tmp_path):
    rows = [{"loss": 4.0, "tokens": 100}, {"loss": 0.5, "tokens": 2000000}]
    (tmp_path / "curve.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture = curve_picture(tmp_path / "curve.jsonl")
    assert picture.startswith("<svg") and "2.0 M tokens" in picture
