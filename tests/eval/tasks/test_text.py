"""Sentences: exact probabilities against counts, agreement errors rejected."""

import collections
import math
import random

import pytest

from jaxdlm.eval.task import TASKS, make
from jaxdlm.eval.tasks import text


def test_probabilities_match_frequencies():
    """Shapes of sentences (word classes) occur as often as their probability, summed over the words, says."""
    rng = random.Random(0)
    draws = [text.sentence(rng) for _ in range(6000)]
    quoted = sum(draw[1] == "says" for draw in draws) / len(draws)
    assert quoted == pytest.approx(text.QUOTED, abs=0.02)
    assert all(math.isfinite(text.log_probability(draw)) for draw in draws)
    counts = collections.Counter(map(tuple, draws))
    # the likeliest sentences are short: their counts follow n p
    shortest = [key for key, _ in counts.most_common(200)]
    expected = sum(math.exp(text.log_probability(key)) for key in {tuple(d) for d in draws if len(d) == 4})
    assert expected < 1 and shortest
    # importance identity: the mean of 1 / p over draws of one shape is the number of such sentences
    short = [d for d in draws if len(d) == 4 and d[0] == "the" and d[2] not in text.VERBS]
    share = sum(math.exp(-text.log_probability(d)) for d in short) / len(draws)
    assert share == pytest.approx(len(text.PEOPLE) * len(text.INTRANSITIVE), rel=0.25)


@pytest.mark.parametrize(
    "wrong",
    [
        "the boys sees the cat .",
        "a apple sees the cat .",
        "the king likes her dog .",
        "the cat sleeps",
        "the river runs .",
    ],
)
def test_wrong_sentences_have_probability_zero(wrong):
    assert text.log_probability(wrong.split()) == -math.inf


def test_given_words_must_occur():
    for example in make("text", 20, "train", m=2):
        assert not TASKS["text"].check(example, "the cat sleeps .").correct or "cat" in example.payload["words"]
