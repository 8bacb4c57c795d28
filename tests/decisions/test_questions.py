"""What can be asked, in our classes and in both wire shapes; what is refused, by name and in one line."""

import pytest

import jaxdlm as jd
from jaxdlm.decisions.questions import Option
from jaxdlm.decisions.wire import Place, one_set, read_questions

OPENAI = [
    {"type": "predicate", "instructions": "Is it urgent?", "name": "urgent"},
    {"type": "choice", "instructions": [{"type": "input_text", "text": "Which team?"}, {"type": "input_json", "data": {"a": 1}}],
     "choices": [{"value": "true", "description": "the word"}, {"value": True}, {"value": "none"}]},
    {"type": "score", "instructions": "How angry?", "name": "anger", "levels": [{"label": "calm"}, {"label": "furious"}]},
]  # fmt: skip
TYPESAFE = {
    "urgent": {"type": "noul", "instructions": "Is it urgent?", "criteria": {"true": "today", "false": None}},
    "team": {"type": "choice", "criteria": {"billing": "money", "other": None}},
    "anger": {"type": "score", "instructions": {"rate": "anger"}, "criteria": ["calm", {"is": "furious"}]},
}


def test_the_list_form():
    urgent, team, anger = read_questions(OPENAI)
    assert urgent == jd.Predicate("urgent", "Is it urgent?")
    assert team.name == "1" and isinstance(team.name, Place)
    assert [type(option.value) for option in team.options] == [str, bool, str], "values are typed"
    assert team.instructions == 'Which team?\n{"a": 1}'
    assert anger.options == (Option("calm"), Option("furious"))


def test_the_map_form():
    urgent, team, anger = read_questions(TYPESAFE)
    assert urgent.options == (Option(True, "today"), Option(False, None))
    assert team.options == (Option("billing", "money"), Option("other", None))
    assert anger.options == (Option(0, "calm"), Option(1, {"is": "furious"}))
    assert read_questions({"one": {"type": "choice", "criteria": {"only": None}}})[0].options == (Option("only"),)


def test_numbers_have_the_digits_of_their_step():
    written = lambda *a, **k: [q.written(o) for q in [jd.Number("n", *a, **k)] for o in q.options]  # noqa: E731
    assert written(0, 3) == ["0", "1", "2", "3"]
    assert written(-1, 0.5, step=0.5) == ["-1.0", "-0.5", "0.0", "0.5"]
    assert written(0, 0.3, decimals=1) == ["0.0", "0.1", "0.2", "0.3"], "in decimals, not in binary fractions"
    assert written(100, 300, step=100) == ["100", "200", "300"]
    assert [type(o.value) for o in jd.Number("n", 0, 1, decimals=2).options[:1]] == [float]
    (read,) = read_questions([{"type": "number", "minimum": 1, "maximum": 5, "instructions": "Stars?"}])
    assert read == jd.Number("0", 1, 5, instructions="Stars?")


def test_a_set_for_all_rows_and_one_for_each():
    assert one_set(OPENAI) and one_set(TYPESAFE) and one_set(jd.Predicate("a")) and one_set([jd.Predicate("a")])
    assert not one_set([OPENAI, OPENAI]) and not one_set([TYPESAFE])


def test_a_question_is_known_by_what_it_asks():
    first, second = jd.Choice("a", ["x", "y"], "Which?"), jd.Choice("b", {"x": None, "y": None}, "Which?")
    assert first.fingerprint == second.fingerprint
    others = [jd.Choice("a", ["y", "x"], "Which?"), jd.Choice("a", ["x", "y"]), jd.Score("a", ["x", "y"], "Which?")]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert jd.Choice("a", ["true"]).fingerprint != jd.Choice("a", [True]).fingerprint


def choices(*values, **more):
    return [{"type": "choice", "instructions": "?", "choices": [{"value": value} for value in values], **more}]


