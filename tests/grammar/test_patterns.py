"""Expressions against Python's own `re`, on every text up to some length."""

import itertools
import random
import re

import pytest

from jaxdlm.errors import InputError
from jaxdlm.grammar import patterns
from jaxdlm.grammar.automaton import automaton

LETTERS = "ab01é\n"
TEXTS = ["".join(letters) for size in range(6) for letters in itertools.product("ab01", repeat=size)]
TEXTS += ["".join(letters) for size in range(4) for letters in itertools.product(LETTERS + "Ж𝄞 _", repeat=size)]
WRITTEN = (
    "(ab)+", "a*", "", "a|", "(a(0|1)b)*", r"-?(0|[1-9]\d*)(\.\d+)?", r"\d{2}|\d{4}", "a??b", "(?:a|ab)(?:b|)", "[^ab]*",
    "[^é]{1,2}", r"[à-ÿ]+", "(?s:.)*", "(?s).a", ".*", r"\w+", r"\W*\w", r"\s|\S\S", r"(?u)\w{2}", r"(?u:\w)\W",
    r"(?a:\w)(?u:\W)", "^a(b|0)$", "(^a|^b)0", r"\Aa+\Z", "(?P<x>a)(?P<y>b)?", "(?x) a b # c", "a{2,}b{0,2}", "[ab]{3}",
    "(a|b)*a(a|b){2}", "((a|b)(0|1))*", "(a*)*b", "(a?b?)*", "[\\]a-]", "\\x61\\u00e9", "𝄞|[𝄀-𝄿]é", "(|a)(|b)(|0)", "[\\d\\s]+",
    "[^\\d\\s]+", "(?:)*a", r"(?s)(?u)\w\W", "(a?){12}a{2}", "((a|b)?0?){9}",
)  # fmt: skip


def check(pattern, flags=re.ASCII, texts=TEXTS):
    made = automaton(patterns.parse(pattern), pattern)
    found = re.compile(pattern, flags)
    accepted = 0
    for text in texts:
        expected = found.fullmatch(text) is not None
        assert made.accepts(text.encode()) == expected, (pattern, text)
        accepted += expected
    return accepted


@pytest.mark.parametrize("pattern", WRITTEN)
def test_it_accepts_what_python_does(pattern):
    assert check(pattern, 0 if "(?u)" in pattern else re.ASCII) > 0


def test_nothing_at_all():
    with pytest.raises(InputError, match="empty"):
        check(r"[^\s\S]")


def drawn(draw, depth):
    """A random expression."""
    kind = draw.randrange(9) if depth else draw.randrange(3)
    match kind:
        case 0 | 1:
            return draw.choice("ab01")
        case 2:
            return draw.choice(["[ab]", "[^a0]", r"\d", ".", r"\w", "[b-z]", "é"])
        case 3 | 4:
            return drawn(draw, depth - 1) + drawn(draw, depth - 1)
        case 5:
            return f"({drawn(draw, depth - 1)}|{drawn(draw, depth - 1)})"
        case 6:
            return f"(?:{drawn(draw, depth - 1)})" + draw.choice(["*", "+", "?", "*?", "+?"])
        case 7:
            return f"({drawn(draw, depth - 1)}){{{draw.randrange(3)},{draw.randrange(3, 5)}}}"
        case 8:
            return f"({drawn(draw, depth - 1)}|)"


@pytest.mark.slow
def test_random_expressions():
    draw = random.Random(7)
    some = TEXTS[:341] + TEXTS[1365:]
    accepted = [check(drawn(draw, draw.randint(1, 4)), texts=some) for _ in range(300)]
    assert sum(map(bool, accepted)) > 250 and sum(accepted) > 3000


@pytest.mark.parametrize(
    "pattern, search, found",
    [("a", "bab 0a", "b"), ("^a", "a ab", "ba"), ("a$", "a ba", "ab"), ("^(a|b)$", "a b", "ab aa"), ("(^a$|^b)", "a b ba", "ab"),
     ("^a|b", "a ab 0b", "0a"), ("^$", "", "a"), ("^ab$|^a$|0", "a ab 10", "aba b"),
     ("(a|^b)(0|1$)", "ba0b b1 b01", "ab1 a1b"), ("(?:^)a(?:$|b)", "a ab ab0", "ba aa"), ("^[ab]{2}", "ab ab0", "a")],
)  # fmt: skip
def test_search_is_that_of_json_schema(pattern, search, found):
    made = automaton(patterns.parse(pattern, search=True), pattern)
    for text in TEXTS:
        assert made.accepts(text.encode()) == (re.search(pattern.replace("$", r"\Z"), text) is not None), text
    assert all(made.accepts(text.encode()) for text in search.split(" "))
    assert not any(made.accepts(text.encode()) for text in found.split(" "))


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("a(?=b)", "uses look-ahead or look-behind, which is not supported"),
        ("(?!a)b", "uses look-ahead or look-behind"),
        ("(?<=a)b", "uses look-ahead or look-behind"),
        ("(?<!a)b", "uses look-ahead or look-behind"),
        (r"(a|b)\1", "uses a back-reference"),
        ("(?P<x>a)(?P=x)", "uses a back-reference"),
        ("(a)?(?(1)b|c)", "uses a conditional group"),
        ("(?>a*)b", r"uses an atomic group"),
        ("a*+b", "uses a possessive quantifier"),
        (r"a\bb", "uses a word boundary"),
        ("a^b", "uses an anchor inside"),
        ("(a$)b", "uses an anchor inside"),
        ("(^a)*", "uses an anchor inside"),
        ("(?i)a", r"uses the flag i \(ignore case: write \[aA\]\)"),
        ("(?i:a)b", "uses the flag i"),
        ("(?m)^a", "uses the flag m"),
        ("(?a)(?u)a", "does not parse .*incompatible"),
        ("(a", "does not parse .*unterminated subpattern"),
        ("a{3,1}", "does not parse"),
        ("*", "does not parse .*nothing to repeat"),
        ("a{99999999999}", "does not parse"),
        ("(" * 5000 + ")" * 5000, "regex .* is nested too deeply: write it flatter"),
    ],
)
def test_what_is_refused_is_named(pattern, message):
    with pytest.raises(InputError, match=message) as error:
        patterns.parse(pattern)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_warnings_of_the_parser_are_nobody_s():
    made = automaton(patterns.parse("[[]a|b"), "nested set")
    assert made.accepts(b"[a") and made.accepts(b"b") and not made.accepts(b"a")
