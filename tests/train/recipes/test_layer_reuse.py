"""Key steps that are learned: greedily, from what each brings back, and no more than are needed."""

import json

import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.train.recipes import layer_reuse
from tests.conformance.toy_models import model


@pytest.fixture
def worth(monkeypatch):
    """Each key step brings back its share of the columns, whichever others are there."""
    monkeypatch.setattr(layer_reuse._decode, "decode", lambda *args, **run: type("Out", (), {"tokens": np.zeros(1)}))
    gains, asked = {1: 0.05, 2: 0.2, 3: 0.2, 4: 0.1}, []

    def agreement(lm, texts, keys, depth, run, wanted):
        asked.append(list(keys))
        return 0.5 + sum(gains.get(key, 0.0) for key in set(keys))

    monkeypatch.setattr(layer_reuse, "agreement", agreement)
    return asked


def test_the_step_that_brings_back_most_comes_first_and_the_lowest_of_equals(worth):
    keys, curve = layer_reuse.learn(None, ["x"], canvas=8, block=5, depth=1, most=3)
    assert keys == [0, 2, 3, 4] and [row["keys"] for row in curve] == [[0], [0, 2], [0, 2, 3], [0, 2, 3, 4]]
    assert [row["agree"] for row in curve] == pytest.approx([0.5, 0.7, 0.9, 1.0])
    assert {len(each) for each in worth} == {4}, "schedules of one length share a program"


def test_what_agrees_already_needs_no_further_step(worth, tmp_path):
    assert layer_reuse.learn(None, ["x"], canvas=8, block=5, depth=1, most=0)[0] == [0]
    record = layer_reuse.run(model("same"), tmp_path, texts=["a"] * 3, canvas=5, steps=4)
    assert record["keys"] == [0, 2, 3, 4] and record["depth"] == 1 and record["agree"] == 1.0
    assert json.loads((tmp_path / "layer_reuse.json").read_text()) == record
    with pytest.raises(InputError, match="depth=2: toy-same has 2 layers"):
        layer_reuse.run(model("same"), tmp_path, texts=["a"], depth=2)
