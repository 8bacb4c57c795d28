"""The Learn2PD recipe: trajectories and loss against slow oracles, and the shipped filter on held-out problems."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, decode, load
from jaxdlm._load import ASSETS, LM
from jaxdlm.eval.task import TASKS, make
from jaxdlm.models.params import fingerprint, init_params
from jaxdlm.rules.learn2pd import FilterWeights, end_at_text, select_by_filter, shipped_filter
from jaxdlm.rules.sample import sample
from jaxdlm.train import prompts
from jaxdlm.train.recipes import learn2pd
from tests.train.small import small_recipe

CANVAS = 8


def small_lm():
    model = small_recipe().model
    return LM(model, init_params(model.config, jax.random.key(3), loud=True), None, "small")


def slow_records(lm, prompt, answer):
    """The trajectory of one block in NumPy: commit what is right, fill the block once the proposals repeat."""
    mask = lm.config.tokens.mask
    x, last, seen = np.full(CANVAS, mask), None, []
    while (x == mask).any():
        logits = np.array(lm.logits([list(prompt) + x.tolist()])[0][len(prompt) :], np.float64)
        logits[:, mask] = logits[:, lm.config.tokens.tokenizer_size :] = -np.inf
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        proposal, c = p.argmax(1), p.max(1)
        seen.append((c, proposal == answer, x == mask))
        fill = answer if last is not None and (proposal == last).all() else np.where(proposal == answer, proposal, mask)
        x, last = np.where(x == mask, fill, x), proposal
    return seen


@pytest.mark.slow
def test_trajectories_are_those_of_the_slow_oracle():
    lm = small_lm()
    rng = np.random.default_rng(0)
    rows = [rng.integers(16, 300, 16).tolist() for _ in range(4)]  # a whole bucket: no pads
    got = learn2pd.collect(lm, rows, canvas=CANVAS, block=10, batch=4)
    answers = decode(lm, rows, "low_confidence", max_new=CANVAS, block=CANVAS).tokens
    for index, (prompt, answer) in enumerate(zip(rows, answers, strict=True)):
        expected, mine = slow_records(lm, prompt, answer), got.prompt == index
        assert mine.sum() == len(expected)
        for row, (c, right, open_) in zip(np.flatnonzero(mine), expected, strict=True):
            np.testing.assert_allclose(got.c[row, :CANVAS], c, rtol=1e-4)
            np.testing.assert_array_equal(got.right[row, :CANVAS], right)
            np.testing.assert_array_equal(got.open[row, :CANVAS], open_)
    assert len(got.c) > 6, "some proposals change as the block fills"
    assert not got.c[:, CANVAS:].any() and not got.exists[:, CANVAS:].any() and got.exists[:, :CANVAS].all()


def toy_records(count=400, width=6, seed=0):
    rng = np.random.default_rng(seed)
    c = rng.random((count, width)).astype(np.float32)
    exists = np.broadcast_to(np.arange(width) < width - 1, c.shape)
    return learn2pd.Records(c * exists, (c > 0.6) & exists, exists, exists, np.arange(count, dtype=np.int32) // 2)


@pytest.mark.slow
def test_loss_is_the_mean_over_columns_that_exist():
    records = toy_records(5)
    weights = learn2pd.init_filter(6, 0)
    w1, b1, w2, b2 = (np.asarray(leaf, np.float64) for leaf in weights)
    logit = np.maximum(records.c @ w1.T + b1, 0) @ w2.T + b2
    each = np.log1p(np.exp(np.where(records.right, -logit, logit)))
    expected = each[records.exists].mean()
    assert float(learn2pd.loss(weights, jax.tree.map(jnp.asarray, records))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_sides_share_no_prompt_and_a_fit_learns():
    sides = learn2pd.split(toy_records(), seed=1)
    of = {side: set(part.prompt.tolist()) for side, part in sides.items()}
    assert not of["train"] & of["validation"] and not of["train"] & of["test"] and not of["validation"] & of["test"]
    assert [len(part) for part in of.values()] == [160, 20, 20]
    _, curve = learn2pd.fit(sides, block=6, epochs=900, seed=0, every=300)
    assert curve[-1]["validation"] < 0.75 * curve[0]["validation"]
    assert curve[-1]["wrong_yes"] < 0.05 and curve[-1]["recall"] > 0.3


def test_prompts_from_a_file(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "sort : [ Ann ]"}\n{"prompt": [3, 4]}\n')
    assert prompts.read(file) == ["sort : [ Ann ]", [3, 4]]
    for text, message in (("{", "line 1: no JSON"), ('{"text": 1}', "line 1: must be"), ("", "no prompt")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            prompts.read(file)
    with pytest.raises(InputError, match="is no file"):
        prompts.read(tmp_path / "none.jsonl")


def test_a_filter_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no filter is shipped for 'huge'"):
        shipped_filter("huge")


def test_the_shipped_filter_belongs_to_the_shipped_model():
    record = json.loads((ASSETS / "tiny" / "learn2pd.json").read_text())
    weights = shipped_filter("tiny")
    assert record["fingerprint"] == fingerprint(load("tiny").params)
    assert record["parameters"] == sum(np.size(leaf) for leaf in weights) == 2 * 32 * 32 + 2 * 32
    assert isinstance(weights, FilterWeights) and record["test"]["0.96"]["wrong_yes"] < 0.02


@pytest.mark.slow
def test_the_shipped_filter_saves_forwards_and_keeps_answers():
    """Weak bounds: a tenth of the forwards on a canvas that is too long, 21 of 24 answers, on problems it never saw."""
    lm, policy = load("tiny"), chain(sample(), select_by_filter(shipped_filter("tiny"), 0.9), end_at_text())
    examples = [example for name in ("reverse", "replace_random", "gshuffle") for example in make(name, 8, seed=5)]
    out = decode(lm, [example.prompt for example in examples], policy, max_new=64)
    checked = zip(examples, out.tokens, strict=True)
    assert sum(TASKS[example.task].check(example, row.tolist()).correct for example, row in checked) >= 21
    assert out.forwards.mean() < 64 / 10
