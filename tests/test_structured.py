"""What a caller asks for, as grammars: whose fault it is, and stops beside a language."""

import pytest

import jaxdlm as jd
from jaxdlm.errors import InputError
from jaxdlm.stops import read_stops
from jaxdlm.structured import asked_by, grammars_of

CHOICES = ["[ Kate ]", "[ Omar ]"]


def asked(stop=True, rows=2, **language):
    lm = jd.load("tiny")
    return grammars_of(lm, rows, [16] * rows, read_stops(lm, stop), **language)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ({"regex": 3}, "^regex=3: must be a string"),
        ({"json": False}, "^json=False: must be a whole number from 0 to 6"),
        ({"json": 7}, "^json=7: must be a whole number from 0 to 6"),
        ({"regex": ["Kate", "("]}, r"^prompt 1: regex '\(' does not parse"),
        ({"regex": ["Kate", 3]}, "^prompt 1: regex=3: must be a string"),
        ({"json": [True, "x"]}, "^prompt 1: json='x': must be a whole number"),
        ({"choices": [CHOICES, ["a", "a"]]}, r"^prompt 1: choices\[0\] and choices\[1\] are both 'a'"),
        ({"json_schema": [None, {"type": "x"}]}, "^prompt 1: json_schema #/type"),
        ({"choices": ["Kate", "a" * 500_000]}, r"^choices\[1\] has 500,000 letters: give a text of less than 16,384"),
        ({"grammar": [None, "Kate"]}, "^prompt 1: grammar='Kate' is no grammar"),
        ({"regex": r"\[( Kate ,){9} Kate \]"}, "^prompt 0: regex needs at least 21 tokens and max_new is 16: raise it"),
    ],
)
def test_what_is_wrong_is_named_as_the_caller_wrote_it(language, message):
    with pytest.raises(InputError, match=message) as error:
        asked(**language)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stop", ["Kate", ["Fay", "Omar"], "[", "Kat"])
def test_a_stop_that_may_cut_an_answer_is_refused(stop):
    """A cut answer would leave the language without a word."""
    with pytest.raises(InputError, match=r"^prompt 0: stop='.*' may stand inside an answer that choices allows"):
        asked(stop, choices=CHOICES)


def test_an_id_that_may_cut_an_answer_is_refused():
    kate = jd.load("tiny").tokenizer.encode_inside("Kate")
    with pytest.raises(InputError, match=f"^prompt 1: stop={kate[0]} may stand inside an answer that regex allows"):
        asked(kate, regex=[None, "Kate|Omar"])
    assert asked(kate, regex=[None, "Omar"])[0] is None


@pytest.mark.parametrize("stop", [True, False, "Fay", ["\n", "###"]])
def test_stops_that_no_answer_holds_are_fine(stop):
    assert len(asked(stop, choices=CHOICES)) == 2


def test_the_ends_of_the_model_are_no_stops_inside():
    lm = jd.load("tiny")
    assert asked(list(lm.config.tokens.eos), json=True)


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_json_object_is_true_or_false(value):
    with pytest.raises(InputError, match=r"^line 1: structured_outputs.json_object=.*: must be true or false"):
        asked_by({"structured_outputs": {"json_object": value}}, "line 1")
    assert asked_by({"structured_outputs": {"json_object": False}}, "line 1") is None


@pytest.mark.parametrize(
    ("name", "own"),
    [("guided_grammar", "regex, choices"), ("guided_json", "json_schema"), ("guided_choice", "choices")],
)
def test_a_language_by_another_name_is_not_ignored(name, own):
    with pytest.raises(InputError, match=f"^line 1: {name} is not read here: use {own}"):
        asked_by({name: "x"}, "line 1")
    assert asked_by({name: None}, "line 1") is None
