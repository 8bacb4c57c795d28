"""The public functions: real vocabularies, ends, sizes, bad input."""

import itertools
import json
import random
import re
import types

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import grammar
from jaxdlm.errors import InputError
from tests.grammar import toys


@pytest.fixture(scope="module")
def tiny():
    return jd.load("tiny")


@pytest.fixture(scope="module")
def seven():
    return toys.of_words(toys.SEVEN)


@pytest.mark.parametrize("pattern", ["(ab)+", "a*", "(a(0|1)b)*", "01|10?"])
def test_expressions_of_seven_tokens(seven, pattern):
    """The whole way from a pattern and a model, against Python on the decoded text."""
    made, accepted = grammar.regex(pattern, seven), 0
    for size in range(5):
        for ids in itertools.product(range(6), repeat=size):
            expected = re.fullmatch(pattern, seven.tokenizer.decode(ids) if ids else "") is not None
            assert made.accepts(ids) == made.accepts([*ids, 6, 6]) == expected
            accepted += expected
    assert accepted


@pytest.mark.parametrize(
    "pattern",
    [r"-?\d+(\.\d+)?", "[^\n]{0,12}", r"é+|[\w ]{3,9}", r'"[^"]*"', r"(?s).{2,5}", r"\[ Alan( , Kate){1,3} \]"],
)
@pytest.mark.parametrize("name", ["byte_level", "tiny"])
def test_random_texts_match_when_decoded(tiny, pattern, name):
    lm = tiny if name == "tiny" else toys.byte_level()
    try:
        made = grammar.regex(pattern, lm)
    except InputError as error:
        assert "no text that tokens of this vocabulary spell" in str(error) and name == "tiny"
        return
    draw = random.Random(0)
    for _ in range(40):
        ids = toys.wander(made, draw, most=draw.randint(0, 12))
        assert made.accepts(ids) and made.accepts([*ids, *lm.config.tokens.eos])
        assert re.fullmatch(pattern, lm.tokenizer.decode(ids), re.ASCII), ids


def test_every_way_to_spell_a_text_is_accepted():
    lm = toys.byte_level()
    made = grammar.choices(["naïve name"], lm)
    pieces = {lm.tokenizer.decode([token]): token for token in range(lm.tokenizer.size - 3)}
    byte = {chr(value): token for value in range(128) if (token := pieces.get(chr(value))) is not None}
    letters = [byte[letter] if letter in byte else lm.tokenizer.encode_inside(letter) for letter in "naïve name"]
    alone = [token for each in letters for token in (each if isinstance(each, list) else [each])]
    usual = lm.tokenizer.encode_inside("naïve name")
    assert len(usual) < len(alone) and made.accepts(usual) and made.accepts(alone)
    assert made.min_tokens <= len(usual)


def test_the_mask_and_other_control_tokens_are_dead():
    lm = toys.byte_level()
    made = grammar.regex("(?s).*", lm)
    tokenizer = lm.tokenizer
    mask, user = (tokenizer.backend.token_to_id(tokenizer.aliases[each]) for each in ("<mask>", "<user>"))
    assert not made.classes[[mask, user]].any() and made.classes[tokenizer.eos[0]]
    text = "<user> and <mask> and <eos>"
    assert grammar.choices([text], lm).accepts(tokenizer.encode_inside(text)), "what spells a control token is letters"


def test_a_pad_that_is_a_word_stays_one(tiny):
    """And a pad that ends texts is an end."""
    words = ["a", "b", "<eos>", "<pad>"]
    lm = toys.model(toys.of_words(words).tokenizer, pad=0)
    assert grammar.regex("a", lm).accepts([0, 2]) and not grammar.regex("a", lm).accepts([0, 3])
    lm = toys.model(toys.of_words(words).tokenizer, pad=3, eos=(2, 3))
    assert grammar.regex("a", lm).accepts([0, 3, 2]) and not grammar.regex("a", lm).accepts([0, 3, 0])


