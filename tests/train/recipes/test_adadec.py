"""The threshold of AdaDec: entropies by forwards of their own, the regression against its definition, the file where it fits."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize

import jaxdlm as jd
from jaxdlm import InputError
from jaxdlm.train import prompts
from jaxdlm.train.recipes import adadec
from jaxdlm.trained import ASSETS
from tests.speculative.toys import PROMPTS, model, next_logits


def drawn(count, slope=-2.0, offset=2.0, seed=0):
    random = np.random.default_rng(seed)
    h = random.uniform(0, 3, count)
    return h, random.random(count) < 1 / (1 + np.exp(-(slope * h + offset)))


def test_the_regression_is_the_one_of_its_definition():
    h, y = drawn(400)

    def loss(wb):
        z = wb[0] * h + wb[1]
        return 0.5 * wb[0] ** 2 + np.sum(np.logaddexp(0, z) - y * z)

    assert adadec.logistic(h, y.astype(float)) == pytest.approx(minimize(loss, [0, 0], tol=1e-10).x, abs=1e-4)


def test_the_threshold_is_where_the_model_is_as_often_wrong_as_right():
    """In a population that is balanced: sigmoid(-2 H + 2) is a half at 1 nat."""
    fitted = adadec.fit(*drawn(20_000))
    assert fitted.threshold == pytest.approx(1.0, abs=0.15) and fitted.right > fitted.always
    assert fitted.slope == pytest.approx(-2, abs=0.2)


def test_where_nothing_tells_the_two_apart_there_is_none():
    h, y = drawn(100)
    for best, message in [(np.ones(100, bool), "some of both kinds"), (~y, "not surer where it is right")]:
        with pytest.raises(InputError, match=message):
            adadec.fit(h, best)


@pytest.mark.slow
def test_entropies_are_those_before_each_token_of_the_answer():
    lm, pairs = model(0), [(PROMPTS[0], [5, 20, 1]), (PROMPTS[2], [7, 8]), (PROMPTS[1], [18, 19, 15])]
    entropies, best = adadec.collect(lm, pairs, batch=2)
    wanted = []
    for prompt, answer in pairs:
        for at, token in enumerate(answer):
            logits = next_logits(lm, [*prompt, *answer[:at]]).astype(np.float64)
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            wanted.append((-(p * np.log(p)).sum(), logits.argmax() == token))
    np.testing.assert_allclose(entropies, [h for h, _ in wanted], rtol=1e-4)
    assert best.tolist() == [right for _, right in wanted] and best.any() and not best.all()


def test_the_shipped_threshold_is_for_its_model_alone(tmp_path):
    stored = json.loads((ASSETS / "tiny-ar" / "adadec.json").read_text())
    policy = jd.adadec("tiny-ar")
    assert policy.search.threshold == stored["threshold"] and policy == jd.policies.read("adadec,threshold=tiny-ar")
    policy.search.check(jd.load("tiny-ar"))
    with pytest.raises(InputError, match="fitted for another model than tiny-draft: fit one with"):
        jd.decode(jd.load("tiny-draft"), [[5, 6, 7]], policy, max_new=4)
    (tmp_path / "one.json").write_text(json.dumps(stored | {"threshold": 0.5}))
    assert jd.adadec(tmp_path / "one.json").search.threshold == 0.5
    for text in ("{}", "[1]", "no JSON", '{"threshold": NaN, "target_fingerprint": ""}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad\.json holds no threshold"):
            jd.adadec(tmp_path / "bad.json")
    with pytest.raises(InputError, match="threshold='tiny-rx': must be a number of nats"):
        jd.adadec("tiny-rx")


@pytest.mark.exhaustive
def test_the_recipe_makes_the_shipped_file(tmp_path):
    record = adadec.run(jd.load("tiny-ar"), tmp_path)
    stored = json.loads((ASSETS / "tiny-ar" / "adadec.json").read_text())
    assert record.keys() == stored.keys() and record["threshold"] == pytest.approx(stored["threshold"], abs=1e-3)


def test_prompts_come_with_their_answers(tmp_path):
    file = tmp_path / "solved.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": [1, 2], "answer": "c"}\n')
    assert prompts.read_solved(file) == [("a", "b"), ([1, 2], "c")]
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match="line 1: must have the right answer, a text, under 'answer'"):
        prompts.read_solved(file)
