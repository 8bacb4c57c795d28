"""No argument of `decide` is ignored in silence: each changes what is told or which program runs, or is refused by name."""

import inspect

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import calibrate, read
from tests.decisions.toys import net, spelled

START = [5, 9, 2, 30, 4]
FIRST = jd.Choice("a", ["Kate", "Omar", "Fay"], "pick the first item")
WORDS = {"lm": "tiny", "prompts": ["[ Omar , Kate , Fay ]"], "questions": [FIRST]}
LABELS = {"lm": "same", "prompts": [START], "questions": [spelled([3], [9], name="a"), spelled([7], [8], name="b")]}
TEXTS = LABELS | {"questions": [spelled([3], [9, 4], [7, 7, 2], name="a")], "read": "text"}
NOISE = LABELS | {"lm": "uniform", "draws": 2}
# name -> (value, message of a refusal or None, what it changes otherwise)
CASES = {
    "lm": ("next", None, LABELS),
    "prompts": ([START[::-1]], None, LABELS),
    "questions": ([spelled([3], [10])], None, LABELS),
    "read": ("text", None, LABELS),
    "law": ("product", None, TEXTS),
    "joint": ("chain", None, LABELS | {"joint": True}),
    "sequential": (True, None, LABELS),
    "orders": ("cyclic", None, WORDS),
    "draws": (3, None, NOISE),
    "templates": ("{state} {instructions}", None, WORDS | {"read": "text"}),
    "calibration": (lambda lm: calibrate.Calibration(calibrate.model_of(lm), "another reader"), "fitted with other read", LABELS),
    "prior": (0.5, None, WORDS | {"read": "text"}),
    "temperature": (2.0, None, LABELS),
    "cfg": (1.0, None, LABELS),
    "width": (8, None, TEXTS),
    "order": ("confidence", None, TEXTS | {"width": 4}),
    "steps": (2, None, NOISE),
    "reread": (100.0, None, LABELS),
    "pool": ("mean", None, WORDS | {"orders": "cyclic"}),
    "noise": ("content", None, NOISE),
    "cache": ("prefix", "cache='prefix': must be one of auto, none", LABELS),
    "seed": (1, None, NOISE),
    "ids": ([7], None, NOISE),
    "batch": (3, None, LABELS),
    "confidence": ("entropy", None, LABELS),
    "max_contexts": (4, None, TEXTS),
    "think": (4, None, WORDS | {"read": "text"}),
    "tokenisations": ("all", "is of read='text' with law='chain'", LABELS),
    "tolerance": (1.0, None, TEXTS | {"max_contexts": 4}),
}  # fmt: skip


def told(lm, **settings):
    """Everything that is told, and how many programs there are then."""
    answers = jd.decide(jd.load("tiny") if lm == "tiny" else net(lm), **settings)
    return [
        (row.id, name, repr(d), d.logits) for row in answers for name, d in row.items()
    ], read._program._cache_size()


def test_a_case_for_each():
    assert set(CASES) == set(inspect.signature(jd.decide).parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_argument_does_something(name):
    value, message, usual = CASES[name]
    value = value(net("same")) if callable(value) else value
    if message is not None:
        with pytest.raises(jd.InputError, match=message):
            told(**usual | {name: value})
        return
    before = told(**usual)
    assert told(**usual) == before, "the same again"
    assert told(**usual | {name: value}) != before


@pytest.mark.parametrize("name", ["draws", "cfg", "temperature", "seed", "batch", "orders", "tolerance", "prior"])
def test_an_array_is_no_number(name):
    with pytest.raises(jd.InputError, match=f"^{name}="):
        jd.decide(net("same"), **{key: LABELS[key] for key in ("prompts", "questions")}, **{name: np.array([1.0, 2.0])})
