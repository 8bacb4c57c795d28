"""Grammars of Lark against Lark's own parser: every text up to some length, and random ones of real tokens."""

import functools
import itertools
import random
import re
import sys

import pytest

import jaxdlm as jd
from jaxdlm import grammar
from jaxdlm.errors import InputError
from jaxdlm.grammar import context_free
from jaxdlm.grammar.automaton import automaton
from tests.grammar import toys

lark = pytest.importorskip("lark")

BRACKETS = 'start: ("(" start ")" | "[" start "]")*'
SUMS = """
start: sum
?sum: sum ("+" | "-") product -> more | product
?product: product "*" factor | factor
factor: INT | "-" factor | "(" sum ")"
%import common.INT
"""
LISTS = 'start: "[" [item ("," item)*] "]"\nitem: start | /[ab]+/\n%ignore " "'
JSON = """
?start: value
?value: object | array | ESCAPED_STRING | SIGNED_NUMBER | "true" | "null"
array: "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: ESCAPED_STRING ":" value
%import common (ESCAPED_STRING, SIGNED_NUMBER, WS)
%ignore WS
"""


@functools.cache
def parser(text):
    return lark.Lark(text, parser="earley", lexer="dynamic_complete", ambiguity="resolve")


def parses(text, sentence):
    try:
        parser(text).parse(sentence)
    except lark.exceptions.LarkError:
        return False
    return True


def accepts(text, depth=0):
    made = automaton(context_free.tree(text, depth, "start"), "it")
    return lambda sentence: made.accepts(sentence.encode())


def strings(pieces, most):
    return ["".join(each) for size in range(most + 1) for each in itertools.product(pieces, repeat=size)]


def nesting(sentence):
    depth, most = 0, 0
    for letter in sentence:
        depth += (letter in "([{") - (letter in ")]}")
        most = max(most, depth)
    return most


@pytest.mark.parametrize(
    ("text", "pieces", "size"),
    [(BRACKETS, "()[", 6), (SUMS, "1+()", 5), (SUMS, ["-", "*", "2"], 4), (LISTS, "[], a", 4),
     (JSON, ["{", "}", "[", "]", ":", '"a"', "1 "], 4), (JSON, ["[", "]", "1"], 6)],
    ids=["brackets", "sums", "products", "lists", "json", "arrays"],
)  # fmt: skip
def test_each_depth_is_a_part_of_the_language_and_all_of_it_up_to_its_nesting(text, pieces, size):
    every = strings(pieces, size)
    whole = {each for each in every if parses(text, each)}
    parts = [set(filter(accepts(text, depth), every)) for depth in range(4)]
    assert whole and parts[0] <= parts[1] <= parts[2] <= parts[3] <= whole
    for depth, part in enumerate(parts):
        assert part >= {each for each in whole if nesting(each) <= depth}
    assert parts[0] < whole or max(map(nesting, whole)) == 0


