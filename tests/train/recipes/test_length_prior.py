"""The counting head: labels from answers, a fit that knows what it does not know, and the file that it is kept in."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.lengths import quantile_columns, read_head
from jaxdlm.train.recipes import length_prior
from tests.conformance.toy_models import END, model


def test_labels_count_up_to_the_end_of_each_answer(monkeypatch):
    tokens = np.array([[5, END, 0, 0], [END, 1, END, 2], [3, 4, 5, 6]])
    out = types.SimpleNamespace(tokens=tokens, ends=(END,))
    monkeypatch.setattr(length_prior._decode, "decode", lambda lm, texts, **run: out)
    assert length_prior.lengths(None, ["a", "b", "c"], 4).tolist() == [2, 1, 5]


@pytest.mark.slow
def test_a_head_learns_lengths_and_how_sure_it_may_be():
    """Length 3 or 7 by the sign of one number; where another is large it is either of 5 and 6."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (600, 8)).astype(np.float32)
    label = np.where(x[:, 1] > 0.5, rng.integers(5, 7, 600), np.where(x[:, 0] > 0, 3, 7)).astype(np.int32)
    head, curve = length_prior.fit(x[:500], label[:500], (x[500:], label[500:]), classes=9, steps=100, seed=0)
    assert curve[0]["validation"] < np.log(9) and min(row["validation"] for row in curve) < 0.7
    made = length_prior.figures(head, x[500:], label[500:], 0.95)
    assert made["fit"] > 0.9 and made["canvas"] >= 8
    logits = np.asarray(length_prior.length_logits(head, jnp.asarray(x[500:])))
    sure = (x[500:, 1] < 0) & (x[500:, 0] > 0.5)
    assert (quantile_columns(logits, 0.5)[sure] == 3).mean() > 0.9


def test_the_file_is_read_back_and_belongs_to_its_model(tmp_path):
    lm = model("same")
    head = length_prior.start(np.random.default_rng(0).normal(0, 1, (4, 64)).astype(np.float32), 6, 1)
    length_prior.save(head, tmp_path / "x.safetensors", lm)
    for old, new in zip(head, read_head(str(tmp_path / "x.safetensors"), lm), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(InputError, match="another model"):
        read_head(str(tmp_path / "x.safetensors"), model("next"))
