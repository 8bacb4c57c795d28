"""Numbers between bounds against Python's own comparison."""

import itertools
import json
import random
import re
from fractions import Fraction

import pytest

from jaxdlm.errors import InputError
from jaxdlm.grammar import numbers
from jaxdlm.grammar.automaton import automaton

DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
SHORT = ["".join(letters) for size in range(1, 6) for letters in itertools.product("0159.-", repeat=size)]
SHORT = [text for text in SHORT if text.count(".") < 2 and text.count("-") < 2]


def test_integers():
    draw = random.Random(0)
    bounds = [None, 0, 1, -1, 9, 10, 99, 100, -10, -99, 101, 12345]
    for _ in range(150):
        low, high = (draw.choice([draw.choice(bounds), draw.randint(-300, 1200)]) for _ in range(2))
        if low is not None and high is not None and low > high:
            low, high = high, low
        made = automaton(numbers.integer(low, high), "integers")
        near = [value + step for value in (low or 0, high or 0, 10, -10, 100, 1000) for step in (-1, 0, 1, 9, 90)]
        for value in [*near, *(draw.randint(-20000, 20000) for _ in range(40))]:
            inside = (low is None or value >= low) and (high is None or value <= high)
            assert made.accepts(str(value).encode()) == inside, (low, high, value)
        for text in ("-0", "00", "01", "-", "", "1.0", "+1"):
            assert not made.accepts(text.encode())


def test_all_integers_of_a_range_and_no_others():
    made = automaton(numbers.integer(-12, 305), "integers")
    texts = ["".join(letters) for size in range(1, 5) for letters in itertools.product("-0123456789", repeat=size)]
    assert {text for text in texts if made.accepts(text.encode())} == {str(value) for value in range(-12, 306)}


def inside(text, low, high):
    value = Fraction(text)
    above = low is None or (value > low[0] if low[1] else value >= low[0])
    return above and (high is None or (value < high[0] if high[1] else value <= high[0]))


def test_decimals():
    """Every text of up to five letters, and random ones near the bounds."""
    draw = random.Random(1)
    written = [
        "0",
        "1",
        "0.5",
        "0.05",
        "-0.5",
        "1.5",
        "-1",
        "0.1",
        "0.95",
        "10",
        "9.99",
        "-10.1",
        "5.01",
        "0.151",
        "51",
    ]
    accepted = 0
    for _ in range(80):
        bounds = [draw.choice([None, (Fraction(draw.choice(written)), draw.random() < 0.5)]) for _ in range(2)]
        if None not in bounds:
            bounds.sort()
        low, high = bounds
        if low is None and high is None:
            continue
        tree = numbers.number(low, high)
        texts = draw.sample(SHORT, 1500)
        for bound in filter(None, bounds):
            near = str(float(bound[0]))
            texts += [near, near + "0", near + "1", near[:-1], near + "00", near[:-1] + "49", near[:-1] + "99"]
        try:
            made = automaton(tree, "numbers")
        except InputError:
            assert low[0] == high[0] and (low[1] or high[1])
            continue
        for text in texts:
            number = DECIMAL.fullmatch(text) is not None and not (text[:1] == "-" and Fraction(text) == 0)
            expected = number and inside(text, low, high)
            assert made.accepts(text.encode()) == expected, (low, high, text)
            accepted += expected
    assert accepted > 3000


def test_any_number_of_json():
    made = automaton(numbers.NUMBER, "numbers")
    for text in [*SHORT, "1e5", "1E-7", "-2.5e+10", "1e", "e1", "1e5.0", "01e1", "1.e1"]:
        try:
            valid = text.strip() == text and isinstance(json.loads(text), int | float)
        except ValueError:
            valid = False
        assert made.accepts(text.encode()) == valid, text


def test_large_bounds_are_exact():
    low = 10**40 + 1
    made = automaton(numbers.integer(low, low + 2), "large")
    assert [made.accepts(str(low + step).encode()) for step in (-1, 0, 1, 2, 3)] == [False, True, True, True, False]
    made = automaton(numbers.number((Fraction(low), True), None), "large")
    assert not made.accepts(str(low).encode()) and made.accepts(f"{low}.0000001".encode())


@pytest.mark.parametrize(
    "low, high", [((Fraction(2), False), (Fraction(1), False)), ((Fraction(1), True), (Fraction(1), False))]
)
def test_no_number(low, high):
    with pytest.raises(InputError, match="empty"):
        automaton(numbers.number(low, high), "numbers")