EXACT = {
    "all operators": ('start: a? b* c+ (a | b c)~1..2 [c]\na: "a"\nb: "b"\nc: "c" -> d', "abc", 5),
    "terminals": ('start: A B? | C~2\nA: "x" ("y" | /[xz]/)+\nB: A "!"\nC: "x".."y"', "xyz!", 5),
    "ignored": ('start: "a" ("b" | /c +d/)\n%ignore " "\n%ignore /_+/', "abcd _", 4),
    "cases": ('start: "aK"i "s"', ["a", "A", "k", "K", "K", "s", "S"], 4),
    "left": ('start: start "," x | x\nx: "a" | "b"', "ab,", 5),
    "right": ('start: x "," start | x\nx: "a" | "b"', "ab,", 5),
    "alone": ('start: start | "a" start | ', "ab", 4),
    "flags": ("start: /a . b/xs /./", ["a", "b", "\n", " "], 5),
    "redefined": ('%import common.INT\n%override INT: "7"\n%extend INT: "88"\nstart: INT', "178", 4),
    "longer first": ('start: A "c" | A "b"\nA: /ab|a/', "abc", 5),
    "unicode": (r"start: /\w\d/ | /\S/", ["é", "٣", "1", "\u00a0", "a"], 3),
    "strings": ("start: ESCAPED_STRING X?\nX: ESCAPED_STRING\n%import common.ESCAPED_STRING", '"\\a\n', 6),
    "comments": ("start: C_COMMENT\n%import common.C_COMMENT", "/*a\n", 7),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_without_nesting_it_is_the_language(name):
    text, pieces, size = EXACT[name]
    every = strings(pieces, size)
    found = set(filter(accepts(text), every))
    assert found and found == {each for each in every if parses(text, each)}


def test_rules_that_begin_with_each_other_count():
    text = 'start: x\nx: y "a" | "a"\ny: x "b" | "b"'
    every = strings("ab", 8)
    parts = [set(filter(accepts(text, depth), every)) for depth in range(5)]
    assert [len(part) for part in parts] == [2, 4, 6, 8, 8]
    assert parts[4] == {each for each in every if parses(text, each)}


@pytest.mark.parametrize("text", [SUMS, LISTS, JSON], ids=["sums", "lists", "json"])
@pytest.mark.parametrize("name", ["byte_level", "tiny"])
def test_random_sentences_of_tokens_parse(text, name):
    lm = jd.load("tiny") if name == "tiny" else toys.byte_level()
    text = text.replace("INT\n", 'INT\n%ignore " "\n')
    if name == "tiny":  # whose words hold no quotes beside letters
        text = (
            text.replace("/[ab]+/", '"Alan" | "Kate"').replace("ESCAPED_STRING", '"Alan"', 1) if text == LISTS else text
        )
    made, draw = grammar.lark(text, lm, depth=2), random.Random(0)
    for _ in range(12):
        ids = toys.wander(made, draw, most=draw.randint(0, 12))
        assert parses(text, lm.tokenizer.decode(ids)), lm.tokenizer.decode(ids)


@pytest.mark.slow
def test_parts_are_compact_at_every_depth():
    """States grow by a constant per level for one kind of bracket, and so do the parts that are written out."""
    sizes = [context_free.tree(SUMS, depth, "start").size for depth in (16, 24, 32)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] and sizes[2] < 500


BAD = {
    'start: "a': "does not load (Unexpected",
    "start: a": "does not load (Rule 'a' used but not defined",
    'start: "a"\nb: "c"': "b is not used by start",
    'stat: "a"': "no rule 'start' (did you mean 'stat'?)",
    "": "no rule 'start'",
    'start: "(" start ")"': "derives no text at depth=1, at depth=32 neither",
    'start: "a" "b"~2000000': "has 4,000,00",
    'start: "a"~3..2': "3..2 times",
    'start: "a"~' + 5000 * "9": "more than 10^9 times",
    'start: l{"a"}\nl{x}: x+': "uses a template",
    "start: A\n%declare A": "A is declared and has no texts",
    "start: A\nA: B\nB: A?": "A refers to itself",
    "start: /a*/": "may be empty",
    'start: /a+?/ "b"': "lazy quantifier",
    "start: /a|ab/": "put the longer one before it",
    'start: /^a/ "b"': "an anchor inside",
    "start: /(?=a)b/": "look-ahead",
    "start: /a/i": "ignore case",
    'start: "\\ud800"': "half of a surrogate pair",
    "%import .other.A\nstart: A": "imports from 'other'",
    "%import secret.A\nstart: A": "imports from 'secret'",
    "%import common.NOTHING\nstart: NOTHING": "does not load",
    "start: " + 9000 * "(" + '"a"' + 9000 * ")": "nested too deeply",
    "start: /" + 80 * "\\": "pairs of backslashes",
    'start: "a"\nb: "' + 80 * "\\" + "\na: /b/": "pairs of backslashes",
    "start: " + 30000 * "\n": "256 or more blanks",
    "\n".join(f'r{i}: "a"' for i in range(10**5)): "letters, at most 32,768",
    "\n".join(["start: r0", *(f"r{i}: r{i + 1} r{i + 1}" for i in range(60)), 'r60: "a"']): "too large",
    "\n".join(["start: R0", *(f"R{i}: R{i + 1} R{i + 1}" for i in range(60)), 'R60: "a"']): "more than 10^12 parts",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:24])
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, text):
    (tmp_path / "secret.lark").write_text('A: "a"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(BAD[text])) as error:
        grammar.lark(text, toys.byte_level(), depth=1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_depth_without_a_text_names_the_first_with_one():
    text = 'start: x y\nx: "(" y ")" | "x"\ny: x "b"'
    with pytest.raises(InputError, match="derives no text at depth=0, give depth=1"):
        grammar.lark(text, toys.byte_level(), depth=0)
    assert accepts(text, 1)("xxb") and parses(text, "xxb")


def test_a_depth_that_is_too_large_says_by_how_much():
    kinds = "|".join(f'"{a}" start "{a}"' for a in "abcdefgh")
    with pytest.raises(InputError, match=r"is too large.* at most [\d,]+ are taken: lower"):
        grammar.lark(f'start: {kinds} | "x"', toys.byte_level(), depth=9)
    for depth in (-1, 33, 1.5, "2"):
        with pytest.raises(InputError, match="depth"):
            grammar.lark(BRACKETS, toys.byte_level(), depth=depth)


def test_another_start_and_another_depth_are_other_grammars():
    lm = toys.byte_level()
    text = 'start: other\nother: "(" other ")" | "a"'
    one, two = grammar.lark(text, lm, depth=1), grammar.lark(text, lm, depth=2)
    ids = lm.tokenizer.encode_inside("((a))")
    assert not one.accepts(ids) and two.accepts(ids) and one.words != two.words
    with pytest.raises(InputError, match="start is not used by other"):
        grammar.lark(text, lm, start="other")


@pytest.mark.slow
def test_a_row_of_a_decode_is_a_sentence_beside_a_free_one():
    lm, name = jd.load("tiny"), '("Alan" | "Kate" | "Omar")'
    text = f'start: "[" (start | {name})+ "]"\n%ignore " "'
    out = jd.decode(lm, 2 * ["reverse : [ Alan , Kate , Omar ]"], max_new=16, block=16, lark=[text, None])
    assert parses(text, out.text[0]) and out.text[1] == "[ Omar , Kate , Alan ]"


def test_without_the_package_one_error_names_the_extra(monkeypatch):
    for name in ("lark", "lark.exceptions", "lark.load_grammar"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"the package lark: pip install .*(\[grammar\]|lark==)"):
        context_free.tree('start: "a"', 0, "start")
