"""Calibration: its losses against definitions in float64 and finite differences, what it reads, and that it does what it says."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError
from jaxdlm.core.model import KV, ModelOutput, Tiling
from jaxdlm.train import lora, losses, prompts
from jaxdlm.train.recipes import calibrated
from jaxdlm.train.step import init_state, make_step
from tests.conformance.toy_models import model as masked
from tests.speculative.toys import END, VOCAB, model

ANSWERS = [[5, 9, 2], [7], [7, 9, 4, 2, 8], [20, 3]]


def drawn(groups=3, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(groups, size)), rng.random((groups, size))


def oracle(u, q):
    """Per group, with the standard deviations of the release."""
    z = lambda x: (x - x.mean()) / (x.std(ddof=1) + 1e-6)  # noqa: E731
    return np.array([-np.mean(z(a) * z(b)) for a, b in zip(u, q, strict=True)])


@jax.jit
def _both(u, q, valid):
    value = lambda u: losses.correlation_loss(u, q, valid)  # noqa: E731
    return value(u), jax.grad(lambda u: jnp.sum(value(u)))(u)


def loss_of(u, q, valid=None):
    valid = np.ones(u.shape, bool) if valid is None else valid
    return np.asarray(_both(np.asarray(u, np.float32), np.asarray(q, np.float32), valid)[0])


def gradient(u, q):
    return np.asarray(
        _both(np.asarray(u, np.float32), np.asarray(q, np.float32), np.ones(u.shape, bool))[1], np.float64
    )


def test_the_loss_is_minus_the_correlation():
    u, q = drawn()
    np.testing.assert_allclose(loss_of(u, q), oracle(u, q), atol=1e-6)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(u, q, strict=True)]
    np.testing.assert_allclose(loss_of(u, q), -15 / 16 * np.array(r), atol=1e-5)
    assert calibrated.pearson(u, q) == pytest.approx(np.mean(r), abs=1e-12)
    np.testing.assert_allclose(loss_of(u, 3 * u + 2), -15 / 16, atol=1e-5)
    np.testing.assert_allclose(loss_of(u, -u), 15 / 16, atol=1e-5)
    np.testing.assert_allclose(loss_of(u, 5 * q - 1), loss_of(u, q), atol=1e-5)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_allclose(loss_of(u[:, order], q[:, order]), loss_of(u, q), atol=1e-6)
    assert np.abs(loss_of(u, q[:, order]) - loss_of(u, q)).max() > 0.1


def test_its_gradient_is_that_of_differences():
    """It sums to 0 in each group and has no part along u: neither place nor scale of the likelihoods is trained."""
    u, q = drawn()
    own, step = gradient(u, q), 1e-5
    for group, place in ((0, 0), (1, 7), (2, 15)):
        away = np.zeros_like(u)
        away[group, place] = step
        wanted = (oracle(u + away, q).sum() - oracle(u - away, q).sum()) / (2 * step)
        assert own[group, place] == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(own.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose((own * (u - u.mean(1, keepdims=True))).sum(1), 0, atol=1e-5)


def test_groups_that_say_nothing_are_harmless():
    u, q = drawn(2, 5)
    for same, other in ((u, np.full_like(q, 0.25)), (np.full_like(u, -3.0), q)):
        assert not loss_of(same, other).any() and not gradient(same, other).any()
    some = np.array([[True] * 3 + [False] * 2] * 2)
    np.testing.assert_allclose(loss_of(u, q, some), oracle(u[:, :3], q[:, :3]), atol=1e-6)
    assert calibrated.pearson(u, np.full_like(q, 0.25)) == 0


def groups_of(count=1, seed=0):
    rng = np.random.default_rng(seed)
    texts = [([3, 9, 4], [(answer, float(q)) for answer, q in zip(ANSWERS, rng.random(4), strict=True)])] * count
    return calibrated.groups_of(model(0), texts)


def test_groups_have_answers_with_their_ends():
    groups = groups_of()
    for place, answer in enumerate(ANSWERS):
        stop = 3 + len(answer) + 1
        assert groups.tokens[0, place, :stop].tolist() == [3, 9, 4, *answer, END]
        assert np.flatnonzero(groups.scored[0, place]).tolist() == list(range(3, stop))
    texts = [([3], [([5], 2.0), ([6], -1.0), ([7], 0.5)]), ([4], [([5], 0.5)] * 3)]
    assert calibrated.groups_of(model(0), texts).quality.tolist() == [[1.0, 0.0, 0.5]], (
        "clipped; equal ones teach nothing"
    )
    for wrong, message in [
        ([texts[0], ([4], [([5], 0.1)])], "prompt 1 has 1 candidates, prompt 0 has 3"),
        ([([4], [([5], 0.1), ([6], 0.2)])], "give 3 or more"), ([texts[1]], "have the same quality"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            calibrated.groups_of(model(0), wrong)


def test_batches_are_whole_groups_each_once_an_epoch():
    groups = calibrated.Groups(np.arange(7)[:, None, None], np.ones((7, 1, 1), bool), np.zeros((7, 1)))
    batch_at = calibrated.batches(groups, 3)
    seen = np.concatenate([batch_at(0, step)["tokens"].ravel() for step in range(7)])
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    np.testing.assert_array_equal(batch_at(0, 4)["tokens"], batch_at(0, 4)["tokens"])
    assert (seen[:7] != seen[7:14]).any()


@dataclasses.dataclass(frozen=True)
class Table:
    """A model whose logits are a row of a table, by the last token."""

    config: object

    @property
    def tiling(self):
        return Tiling(self.config.vocab_size)

    def apply(self, params, tokens, position, valid, past=None, *, mask=None):
        nothing = jnp.zeros((1, *tokens.shape, 1, 2))
        return ModelOutput(params["table"][tokens], KV(nothing, nothing))

    def head(self, params, hidden, first=None):
        return hidden


def test_likelihoods_and_losses_are_their_definitions():
    table = np.random.default_rng(5).normal(size=(VOCAB, VOCAB))
    logp = table - np.logaddexp.reduce(table, axis=1, keepdims=True)
    lm, groups = jd.LM(Table(model(0).config), {"table": jnp.asarray(table, jnp.float32)}, None, "table"), groups_of()
    text = [[4, *answer, END] for answer in ANSWERS]
    l = np.array([[sum(logp[a, b] for a, b in zip(each, each[1:])) for each in text]])
    q = groups.quality
    np.testing.assert_allclose(calibrated.likelihoods(lm.model, lm.params, groups, 1), l, rtol=1e-5)
    padded = np.where(
        np.arange(groups.tokens.shape[2]) < 9, groups.tokens, 6
    )  # what stands behind the end says nothing
    batch = {name: jnp.asarray(part) for name, part in (groups._asdict() | {"tokens": padded}).items()}
    mean = l / np.array([len(answer) + 1 for answer in ANSWERS])
    best, worst = int(q.argmax()), int(q.argmin())
    cpo = np.log1p(np.exp(-0.1 * (l[0, best] - l[0, worst])))
    for weights, wanted in [
        ({"beta": 0.0}, -mean[0, best]),  # plain tuning on the best
        ({"alpha": 0.0}, oracle(l, q)[0]),
        ({"alpha": 0.0, "normalize": True}, oracle(mean, q)[0]),
        ({"alpha": 0.0, "beta": 0.0, "gamma": 2.0}, 2 * cpo),
        ({"gamma": 2.0}, -mean[0, best] + oracle(l, q)[0] + 2 * cpo),
    ]:
        assert float(losses.calibration(lm.model, lm.params, batch, **weights)) == pytest.approx(
            wanted, rel=1e-4, abs=1e-4
        )


@pytest.mark.exhaustive
def test_likelihoods_learn_the_order_and_the_likeliest_answer_is_the_best():
    """Four answers, the second best of which is the likeliest at first; without the correlation they stay where they were."""
    lm = model(0)
    groups = groups_of()
    u = calibrated.likelihoods(lm.model, lm.params, groups, 1)
    quality = (np.argsort(np.argsort(-u)) / 3).astype(np.float32)  # the less likely, the better
    groups = groups._replace(quality=quality)
    recipe = {"rank": 4, "count": 1, "steps": 200, "rate": 1e-2, "seed": 0}
    states = {}
    for beta in (0.0, 1.0):
        made = calibrated.recipe_of(lm, groups, **recipe, beta=beta)
        state, step = init_state(made), make_step(made)
        for number in range(200):
            state, _ = step(state, made.batch_at(0, number), jnp.float32(1e-2))
        params = lora.merge(state.params["base"], state.params["lora"], calibrated.ALPHA / 4)
        states[beta] = params, calibrated.pearson(calibrated.likelihoods(lm.model, params, groups, 1), quality)
    assert states[1.0][1] > 0.95 > states[0.0][1] > calibrated.pearson(u, quality)
    tuned = jd.LM(lm.model, states[1.0][0], None, "toy")
    best = ANSWERS[int(quality.argmax())]
    assert jd.decode(tuned, [[3, 9, 4]], jd.beam(4), max_new=6).tokens[0][: len(best)].tolist() == best


@pytest.mark.exhaustive
def test_the_recipe_writes_a_model(tmp_path):
    lm = jd.load("tiny-draft")
    asked = [f"copy : [ Alan , Kate , {name} ]" for name in ("Omar", "Lara", "Carl", "Dana")] * 3
    texts = [(text, [("[ Alan ]", 0.3), ("[ Kate , Alan ]", 0.6), ("[ Alan , Kate , Omar ]", 0.9)]) for text in asked]
    whole = calibrated.run(lm, tmp_path / "whole", texts=texts, steps=4, count=2, rate=1e-3)
    assert whole["held_out"] == 1 and whole["groups"] == 11
    assert json.loads((tmp_path / "whole" / "model" / "recipe.json").read_text()) == whole
    tuned = jd.load(tmp_path / "whole" / "model")
    assert jd.decode(tuned, asked[:1], jd.beam(2), max_new=12).text[0]
    for wrong, message in [
        ({"texts": None}, "calibrated needs --prompts FILE"), ({"texts": texts[:9]}, "give 10 or more"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            calibrated.run(lm, tmp_path / "none", **wrong)
    with pytest.raises(InputError, match="is a diffusion model: calibrated takes an autoregressive one"):
        calibrated.run(masked("same"), tmp_path / "none", texts=texts)


def test_candidates_come_with_their_scores(tmp_path):
    file = tmp_path / "scored.jsonl"
    file.write_text('{"prompt": "a", "candidates": ["b", [1, 2]], "scores": [0.5, 1]}\n')
    assert prompts.read_scored(file) == [("a", [("b", 0.5), ([1, 2], 1.0)])]
    for line, message in [
        ('{"prompt": "a"}', "line 1: must have 'candidates', two or more, and as many 'scores'"),
        ('{"prompt": "a", "candidates": ["b", "c"], "scores": [1]}', "as many 'scores'"),
        ('{"prompt": "a", "candidates": ["b", ""], "scores": [1, 2]}', "'candidates' must be texts"),
        ('{"prompt": "a", "candidates": ["b", "c"], "scores": [1, NaN]}', "'scores' must be numbers"),
    ]:
        file.write_text(line)
        with pytest.raises(InputError, match=message):
            prompts.read_scored(file)
