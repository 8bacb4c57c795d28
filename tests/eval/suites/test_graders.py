"""Graders of suites: ParallelBench's against recorded verdicts of the official ones, the others on answers made by hand."""

import json
import math
import pathlib
from collections import Counter

import pytest

from jaxdlm.eval.suites import _code, _generate, _lists, _text, gsm8k, humaneval, mbpp
from jaxdlm.eval.suites import math as competition

RECORDED = [
    json.loads(line)
    for line in (pathlib.Path(__file__).with_name("recorded_parallelbench.jsonl")).read_text().splitlines()
]


@pytest.mark.parametrize("metric", _lists.NAMES)
def test_lists_and_puzzles_are_judged_as_by_the_official_graders(metric):
    some = [row for row in RECORDED if row["metric"] == metric]
    assert len(some) >= 24 and {row["loose"] for row in some} == {0, 1}
    for row in some:
        for strict, wanted in ((False, row["loose"]), (True, row["strict"])):
            assert _lists.verdict(metric, row["answer"], row["truth"], strict) == wanted, row


@pytest.mark.parametrize("metric", ["sentence_to_words_score", "summary_score"])
def test_texts_are_marked_as_by_the_official_graders(metric, monkeypatch):
    """The verdict on grammar is the recorded one: LanguageTool is not asked."""
    for row in (row for row in RECORDED if row["metric"] == metric):
        monkeypatch.setattr(_text, "grammatical", lambda text, row=row: row["grammar"])
        assert _text.METRICS[metric][0](row["truth"], row["answer"]) == pytest.approx(row["marks"])


def bleu(answer, reference):
    """The formula of BLEU, words apart."""
    answer, reference = answer.split(), reference.split()
    shares = []
    for n in range(1, 5):
        grams = lambda words, n=n: Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))  # noqa: E731
        mine, theirs = grams(answer), grams(reference)
        shares.append(sum((mine & theirs).values()) / max(1, sum(mine.values())))
    if not min(shares):
        return 0.0
    return min(1, math.exp(1 - len(reference) / len(answer))) * math.exp(sum(map(math.log, shares)) / 4)


@pytest.mark.parametrize("answer", ["a b c d e f", "a b c d", "f e d c b a", "a b c d x e f g h", "a a a a a"])
def test_bleu_is_its_formula(answer):
    assert _text.bleu(answer, "a b c d e f") == pytest.approx(bleu(answer, "a b c d e f"))


def test_a_paraphrase_is_the_product_of_its_parts(monkeypatch):
    monkeypatch.setattr(_text, "grammatical", lambda text: 1.0)
    monkeypatch.setattr(_text, "bert", lambda text, reference: 0.5)
    made = _text.paraphrase({"text": "a b c d e f"}, " a b c d ")
    assert made["score"] == pytest.approx((1 - bleu("a b c d", "a b c d e f")) * 0.5)
    assert _text.paraphrase({"text": "a b"}, "  ")["score"] == 0


def test_generated_items_are_right_and_repeatable():
    words = [f"{a} {b}" for a in "ABCDE" for b in "XYZ"]
    for kind, metric in (("insert", "insert"), ("remove", "remove"), ("replace", "replace"), ("shuffle", "shuffle")):
        config = {
            "type": kind, "random_index": True, "num_samples": 12, "samples_per_length": 4, "icl_example_count": 1,
            "min_length": 3, "max_length": 5, "seed": 3,
        }  # fmt: skip
        made = _generate.items(config, words)
        assert made == _generate.items(config, words) != _generate.items({**config, "seed": 4}, words)
        assert Counter(row["metadata"]["length"] for row in made) == {3: 4, 4: 4, 5: 4}
        name = "list_shuffle_score" if kind == "shuffle" else f"list_random_{metric}_score"
        for row in made:
            assert _lists.verdict(name, row["answer"]["example"], row["answer"], strict=True)
            assert not _lists.verdict(name, row["input"]["context"], row["answer"])
    assert [_generate.seed_of(f"any/{name}") for name in ("copy", "shuffle")] == [31940, _generate.seed_of("shuffle")]


@pytest.mark.parametrize(
    "text, strict, flexible",
    [
        ("3 - 1 = 2\n#### 2", "2", "2"), ("#### 1,201.", "1201", "1201"), ("so it is $1,201.", None, "1201"),
        ("-5 and then 7", None, "7"), ("#### 3 or 4", "3", "4"), ("none", None, None), ("at -12.50", None, "-12.50"),
    ],
)  # fmt: skip
def test_numbers_of_gsm8k(text, strict, flexible):
    assert gsm8k.extract(text) == (strict, flexible)


@pytest.mark.parametrize(
    "answer, gold, same",
    [
        (r"\frac12", r"\dfrac{1}{2}", True), ("1,000", "1000", True), (r"5\text{ cm}", "5", True), ("x=3", "3", True),
        (r"\left(1, 2\right)", "(1,2)", True), (".5", "0.5", True), ("1,2", "12", False), (r"\frac13", r"\frac31", False),
    ],
)  # fmt: skip
def test_answers_of_math(answer, gold, same):
    assert (competition.normal(answer) == competition.normal(gold)) == same
    score = competition.grade({"answer": gold}, rf"so \boxed{{1}} or rather $\boxed{{{answer}}}$")
    assert score.strict == same and score.valid


def test_the_answer_of_math_is_boxed_or_stated():
    assert competition.extract(r"\boxed{\frac{1}{2}} is it") == (None, r"\frac{1}{2}")
    assert competition.extract("Final Answer: The final answer is $7$. I hope it is correct.")[1] == "7"
    assert competition.extract("nothing") == (None, None)
    assert competition.boxed(r"\boxed{1") is None


PROMPT = 'import math\nfrom typing import List\n\n\ndef root(xs: List[int]) -> float:\n    """Root of the sum."""\n'
HUMAN = {"prompt": PROMPT, "entry_point": "root", "test": "def check(candidate):\n    assert candidate([4, 5]) == 3\n"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, right",
    [
        ("```python\n    return math.sqrt(sum(xs))\n```", True),
        (
            "Sure:\n```python\n"
            + PROMPT
            + "    return help_(xs) ** 0.5\n\ndef help_(xs):\n    return sum(xs)\n```\nDone",
            True,
        ),
        ("    return math.sqrt(sum(xs))\nthat is all", True),
        ("```python\n    return sum(xs)\n```", False),
        ("```python\n    import os\n    os.system('true')\n    return 3\n```", False),
        ("```python\n    while True:\n        pass\n```", False),
    ],
)
def test_programs_of_humaneval_run(text, right):
    assert humaneval.grade(HUMAN, text).correct == right


@pytest.mark.slow
def test_programs_of_mbpp_run():
    tests = "import re\nassert add(1) == 3\nassert add(2) == 4"
    assert mbpp.grade({"tests": tests}, "def add(x):\n    return x + 2\n[DONE] def add(").correct
    assert not mbpp.grade({"tests": tests}, "```python\ndef add(x):\n    return 3\n```").correct
    assert not mbpp.grade({"tests": tests}, "").valid


def test_programs_keep_what_their_entry_needs():
    source = (
        "import re\nN = 2\ndef f(x):\n    return g(x) * N\ndef g(x):\n    return x\ndef h():\n    return 1\nprint(h())"
    )
    kept = _code.reached(source, "f")
    assert "def g" in kept and "N = 2" in kept and "import re" in kept and "def h" not in kept and "print" not in kept
    assert _code.reached(source, "absent") == source
    assert _code.longest("Here it is\ndef f():\n    return 1\nand so on") == "def f():\n    return 1"
