"""All spellings of an option: none is missing, none is twice, and their probabilities add up."""

import itertools

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import laws, spellings
from jaxdlm.decisions.laws import Limits
from jaxdlm.decisions.read import drive
from jaxdlm.decisions.render import Slot
from tests.decisions.test_laws import START, oracle
from tests.decisions.toys import net
from tests.grammar import toys

TOKENS = toys.SEVEN  # a, b, ab, 0, 1, 01


def slot(*choices, prompt=(0,)) -> Slot:
    return Slot(np.array(prompt, np.int32), tuple(map(tuple, choices)), (), (6,))


def test_every_way_by_trying_all_sequences():
    lm = toys.of_words(TOKENS)
    spelled = lambda ids: "".join(TOKENS[token] for token in ids)  # noqa: E731
    found, options = spellings.every(lm, slot((2, 5, 0), (0, 1), (3,)), "here")
    for option, text in enumerate(("ab01a", "ab", "0")):
        expected = [ids for n in range(1, 6) for ids in itertools.product(range(6), repeat=n) if spelled(ids) == text]
        assert sorted(np.array(found.choices, object)[options == option].tolist()) == sorted(expected)
    with pytest.raises(jd.InputError, match="here: option 0 is spelled by tokens in more than 4096 ways"):
        spellings.every(lm, slot((2,) * 13), "here")


@pytest.mark.parametrize("kind", ["ar", "same"])
@pytest.mark.parametrize("law", ["chain", "product"])
def test_the_probability_is_the_sum_over_all_ways(kind, law):
    lm = net(kind)
    if law == "product" and kind == "ar":
        pytest.skip("of masked models")
    ways, options = [(3, 9), (4,), (7, 2, 5), (7, 8)], np.array([0, 0, 1, 1])
    asked = Slot(np.array(START, np.int32), tuple(ways), (), lm.config.tokens.eos)
    limits = Limits(width=6) if kind == "same" else Limits()
    make = lambda: laws.LAWS[law](lm, asked, limits, "here")  # noqa: E731
    single, both = drive(lm, [make(), spellings.summed(make(), options)], 16)
    each = single.logp if law == "product" else [oracle(lm, way, 6) for way in ways]
    expected = [np.logaddexp(each[0], each[1]), np.logaddexp(each[2], each[3])]
    assert both.logp == pytest.approx(expected, abs=2e-4 if law == "chain" else 1e-12)


@pytest.mark.slow
def test_decide_reads_them_all():
    """Of `tiny-ar`, whose words spell a name in one way only: nothing changes."""
    lm = jd.load("tiny-ar")
    asked = jd.Choice("answer", ["[ Kate , Alan ]", "[ Alan , Kate ]"])
    answers = [
        jd.decide(lm, ["reverse : [ Alan , Kate ]"], [asked], read="text", tokenisations=way)[0]["answer"]
        for way in spellings.WAYS
    ]
    assert answers[0].logits == answers[1].logits and answers[0].value == "[ Kate , Alan ]"