HOSTILE = {
    "nothing": ([], "questions is empty: ask at least one question"),
    "no set": ("urgent?", "questions='urgent\\?': must be a list of questions"),
    "no object": (["urgent?"], r"questions\[0\]='urgent\?': must be an object"),
    "no type": ([{"instructions": "?"}], r"questions\[0\].type=None: must be one of predicate"),
    "unknown type": ([{"type": "chioce"}], r"did you mean 'choice'"),
    "type of the other form": ({"a": {"type": "predicate"}}, "must be one of noul"),
    "extra field": ([{"type": "predicate", "instructions": "?", "instrctions": "?"}], "unknown field 'instrctions'"),
    "extra field of a choice": (
        [{"type": "choice", "instructions": "?", "choices": [{"value": "a", "name": "b"}, {"value": "c"}]}],
        r"questions\[0\].choices\[0\]: unknown field 'name'",
    ),
    "extra criterion": ({"a": {"type": "noul", "criteria": {"true": "x", "maybe": "y"}}}, "unknown field 'maybe'"),
    "name null": ([{"type": "predicate", "instructions": "?", "name": None}], r"questions\[0\].name=None"),
    "name in a map": ({"a": {"type": "noul", "instructions": "?", "name": "b"}}, "the key is the name"),
    "two names": ([{"type": "predicate", "instructions": "?", "name": "a"}] * 2, "two questions have the name 'a'"),
    "no instructions": ([{"type": "predicate"}], r"questions\[0\] has no instructions"),
    "nothing asked": ({"a": {"type": "noul"}}, "neither instructions nor criteria"),
    "no choice": (choices(), r"questions\[0\] has 0 choices: a list takes 2 to 255"),
    "one choice": (choices("a"), "has 1 choices"),
    "too many": (choices(*map(str, range(256))), "has 256 choices"),
    "no choice in a map": ({"a": {"type": "choice", "criteria": {}}}, "question 'a' has no choices"),
    "equal choices": (choices("a", "a"), "options 0 and 1 are both 'a'"),
    "empty choice": (choices("a", "  "), r"choices\[1\] is empty"),
    "number as a choice": (choices("a", 1), r"choices\[1\].value=1: must be a string or a truth value"),
    "null as a choice": (choices("a", None), r"choices\[1\] has no value"),
    "label no text": ([{"type": "score", "instructions": "?", "levels": [{"label": 1}, {"label": "b"}]}], "levels.0..label=1"),
    "one level": ([{"type": "score", "instructions": "?", "levels": [{"label": "a"}]}], "has 1 level"),
    "no rubric": ({"a": {"type": "score", "criteria": "calm"}}, "criteria='calm': must be a list"),
    "image": (
        [{"type": "predicate", "instructions": [{"type": "input_image", "image_url": "x"}]}],
        r"instructions\[0\] is an image",
    ),
    "box": ({"a": {"type": "box", "instructions": "the dog"}}, "a box is a place in an image"),
    "number without bounds": ([{"type": "number", "minimum": 0}], "has no maximum"),
    "numbers without end": ([{"type": "number", "minimum": 0, "maximum": 10**9}], "has 1000000001 values, more than 4096"),
    "no step": ([{"type": "number", "minimum": 0, "maximum": 1, "step": 0}], "step=0"),
    "step and decimals": ([{"type": "number", "minimum": 0, "maximum": 1, "step": 1, "decimals": 1}], "say the same"),
    "upside down": ([{"type": "number", "minimum": 2, "maximum": 1}], "minimum 2 is above maximum 1"),
    "no list": ({"type": "predicate", "instructions": "?"}, "questions is a question and no map of questions: .* a list"),
    "not a number": ([{"type": "number", "minimum": float("nan"), "maximum": 1}], "minimum=nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_question_is_refused_by_name(case):
    given, message = HOSTILE[case]
    with pytest.raises(jd.InputError, match=message) as caught:
        read_questions(given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.Choice("", ["a"]), "name of a question=''"),
        (lambda: jd.Choice("a", "abc"), "choices='abc': must be a list"),
        (lambda: jd.Choice("a", ["x", object()]), r"choices\[1\]"),
        (lambda: jd.Choice("a", [True, 1]), "options 0 and 1 are both 1"),
        (lambda: jd.Choice("a", ["x"] * 5000), "has 5000 choices, more than 4096"),
        (lambda: jd.Choice("a", [Option("x", tokens=())]), "has no tokens"),
        (lambda: jd.Choice("a", [Option("x", tokens=(-1,))]), r"tokens\[0\]=-1"),
        (lambda: jd.Choice("a", [("x", object())]), "must be text, or an object or list of JSON"),
        (lambda: jd.Predicate("a", 3), "instructions=3"),
        (lambda: jd.Number("a", 0, 1, decimals=99), "decimals=99"),
        (lambda: jd.Choice("a", ["x", float("inf")]), r"choices\[1\]=inf: must be a number up to 1e\+15"),
        (lambda: jd.Choice("a", [10**5000]), r"choices\[0\]=a number of thousands of digits: must be a number up to"),
        (lambda: jd.Choice("\ud800", ["x"]), "name of a question .* holds half of a surrogate pair"),
        (lambda: jd.Choice("a", ["\ud800"]), r"choices\[0\] .* holds half of a surrogate pair"),
        (
            lambda: jd.Choice("a", [("x", {"y": "\ud800"})]),
            r"choices\[0\]: description .* holds half of a surrogate pair",
        ),
        (lambda: jd.Predicate("a", "\ud800"), "instructions .* holds half of a surrogate pair"),
    ],
)
def test_classes_check_what_they_are_given(make, message):
    with pytest.raises(jd.InputError, match=message):
        make()