def test_tiny_writes_json_with_spaces(tiny):
    made = grammar.json(tiny, depth=2)
    assert made == grammar.json(tiny, depth=2, whitespace=" ?")
    draw, kinds = random.Random(1), set()
    for _ in range(200):
        kinds.add(type(json.loads(tiny.tokenizer.decode(toys.wander(made, draw, most=20)))))
    assert {list, dict, str, int} <= kinds
    with pytest.raises(InputError, match="no text that tokens of this vocabulary spell"):
        grammar.json_schema({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, tiny)


def test_json():
    lm = toys.byte_level()
    draw, texts = random.Random(2), []
    made = [grammar.json(lm, depth) for depth in range(3)]
    for depth, each in enumerate(made):
        for _ in range(60):
            ids = toys.wander(each, draw, most=draw.randint(0, 30))
            json.loads(lm.tokenizer.decode(ids))
            texts.append((depth, ids))
    assert all(made[deeper].accepts(ids) for depth, ids in texts for deeper in range(depth, 3))
    assert not all(made[0].accepts(ids) for _, ids in texts)
    assert made[0].states < made[1].states < made[2].states and grammar.json(lm) == grammar.json(lm, 3)
    objects = grammar.json(lm, 1, objects=True)
    assert objects != made[1]
    assert {lm.tokenizer.decode(toys.wander(objects, draw, 20))[0] for _ in range(30)} == {"{"}


def test_choices(seven):
    made = grammar.choices(["ab", "a", "ab01"], seven)
    spelled = {"".join(toys.SEVEN[token] for token in ids) for size in range(5)
               for ids in itertools.product(range(6), repeat=size) if made.accepts(ids)}  # fmt: skip
    assert spelled == {"ab", "a", "ab01"}
    assert grammar.choices(("ab", "a"), seven) != grammar.choices(
        ["a", "ab"], seven
    )  # their order is of use to callers
    numbers = grammar.choices(map(str, range(5000)), toys.byte_level())
    assert numbers.accepts(toys.byte_level().tokenizer.encode_inside("4999")) and numbers.states < 40


BAD_CHOICES = {
    "none": ([], "choices is empty: give at least one text"),
    "a string": ("yes", "choices='yes': must be a list of strings"),
    "without end": (map(str, itertools.count()), "choices has more than 65,536 texts"),
    "a table": ({"a": 1}, "choices={'a': 1}: must be a list of strings"),
    "a number": (3, "choices=3: must be a list of strings"),
    "of numbers": (["a", 3], r"choices\[1\]=3: must be a string"),
    "an empty one": (["a", ""], r"choices\[1\] is empty: leave it out"),
    "twice": (["a", "b", "a"], r"choices\[0\] and choices\[2\] are both 'a': leave one out"),
    "half a pair": (["a\ud800"], r"choices\[0\] is not valid text at 1: it holds half of a surrogate pair"),
    "too many": (map(str, range(10**5)), "choices has more than 65,536 texts or 524,288 letters"),
    "too long": (["a" * 2**20], r"choices\[0\] has 1,048,576 letters: give a text of less than 16,384"),
    "too long together": (
        ("a" * n for n in range(10**4, 10**4 + 60)),
        "choices has more than 65,536 texts or 524,288 letters: give fewer or shorter",
    ),
    "no tokens": (["a", "ac"], r"choices\[1\]='ac' cannot be spelled by the tokens of this model"),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_bad_choices(seven, name):
    texts, message = BAD_CHOICES[name]
    with pytest.raises(InputError, match=message) as error:
        grammar.choices(texts, seven)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda lm: grammar.regex(3, lm), "pattern=3: must be a string"),
        (lambda lm: grammar.regex("a\ud800", lm), "regex is not valid text at 1: it holds half of a surrogate pair"),
        (lambda lm: grammar.json_schema({"const": "\ud800"}, lm), "json_schema is not valid text at 11: it holds half"),
        (lambda lm: grammar.regex("[\\ud800-\\udfff]", lm), "regex .* is empty: no text belongs to it"),
        (lambda lm: grammar.regex("c", lm), "regex 'c' has no text that tokens of this vocabulary spell"),
        (
            lambda lm: grammar.regex("a{70000}", lm),
            "regex 'a{70000}' is too large: written out it has".replace("{", r"\{"),
        ),
        (lambda lm: grammar.json(lm, -1), "depth=-1: must be a whole number from 0 to 6"),
        (lambda lm: grammar.json(lm, 7), "depth=7: must be a whole number from 0 to 6"),
        (lambda lm: grammar.json(lm, 0, objects=True), "depth=0: must be a whole number from 1 to 6"),
        (lambda lm: grammar.json(lm, objects=1), "objects=1: must be true or false"),
        (lambda lm: grammar.json_schema({}, lm, whitespace=3), "whitespace=3: must be a string"),
        (lambda lm: grammar.json_schema({}, lm, depth=9), "depth=9: must be a whole number from 0 to 6"),
        (lambda lm: grammar.json_schema({"x": 1}, lm), "json_schema #/x is not supported"),
    ],
)
def test_bad_arguments(seven, call, message):
    with pytest.raises(InputError, match=message):
        call(seven)


def test_a_table_no_bucket_holds(seven, monkeypatch):
    monkeypatch.setattr("jaxdlm.grammar.make.MOST_ENTRIES", 500)
    with pytest.raises(InputError, match=r"regex '.*' is too large for this vocabulary: \d+ states and \d classes"):
        grammar.regex("(a|b){50}1", seven)


def test_unconstrained(seven):
    """What decoding may write without a grammar: all but the mask and ids beyond the tokenizer."""
    from jaxdlm.core.readout import text_ids

    lm = jd.load("tiny")
    made = grammar.unconstrained(lm)
    assert made.next.tolist() == [[0, 0], [0, 1]] and made.accepting.tolist() == [False, True] and made.min_tokens == 0
    np.testing.assert_array_equal(made.classes == 1, text_ids(lm.model, np.arange(512)))
    beyond = toys.model(seven.tokenizer, size=9, tokenizer_size=7, mask=5)
    assert grammar.unconstrained(beyond).classes.tolist() == [1, 1, 1, 1, 1, 0, 1, 0, 0]
    bare = types.SimpleNamespace(tokenizer=None, config=beyond.config)
    assert grammar.unconstrained(bare) == grammar.unconstrained(beyond) != grammar.unconstrained(lm)
