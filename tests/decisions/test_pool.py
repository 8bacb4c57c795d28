"""From readings to an answer: the arithmetic of confidences, orders, priors and temperatures, by hand and by oracle."""

import itertools
import math

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions.pool import confidence, entropy, margin, orders_of, pool, quantile
from tests.decisions.toys import exact, net, spelled

RANDOM = np.random.default_rng(0)


def softmax(z):
    e = np.exp(z - np.max(z))
    return e / e.sum()


@pytest.mark.parametrize(
    ("p", "kind", "expected"),
    [
        ([0.84, 0.1, 0.06], "choice", 0.76),
        ([0.12, 0.76, 0.12], "choice", 0.64),
        ([0.82, 0.18], "predicate", 0.64),
        ([0.1, 0.1, 0.8], "score", 0.55),
        ([0.05, 0.1, 0.3, 0.55], "score", 1 - (0.15 + 0.2 + 0.3)),
        ([0.25] * 4, "choice", 0.0),
        ([0.5, 0, 0.5], "score", 0.0),
        ([1.0], "choice", 1.0),
    ],
)
def test_confidence_of_a_choice_and_of_a_score(p, kind, expected):
    assert confidence("jev", kind, np.array(p), 0.3) == pytest.approx(expected, abs=1e-12)


def test_a_published_confidence_of_four_levels():
    """0.6958 = 1 - 0.3042, the mean distance from the mode over that of a uniform answer, which is 1 for four levels."""
    assert confidence("jev", "score", np.array([0.0, 0.0521, 0.2, 0.7479]), 1.0) == pytest.approx(
        1 - (2 * 0.0521 + 0.2)
    )
    assert confidence("jev", "score", np.array([0.0, 0.0521, 0.2, 0.7479]), 1.0) == pytest.approx(0.6958)


def test_the_other_confidences():
    p = np.array([0.7, 0.2, 0.1])
    assert confidence("mass", "choice", p, 0.5) == pytest.approx(0.35)
    assert confidence("entropy", "score", p, 0.5) == pytest.approx(1 + float((p * np.log(p)).sum()) / math.log(3))
    assert entropy(np.array([1.0, 0.0])) == 0 and margin(p) == pytest.approx(0.5)
    assert [quantile([1, 2, 5], p, q) for q in (0.05, 0.5, 0.75, 0.95)] == [1, 1, 2, 5]


def test_the_law_of_vllm():
    """Softmax over the label ids at the reply's first position; label mass: their share of the whole vocabulary's softmax;
    confidence: the top probability times it; score: Σ i·p_i. TypeSafe's confidence is another one of the same p."""
    lm, prompt, ids = net("ar"), [5, 9, 2, 30, 4, 17], [3, 9, 40]
    logits = np.asarray(lm.logits([prompt]))[0, -1].astype(np.float64)
    p, mass = softmax(logits[ids]), softmax(logits)[ids].sum()
    asked = jd.Score("q", [jd.Option(k, tokens=(token,)) for k, token in enumerate(ids)])
    vllm, jev = (jd.decide(lm, [prompt], [asked], confidence=kind)[0]["q"] for kind in ("mass", "jev"))
    assert list(vllm.probabilities.values()) == pytest.approx(p, abs=1e-6)
    assert (vllm.label_mass, vllm.confidence) == (
        pytest.approx(mass, abs=1e-6),
        pytest.approx(p.max() * mass, abs=1e-6),
    )
    assert vllm.score == pytest.approx(p @ [0, 1, 2], abs=1e-6) and vllm.top_is_label == (logits.argmax() in ids)
    distance = (p * np.abs(np.arange(3) - p.argmax())).sum() / (2 / 3)
    assert jev.confidence == pytest.approx(max(0.0, 1 - distance), abs=1e-5) and jev.probabilities == vllm.probabilities


def test_an_additive_bias_of_places_goes_away_over_the_whole_cycle():
    truth, bias = RANDOM.normal(size=5), RANDOM.normal(size=5) * 2
    asked = jd.Choice("q", list("edcba"))
    readings = []
    for order in orders_of(asked, "cyclic"):
        logits = truth.copy()
        for place, option in enumerate(order):
            logits[option] += bias[place]
        readings.append(logits)
    pooled = pool(readings)
    assert pooled.probabilities == pytest.approx(softmax(truth), abs=1e-12)
    each = [softmax(reading) for reading in readings]
    assert pooled.spread == pytest.approx(max(0.5 * np.abs(one - softmax(truth)).sum() for one in each))
    wrong = sum(one.argmax() != truth.argmax() for one in each)
    assert pooled.flips == wrong


