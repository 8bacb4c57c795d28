"""The checks of values from outside: what passes, as what, and the one line that refuses the rest."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import argument
from jaxdlm.errors import InputError

# what stands in no number's place, whatever its bounds
NO_NUMBERS = (
    None,
    "3",
    "",
    True,
    [3],
    (3,),
    {},
    {3},
    object(),
    1j,
    np.array([1, 2]),
    np.array("3"),
    np.True_,
    jnp.ones(2),
)
BEYOND = (math.nan, math.inf, -math.inf, 10**400, -(10**400), np.float64("nan"), np.float32("inf"), 3.5e38)


@pytest.mark.parametrize("value", [*NO_NUMBERS, *BEYOND])
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_no_number_of_a_device_is_refused_in_one_line(value, whole):
    with pytest.raises(InputError) as caught:
        argument.number(value, "tau", whole=whole)
    assert str(caught.value).startswith("tau=") and "must be a" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "wanted"),
    [
        ({"low": 0, "high": 1}, (0, 0.0, 0.5, 1), (-1e-9, 1.1), "a number from 0 to 1"),
        ({"low": 0}, (0, 3e38), (-0.1,), "a finite number, at least 0"),
        ({"above": 0, "high": 2}, (1e-30, 2), (0, 0.0, 2.1), "a number above 0, at most 2"),
        ({"low": 1, "whole": True}, (1, 2**31 - 1), (0, 1.0), "a whole number, at least 1"),
        (
            {"low": 1, "high": 9, "whole": True, "none": True},
            (1, 9, None),
            (10,),
            "a whole number from 1 to 9, or none",
        ),
        ({"low": 1, "whole": True}, (1,), (2**31, 10**30), "a whole number, at least 1, at most 2147483647"),
        ({"whole": True}, (-(2**31), 2**31 - 1), (-(2**31) - 1,), "a whole number"),
        ({"low": -math.inf, "high": math.inf}, (math.inf, -math.inf), (math.nan,), "a number from -inf to inf"),
    ],
)
def test_bounds(bounds, inside, outside, wanted):
    for value in inside:
        assert argument.number(value, "x", **bounds) == value
    for value in outside:
        with pytest.raises(InputError) as caught:
            argument.number(value, "x", **bounds)
        assert str(caught.value) == f"x={argument.shown(value)}: must be {wanted}"


def test_plain_numbers_become_python_s_and_arrays_stay_arrays():
    assert type(argument.number(1, "x")) is float and type(argument.number(True + 1, "x", whole=True)) is int
    assert type(argument.number(np.float64(0.5), "x")) is float
    for array in (np.float32(0.5), np.array(0.5, np.float32), jnp.float32(0.5), jnp.bfloat16(0.5), np.int64(1)):
        assert argument.number(array, "x", low=0, high=1) is array
    assert type(argument.number(np.int64(3), "x", whole=True, plain=True)) is int
    with pytest.raises(InputError, match=r"x=.*: must be a number from 0 to 1"):
        argument.number(np.float32(1.5), "x", low=0, high=1)
    with pytest.raises(InputError, match="must be a whole number, and no array"):
        argument.number(jnp.int32(3), "x", whole=True, plain=True)
    with pytest.raises(InputError, match="must be a whole number"):
        argument.number(jnp.float32(3), "x", whole=True)


def test_tracers_pass():
    assert jax.jit(lambda x: argument.number(x, "x", low=0, high=1) * 2)(3.0) == 6.0
    with pytest.raises(InputError, match="must be a finite number"):
        jax.jit(lambda x: argument.number(x, "x"))(jnp.ones(3))


def test_what_is_quoted_is_cut():
    for value in ("x" * 10**6, 10**5000, [1] * 10**6, {"a": "b" * 10**6}, jnp.zeros(10**4)):
        assert len(argument.shown(value)) < 200
    assert "\n" not in argument.shown(np.eye(3)), "a message is one line"


def test_words_flags_lists_and_unknown_ones():
    assert argument.flag(False, "raw") is False
    assert argument.one_of("same", "next")("next", "x") == "next"
    assert argument.listed(argument.whole(0))([1, 2], "x") == (1, 2)
    refused = [
        (argument.flag, "no", "x='no': must be true or false"),
        (argument.flag, 1, "x=1: must be true or false"),
        (argument.text, 1, "x=1: must be a string"),
        (argument.one_of("same", "next"), "sane", r"x='sane': must be one of same, next \(did you mean 'same'\?\)"),
        (argument.one_of("same", "next"), ["same"], r"x=\['same'\]: must be one of same, next"),
        (argument.listed(argument.whole(0)), 3, "x=3: must be a list"),
        (argument.listed(argument.whole(0)), [1, "b"], r"x\[1\]='b': must be a whole number, at least 0"),
        (
            functools.partial(argument.items, kind=argument.text, most=2),
            ["a"] * 3,
            "x has 3 entries: must be at most 2",
        ),
        (argument.table, [], r"x=\[\]: must be an object"),
    ]
    for kind, value, message in refused:
        with pytest.raises(InputError, match=f"^{message}$"):
            kind(value, "x")


def test_records_name_the_field_and_keep_what_nobody_reads():
    inner = functools.partial(argument.record, schema={"id": argument.whole(0)}, required=True)
    schema = {"size": argument.whole(1), "parts": argument.listed(inner), "note": argument.text}
    read = functools.partial(argument.record, name="a.json", schema=schema, dot=": ")
    assert read({"size": 2, "note": None, "other": object}) == {"size": 2, "note": None, "other": object}
    assert read({"parts": [{"id": 3, "x": 1}]})["parts"] == ({"id": 3, "x": 1},)
    for value, message in (
        ({"size": "2"}, "a.json: size='2': must be a whole number, at least 1"),
        ({"parts": [{"id": 1}, {"id": -1}]}, r"a.json: parts\[1\].id=-1: must be"),
        ({"parts": [{}]}, r"a.json: parts\[0\] has no id: add it"),
        ([], r"a.json=\[\]: must be an object"),
    ):
        with pytest.raises(InputError, match=message):
            read(value)


@pytest.mark.parametrize(
    "value", ["", None, 3, "~nobody-of-this-name/x", "x" * 5000, "a\0b"], ids=lambda x: repr(x)[:20]
)
def test_paths_that_no_file_system_looks_up(value):
    with pytest.raises(InputError, match=r"^model=.*must be a path") as caught:
        argument.path(value, "model")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert argument.path("~/x", "model") == pathlib.Path("~/x").expanduser()


def test_an_argument_without_meaning_is_refused_unless_it_is_the_default():
    argument.unused("here", depth=(3, 3), ratio=(4, 4.0), eps=(None, None))
    for value in (4, None, np.float32(3), jnp.int32(3)):
        with pytest.raises(InputError, match=r"^depth=.* means nothing here: leave it out$"):
            argument.unused("here", depth=(value, 3))


@pytest.mark.parametrize(
    "use",
    [
        lambda lm: jd.decode(lm, ["a"]),
        lambda lm: jd.decide(lm, ["a"], [jd.Predicate("a", "?")]),
        lambda lm: jd.decide(lm, ["a"], [jd.Predicate("a", "?"), jd.Predicate("b", "?")], joint=True),
        lambda lm: jd.grammar.regex("a", lm),
        lambda lm: jd.grammar.json(lm),
        lambda lm: jd.grammar.unconstrained(lm),
        lambda lm: jd.guides.banned(["a"], lm),
    ],
)
@pytest.mark.parametrize("lm", ["tiny", None])
def test_the_name_of_a_model_is_no_model(use, lm):
    with pytest.raises(InputError, match=r"^lm=.*: must be a model, as in lm = jaxdlm.load"):
        use(lm)
