"""Temperatures are found again, the file belongs to one model and one question, and metrics are what they say."""

import dataclasses
import json

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import calibrate, metrics
from jaxdlm.eval import plots
from tests.decisions.toys import net, spelled

RANDOM = np.random.default_rng(1)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(p):
    return (RANDOM.random((len(p), 1)) > p.cumsum(1)).sum(1)


def test_the_temperature_of_the_labels_is_found():
    z = RANDOM.normal(size=(4000, 5)) * 6
    y = drawn(softmax(z / 3))
    fit = calibrate._fit(jd.Choice("q", list("abcde")), z, y, prior=False)
    assert fit.temperature == pytest.approx(3, rel=0.06) and not fit.at_bound
    assert fit.nll_after < fit.nll_before
    nearby = [fit.temperature * factor for factor in (0.98, 1, 1.02)]
    grid = [-np.log(softmax(z / t))[np.arange(len(y)), y].mean() for t in nearby]
    assert grid[1] == min(grid), "it is the least"


def test_yes_and_no_have_a_bias_too():
    logit = RANDOM.normal(size=8000) * 3
    yes = RANDOM.random(8000) < 1 / (1 + np.exp(-(0.5 * logit + 1)))
    z = np.stack([logit, np.zeros_like(logit)], axis=1)
    fit = calibrate._fit(
        jd.Predicate("q"), z - np.logaddexp.reduce(z, axis=1)[:, None], np.where(yes, 0, 1), prior=False
    )
    assert (1 / fit.temperature, fit.bias) == (pytest.approx(0.5, abs=0.04), pytest.approx(1, abs=0.1))


def test_labels_that_are_separated_run_to_the_bound():
    z = np.log(softmax(RANDOM.normal(size=(50, 3)) * 4))
    for question, values in ((jd.Choice("q", list("abc")), z), (jd.Predicate("q"), z[:, :2])):
        fit = calibrate._fit(question, values, values.argmax(1), prior=False)
        assert fit.at_bound and np.isfinite([fit.temperature, fit.bias, fit.nll_after]).all()


def answered(lm, count=12):
    prompts = [[3 + index, 9, 7 + 2 * index] for index in range(count)]
    return prompts, [spelled([3], [4], [9])]


def test_a_file_goes_round_and_changes_the_answers(tmp_path):
    lm = net("same")
    prompts, asked = answered(lm)
    raw = jd.decide(lm, prompts, asked)
    truths = [{"q": "o0"} if index % 3 else {"q": "o2"} for index in range(len(prompts))]
    fitted = calibrate.fit(lm, raw, truths, prior=True)
    fitted.save(tmp_path / "cal.json")
    assert calibrate.read(tmp_path / "cal.json") == fitted
    answers = jd.decide(lm, prompts, asked, calibration=str(tmp_path / "cal.json"))
    (fit,) = fitted.fits.values()
    z = np.array([row["q"].logits for row in raw])
    expected = softmax((z - np.log(fit.prior)) / fit.temperature)
    found = np.array([list(row["q"].probabilities.values()) for row in answers])
    assert found == pytest.approx(expected, abs=1e-9)
    assert fit.prior == pytest.approx(np.exp(z).mean(0)) and fit.n == len(prompts)
    assert answers[0].reader != raw[0].reader and answers[0].reading == raw[0].reading


