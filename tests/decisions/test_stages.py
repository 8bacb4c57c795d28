"""Questions that wait for others: when they are asked, what stands before them then, and what is refused."""

import pytest

import jaxdlm as jd
from jaxdlm.decisions import stages
from jaxdlm.decisions.wire import read_questions
from tests.decisions.test_render import plain  # noqa: F401  (a tokenizer)
from tests.decisions.toys import net, spelled

NAMES = ["[ Kate , Fay , Omar ]", "[ Omar , Fay , Kate ]"]
FIRST = jd.Choice("first", NAMES)
WORDS = "reverse : [ Omar , Fay , Kate ]"


def test_a_question_is_asked_as_soon_as_its_own_are_answered():
    asked = read_questions(
        {
            "c": {"type": "noul", "instructions": "?", "depends_on": "b"},
            "a": {"type": "noul", "instructions": "?"},
            "b": {"type": "choice", "criteria": {"x": None, "y": None}, "ask_if": {"a": True}},
            "d": {"type": "score", "criteria": ["no", "yes"], "depends_on": ["a", "a"], "ask_if": {"b": ["x", "y"]}},
            "e": {"type": "number", "minimum": 0, "maximum": 2},
        }
    )
    assert stages.stages_of(asked, "here") == ((1, 4), (2,), (0, 3))
    assert asked[3].depends_on == ("a",) and asked[3].ask_if == (("b", ("x", "y")),)
    free, waiting = jd.Predicate("a", "?"), jd.Predicate("a", "?", depends_on="z")
    assert (
        free.fingerprint
        != waiting.fingerprint
        == jd.Predicate("b", "?", depends_on=["z"], ask_if={"z": True}).fingerprint
    )


def waits(**more):
    return [jd.Choice("a", ["x", "y"], "?"), jd.Choice("b", ["x", "y"], "?", **more)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"depends_on": "c"}, "question 'b' waits for 'c', which is no question of this row"),
        ({"depends_on": "b"}, "'b' waits for an answer that waits for its own: break the circle"),
        ({"ask_if": {"a": "z"}}, "question 'b': ask_if: the label 'z' of 'a' is none of its options"),
        ({"ask_if": {"a": True}}, "the label True of 'a' is none of its options"),
        ({"ask_if": {"a": []}}, "question 'b': ask_if has no value for 'a'"),
        ({"ask_if": ["a"]}, r"ask_if=\['a'\]: must be an object"),
        ({"depends_on": [3]}, r"depends_on\[0\]=3"),
        ({"depends_on": 3}, "depends_on=3: must be a list"),
    ],
)
def test_what_cannot_be_waited_for(more, message):
    with pytest.raises(jd.InputError, match=message):
        jd.decide(net("ar"), [[3]], waits(**more))


def test_a_circle_of_two():
    asked = [jd.Predicate("a", "?", depends_on="b"), jd.Predicate("b", "?", ask_if={"a": True})]
    with pytest.raises(jd.InputError, match="questions: 'a' waits for an answer that waits for its own"):
        read_questions(asked)


@pytest.mark.slow
def test_a_question_is_asked_behind_the_answer():
    """The same bits as one that is asked of the text with that answer; one whose condition is not met is not read."""
    lm = jd.load("tiny")
    behind = jd.Choice("behind", NAMES, depends_on="first")
    left_out = jd.Choice("left out", NAMES, ask_if={"first": NAMES[1]})
    later = jd.Choice("later", NAMES, depends_on=["left out"])
    met = jd.Choice("met", NAMES, ask_if={"first": NAMES[:1]})
    (row,) = jd.decide(lm, [WORDS], [later, behind, FIRST, left_out, met], read="text")
    assert row["first"].value == NAMES[0] and row.status == "ok"
    text = f"{WORDS}\n\n{NAMES[0]}"
    assert row["behind"].logits == jd.decide(lm, [text], [jd.Choice("x", NAMES)], read="text")[0]["x"].logits
    assert row["met"].logits == row["first"].logits
    for name in ("left out", "later"):
        assert (row[name].status, row[name].value, row[name].forwards) == ("skipped", None, 0)
    assert row.to_row()["answers"]["later"] == {"type": "choice", "value": None}
    assert row.to_row("openai")["answers"][3]["type"] == "refusal"


def test_what_stands_before_a_question_that_depends(plain):  # noqa: F811
    asked = [
        jd.Predicate("late", "Is it late?"), jd.Score("mood", [jd.Option(0, "calm"), jd.Option(1, "angry")]),
        jd.Choice("team", ["a", "b"], depends_on=["late", "mood"]),
    ]  # fmt: skip
    values = {"late": True, "mood": 1, "team": None}
    assert (
        stages.behind(plain, "A text.", asked[2], asked, values, "here") == "A text.\n\nIs it late? Yes\nmood: 1: angry"
    )
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    assert stages.behind(plain, chat, asked[2], asked, values, "here")[2:] == [
        {"role": "user", "content": "Is it late? Yes\nmood: 1: angry"}
    ]


def test_ids_have_no_words_for_an_answer():
    asked = [spelled([3], [9], name="a"), jd.Choice("b", spelled([3], [9]).options, depends_on="a")]
    with pytest.raises(jd.InputError, match="row 0 is token ids, which are taken as they are: leave depends_on out"):
        jd.decide(net("ar"), [[3, 4]], asked)
    when = [asked[0], jd.Choice("b", spelled([3], [9]).options, ask_if={"a": ["o0", "o1"]})]
    (row,) = jd.decide(net("ar"), [[3, 4]], when)
    assert row["b"].logits == row["a"].logits
    with pytest.raises(jd.InputError, match=r"row 0: questions of one reply .* wait for none"):
        jd.decide(net("ar"), [[3, 4]], when, sequential=True)


def test_what_waits_is_checked_before_anything_is_read():
    """Behind the longest answer that may come before it; nothing is read then."""
    lm, state = jd.load("tiny"), "reverse : [ " + " , ".join(["Kate"] * 24) + " ]"
    long = jd.Choice("long", ["[ Kate ]", "[ " + " , ".join(["Kate"] * 8) + " ]"])
    with pytest.raises(jd.InputError, match="row 0, question 'last': the prompt has 73 tokens"):
        jd.decide(lm, [state], [long, jd.Choice("last", long.choices, depends_on="long")], read="text")
