"""Distilled decoding's student: pairs by forwards of their own, the loss against its definition, a run that goes on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError
from jaxdlm.models import Backbone
from jaxdlm.speculative import flow
from jaxdlm.train.recipes import distilled
from jaxdlm.trained import ASSETS
from tests.speculative.toys import END, PROMPTS, model, next_logits

LENGTH, SIZE = 8, 4


def known(count=5, temperature=1.0):
    lm = model(0)
    codes = flow.codes_of(lm.params["embed"], SIZE)
    prompts = [PROMPTS[each % len(PROMPTS)] for each in range(count)]
    return (
        distilled.write(lm, prompts, codes, length=LENGTH, temperature=temperature, batch=min(count, 64)),
        prompts,
        codes,
    )


@jax.jit
def written(logits, noise, codes):
    logp = jax.nn.log_softmax(logits[None] / 0.7)
    return flow.token_of(flow.carried(noise[None], logp, codes), logp, codes)[0]


@pytest.mark.slow
def test_pairs_are_trajectories_of_the_teacher():
    pairs, prompts, codes = known(2, 0.7)
    for row, prompt in enumerate(prompts):
        text = list(prompt)
        while len(text) < len(prompt) + pairs.length[row]:
            noise = pairs.noise[row, len(text) - len(prompt)]
            text.append(int(written(next_logits(model(0), text), noise, codes)))
        assert pairs.start[row] == len(prompt)
        assert pairs.tokens[row, : len(text)].tolist() == text
        answer = text[len(prompt) :]
        assert END not in answer[:-1] and (answer[-1] == END or len(answer) == LENGTH)


@pytest.mark.slow
def test_the_loss_is_its_definition():
    """Cross-entropy of what is not written up to the end of the text, the mean of all rows together."""
    rng = np.random.default_rng(0)
    tokens, start = rng.integers(2, 23, (5, 18)).astype(np.int32), np.array([4, 1, 7, 10, 2], np.int32)
    noise = rng.normal(size=(5, LENGTH, SIZE)).astype(np.float32)
    pairs = distilled.Pairs(tokens, start, np.array([8, 3, 1, 5, 8]), noise)
    config, start = distilled.beginning(model(0), 1, SIZE)
    backbone, written = Backbone(config), np.array([0, 2, 0, 1, 7], np.int32)
    batch = {**pairs._asdict(), "written": written}

    @jax.jit
    def both(start):
        student = distilled.student_of(start, backbone, LENGTH)
        return student.logits(*map(jnp.asarray, (tokens, pairs.start, written, noise))), distilled.loss(
            backbone, start, batch
        )

    logits, value = both(start)
    logits = np.asarray(logits, np.float64)
    logp = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    own = [
        -logp[row, place, pairs.tokens[row, pairs.start[row] + place]]
        for row in range(5)
        for place in range(written[row], pairs.length[row])
    ]
    assert float(value) == pytest.approx(np.mean(own), rel=1e-5)


def test_a_student_begins_with_layers_of_its_teacher():
    lm = model(0, layers=4)
    config, start = distilled.beginning(lm, 2, SIZE)
    assert config.num_layers == 2 and start["noise"].shape == (SIZE, 24)
    for mine, theirs in zip(
        jax.tree.leaves(start["model"]["segments"]), jax.tree.leaves(lm.params["segments"]), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs[np.array([0, 2])])
    with pytest.raises(InputError, match="layers=5: must be from 1 to the 4 equal layers"):
        distilled.beginning(lm, 5, SIZE)


def test_batches_are_functions_of_their_step():
    pairs = distilled.Pairs(
        np.arange(40).reshape(10, 4), np.zeros(10, int), np.full(10, 3), np.zeros((10, 3, 2), np.float32)
    )
    batch_at = distilled.batches(pairs, 200)
    one, again, other = batch_at(0, 5), batch_at(0, 5), batch_at(0, 6)
    assert all((one[name] == again[name]).all() for name in one) and (one["tokens"] != other["tokens"]).any()
    assert set(one["written"]) == {0, 1, 2} and 0.5 < (one["written"] == 0).mean() < 0.85


@pytest.mark.exhaustive
def test_it_learns_its_pairs(tmp_path):
    """64 pairs, by heart."""
    pairs, *_ = known(64)
    fit = {"layers": 2, "rows": 64, "rate": 2e-2}
    backbone, state = distilled.fit(model(0), pairs, tmp_path / "whole", steps=240, **fit)
    student = distilled.student_of(state.params, backbone, LENGTH)
    assert distilled.agreement(student, pairs) == {"tokens": 1.0, "texts": 1.0}
    assert distilled.agreement(student, pairs, 3)["tokens"] > 0.9


@pytest.mark.exhaustive
def test_the_recipe_writes_what_decodes(tmp_path):
    lm, prompts = model(0), [PROMPTS[each % len(PROMPTS)] for each in range(distilled.HELD + 8)]
    settings = {"texts": prompts, "canvas": LENGTH, "batch": 8, "layers": 1}
    whole = distilled.run(lm, tmp_path / "whole", steps=4, **settings)
    distilled.run(lm, tmp_path / "cut", steps=4, minutes=1e-9, **settings)
    assert distilled.run(lm, tmp_path / "cut", steps=4, resume=True, **settings) == whole
    assert whole == json.loads((tmp_path / "cut" / "distilled.json").read_text())
    first, second = (jd.distilled(tmp_path / name / distilled.FILE) for name in ("whole", "cut"))
    outs = [jd.decode(lm, PROMPTS, policy, max_new=LENGTH) for policy in (first, second)]
    np.testing.assert_array_equal(outs[0].tokens, outs[1].tokens)
    with pytest.raises(InputError, match="12 prompts, of which 256 are held out"):
        distilled.run(lm, tmp_path / "few", **settings | {"texts": prompts[:12]})
    with pytest.raises(InputError, match="temperature=0: at 0 nothing is drawn"):
        distilled.run(lm, tmp_path / "cold", temperature=0, **settings)


def test_the_record_of_the_shipped_student():
    stored = json.loads((ASSETS / "tiny-ar" / "distilled.json").read_text())
    jd.distilled().search.check(jd.load("tiny-ar"))
    assert stored["length"] == jd.distilled().search.student.length == 16
    assert stored["layers"] == jd.distilled().search.student.model.config.num_layers