def test_it_is_refused_for_anything_else(tmp_path):
    lm = net("same")
    prompts, asked = answered(lm)
    fitted = calibrate.fit(lm, jd.decide(lm, prompts, asked), [{"q": "o1"}] * len(prompts))
    refused = [
        (net("same", seed=2), asked, {}, "belongs to another model than net-same"),
        (lm, [spelled([3], [5])], {}, "row 0, question 'q': the calibration has no such question"),
        (lm, asked, {"read": "text"}, "fitted with other read, law, orders or templates"),
        (lm, asked, {"temperature": 2.0}, "temperature=2.0 means nothing beside a calibration"),
    ]
    for model, questions, more, message in refused:
        with pytest.raises(jd.InputError, match=message):
            jd.decide(model, prompts[:1], questions, calibration=fitted, **more)
    other = json.dumps(json.loads(fitted.text()) | {"version": 9})
    hotter, nameless = (
        json.dumps(json.loads(fitted.text()) | {"questions": {asked[0].fingerprint: kept | change}})
        for kept in [json.loads(fitted.text())["questions"][asked[0].fingerprint]]
        for change in ({"temperature": 1e-300}, {"name": 5})
    )
    for text in ("", "{}", "[]", other, hotter, nameless, fitted.text().replace('"bias": 0.0', '"bias": NaN')):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(jd.InputError, match="is not one of jaxdlm decide --calibrate"):
            jd.decide(lm, prompts[:1], asked, calibration=tmp_path / "bad.json")
    fit = dataclasses.replace(fitted.fits[asked[0].fingerprint], prior=(1.0,))
    with pytest.raises(
        jd.InputError, match=r"row 0, question 'q': the calibration's prior has 1 shares for \d options"
    ):
        jd.decide(lm, prompts[:1], asked, calibration=dataclasses.replace(fitted, fits={asked[0].fingerprint: fit}))
    with pytest.raises(jd.InputError, match="row 3: the label 'o9' of 'q' is none of its options"):
        calibrate.fit(lm, jd.decide(lm, prompts, asked), [{"q": "o0"}] * 3 + [{"q": "o9"}] * 9)
    with pytest.raises(jd.InputError, match="no row has both an answer and a label"):
        calibrate.fit(lm, jd.decide(lm, prompts, asked), [{}] * len(prompts))


def test_metrics_by_hand():
    p, y = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1])
    found = metrics.quality(p, y, draws=2)
    assert found.accuracy == pytest.approx(2 / 3) and found.nll == pytest.approx(-np.log([0.8, 0.4, 0.7]).mean())
    assert found.brier == pytest.approx((2 * 0.04 + 2 * 0.36 + 2 * 0.09) / 3)
    assert found.ece == pytest.approx((abs(0.8 - 1) + abs(0.6 - 0) + abs(0.7 - 1)) / 3)


def test_calibration_error_does_not_depend_on_the_order_of_ties():
    top = RANDOM.choice([0.5, 0.7, 0.9], size=300)
    right = RANDOM.random(300) < top
    order = RANDOM.permutation(300)
    assert metrics.ece(top, right) == pytest.approx(metrics.ece(top[order], right[order]), abs=1e-12)
    gaps = [abs(right[top == value].sum() - top[top == value].sum()) for value in (0.5, 0.7, 0.9)]
    assert metrics.ece(top, right) == pytest.approx(sum(gaps) / 300)


def test_a_calibrated_model_shows_its_floor():
    for count, low, high in ((100, 0.1, 0.18), (2000, 0.02, 0.04)):
        p = softmax(RANDOM.normal(size=(count, 4)) * 1.5)
        found = metrics.quality(p, drawn(p), draws=50)
        assert low < found.floor < high
        assert abs(found.ece - found.floor) < 0.6 * found.floor


def test_bins_of_a_reliability_chart_are_those_of_the_error():
    p = softmax(RANDOM.normal(size=(400, 3)) * 2)
    y = drawn(p)
    top, right = p.max(1), p.argmax(1) == y
    bins = metrics.reliability(top, right)
    assert sum(each.n for each in bins) == 400 and [each.p for each in bins] == sorted(each.p for each in bins)
    gap = sum(each.n * abs(each.accuracy - each.p) for each in bins) / 400
    assert gap == pytest.approx(metrics.ece(top, right), abs=1e-12)
    assert all(0 <= each.low <= each.accuracy <= each.high <= 1 for each in bins)
    one = metrics.reliability(np.full(10, 0.5), np.arange(10) < 8)
    assert one == [(10, 0.5, 0.8, pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))], (
        "Wilson's interval"
    )
    found = metrics.quality(p, y)
    assert found.low <= found.high and found.low < found.ece + found.floor
    spec = plots.reliability("shares", bins)
    assert len(spec["layer"][1]["data"]["values"]) == len(bins)