def test_pooled_by_the_mean_probability():
    readings = [np.log([0.9, 0.1]), np.log([0.3, 0.7])]
    np.testing.assert_allclose(pool(readings, by="mean").probabilities, [0.6, 0.4], atol=1e-12)
    root = np.sqrt(np.array([0.9 * 0.3, 0.1 * 0.7]))
    np.testing.assert_allclose(pool(readings).probabilities, root / root.sum(), atol=1e-12)


def test_the_cycle_does_not_know_the_listing():
    """Every option stands at every place once, in turns of the sorted words."""
    turns = set()
    for listing in itertools.permutations("abc"):
        orders = orders_of(jd.Choice("q", list(listing)), "cyclic")
        turns.add(tuple(sorted(tuple(listing[index] for index in order) for order in orders)))
        assert sorted(order[0] for order in orders) == [0, 1, 2]
    assert len(turns) == 1
    assert orders_of(jd.Choice("q", list("abcdef")), 2) == [(0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2)]
    assert orders_of(jd.Choice("q", list("ab")), "reverse") == [(0, 1), (1, 0)]
    assert orders_of(jd.Score("q", list("abc")), "cyclic") == [(0, 1, 2), (2, 1, 0)], "levels keep their order"
    assert orders_of(jd.Predicate("q"), 7) == [(0, 1), (1, 0)]


def test_a_prior_that_adds_to_the_logits_goes_away():
    truth, prior = RANDOM.normal(size=4), RANDOM.normal(size=4)
    assert pool([truth + prior], softmax(prior)).probabilities == pytest.approx(softmax(truth), abs=1e-12)
    half = pool([truth + prior], softmax(prior), 0.5).probabilities
    assert half == pytest.approx(softmax(truth + prior / 2), abs=1e-12)
    assert np.isfinite(pool([truth], np.array([1.0, 0.0, 0.0, 0.0])).probabilities).all(), "zeros are floored"


def test_a_temperature_keeps_the_winner_and_one_changes_nothing():
    z = RANDOM.normal(size=6)
    assert pool([z]).probabilities == pytest.approx(softmax(z), abs=1e-15)
    for t in (0.05, 0.5, 3.0, 40.0):
        p = pool([z], scale=1 / t).probabilities
        assert p == pytest.approx(softmax(z / t), abs=1e-12) and p.argmax() == z.argmax()
    impossible = pool([np.array([0.0, -np.inf])], scale=0.1).probabilities
    assert impossible.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_arguments_of_the_pipeline_reach_the_answer():
    lm, asked = exact([[4, 6], [5, 6]], [0.8, 0.2]), [spelled([4], [5])]
    p = lambda **k: list(jd.decide(lm, [[1, 2, 3]], asked, **k)[0]["q"].probabilities.values())  # noqa: E731
    assert p() == pytest.approx([0.8, 0.2], abs=1e-6)
    assert p(temperature=2.0) == pytest.approx(softmax(np.log([0.8, 0.2]) / 2), abs=1e-6)
    decision = lambda **k: jd.decide(lm, [[1, 2, 3]], asked, **k)[0]["q"]  # noqa: E731
    assert decision().confidence == pytest.approx(0.6, abs=1e-6)
    assert decision(confidence="mass").confidence == pytest.approx(0.8, abs=1e-6)
    assert decision(confidence="entropy").confidence == pytest.approx(
        1 - entropy(np.array([0.8, 0.2])) / math.log(2), abs=1e-6
    )


def test_one_option_is_certain_and_nothing_is_read():
    (row,) = jd.decide(net("same"), [[3, 4]], {"q": {"type": "choice", "criteria": {"only": None}}})
    assert (row["q"].value, row["q"].probabilities, row["q"].forwards, row["q"].confidence) == (
        "only",
        {"only": 1.0},
        0,
        1.0,
    )
