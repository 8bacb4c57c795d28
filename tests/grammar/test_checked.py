"""Languages that a checker on the host knows: what belongs, what may follow, and how a text is ended in time."""

import importlib.util
import json
import random
import sys

import numpy as np
import pytest
from lark import Lark

import jaxdlm as jd
from jaxdlm import InputError, grammar
from jaxdlm.grammar import checked, witness
from jaxdlm.grammar.spelling import spelling_of
from tests.grammar import toys

needed = pytest.mark.skipif(not importlib.util.find_spec("llguidance"), reason="needs llguidance")
BRACKETS = 'start: "(" (start | "a")* ")"\n'
SUMS = 'start: sum\nsum: [sum "+"] term\nterm: /[0-9]+/ | "(" sum ")"\n'
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object", "required": ["v", "kids"],
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        }
    },
}  # fmt: skip


def balanced(text):
    """`BRACKETS`, without a parser."""
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter not in "()a" or (depth <= 0) != (place == len(text) - 1):
            return False
    return depth == 0 and len(text) > 1


def is_tree(text):
    def node(value):
        return list(value) == ["v", "kids"] and isinstance(value["v"], int) and all(map(node, value["kids"]))

    return node(json.loads(text))


def parses(text):
    value = json.loads(text)
    return isinstance(value, dict)


LANGUAGES = {
    "brackets": (lambda lm: grammar.lark(BRACKETS, lm, depth=None), balanced),
    "sums": (lambda lm: grammar.lark(SUMS, lm, depth=None), lambda text: bool(Lark(SUMS, lexer="dynamic_complete").parse(text))),
    "tree": (lambda lm: grammar.json_schema(TREE, lm, depth=None), is_tree),
    "object": (lambda lm: grammar.json(lm, depth=None, objects=True), parses),
}  # fmt: skip


def spelled(lm, text):
    """Ids of single letters."""
    letters = {bytes_: ids[0] for bytes_, ids in spelling_of(lm).tokens[0].items()}
    return [letters[bytes([each])] for each in text.encode()]


@needed
def test_what_belongs_is_what_a_judge_without_a_parser_says():
    lm, draw = toys.byte_level(), random.Random(0)
    made = grammar.lark(BRACKETS, lm, depth=None)
    for _ in range(300):
        text = "".join(draw.choice("(()a)") for _ in range(draw.randint(1, 9)))
        assert made.accepts([*spelled(lm, text), lm.config.tokens.eos[0]]) == balanced(text), text
    assert made.accepts(spelled(lm, "(" * 40 + ")" * 40)), "deeper than any bound of `lark`"
    assert not made.accepts([*spelled(lm, "()"), lm.config.tokens.eos[0], spelled(lm, "a")[0]])


@needed
@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGES)
def test_whatever_is_allowed_ends_in_time_and_belongs(name):
    """Walks of random allowed tokens, in much room and in little."""
    lm, rng = toys.byte_level(), np.random.default_rng(1)
    make, judge = LANGUAGES[name]
    made = make(lm)
    assert made is make(lm), "made once"
    for room in (made.min_tokens, made.min_tokens + 3, 30):
        for _ in range(3):
            text = []
            while len(text) < room and (allowed := made.allowed(tuple(text), room - len(text))).any():
                token = int(rng.choice(np.flatnonzero(allowed)))
                if token in made.ends:
                    break
                text.append(token)
            assert made.accepts(text), lm.tokenizer.decode(text)
            assert judge(lm.tokenizer.decode(text))


BOUNDED = {
    "type": "object", "required": ["s", "l"], "additionalProperties": False,
    "properties": {
        "s": {"type": "string", "minLength": 2, "maxLength": 5},
        "l": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
}  # fmt: skip


@needed
@pytest.mark.slow
@pytest.mark.parametrize("few", [4, 64])
def test_what_was_tried_at_one_place_is_what_a_place_like_it_allows(few, monkeypatch):
    """Of random walks through strings and lists with bounds: tokens that were tried before at places with the same tokens
    behind them and the same end are those that a new trial finds."""
    monkeypatch.setattr(checked, "FEW", few)
    lm, rng = toys.byte_level(), np.random.default_rng(3)
    made = [*(make(lm) for make, _ in LANGUAGES.values()), grammar.json_schema(BOUNDED, lm, depth=None)]
    once, again = checked.Closer._once, []

    def counted(self, key, make):
        again.extend([key] * (key in self._known))
        return once(self, key, make)

    monkeypatch.setattr(checked.Closer, "_once", counted)
    for language in made:
        for room in (language.min_tokens + 4, 30):
            text = []
            while len(text) < room:
                allowed = language.allowed(tuple(text), room - len(text))
                known, language.closer._known = language.closer._known, type(language.closer._known)()
                assert np.array_equal(allowed, language.allowed(tuple(text), room - len(text))), text
                language.closer._known = known
                if (token := int(rng.choice(np.flatnonzero(allowed)))) in language.ends:
                    break
                text.append(token)
    assert len(again) > 10


@needed
def test_the_known_text_is_as_short_as_can_be():
    lm = toys.byte_level()
    assert lm.tokenizer.decode(LANGUAGES["brackets"][0](lm).shortest) == "()"
    assert lm.tokenizer.decode(LANGUAGES["object"][0](lm).shortest) == "{}"
    assert json.loads(lm.tokenizer.decode(LANGUAGES["tree"][0](lm).shortest))["kids"] == []


@needed
@pytest.mark.slow
def test_a_witness_belongs_keeps_what_is_written_and_agrees_where_it_can():
    """From canvases of any order: some columns of a sentence are written, others are wished for."""
    lm, draw = toys.byte_level(), random.Random(2)
    made, columns = grammar.lark(BRACKETS, lm, depth=None), 10
    end = made.ends[0]
    for _ in range(60):
        sentence = "(" + "".join(draw.choice(["a", "()", "(a)"]) for _ in range(draw.randint(0, 2))) + ")"
        ids = spelled(lm, sentence)
        text = np.array([*ids, *[end] * (columns - len(ids))], np.int32)
        fixed = np.array([draw.random() < 0.4 for _ in range(columns)])
        old = witness.first_text(made, text, fixed)
        if old is None:
            continue  # nothing was found from nothing; with a witness there is always one
        assert made.accepts(old) and (old[fixed] == text[fixed]).all()
        wish = np.where(~fixed & (np.arange(columns) < columns), text, -1).astype(np.int32)
        best, logp = np.full((columns, 1), -1, np.int32), np.zeros((columns, 1), np.float32)
        new = witness.nearest(made.number, old, 0, columns, fixed, text, wish, best, logp)
        np.testing.assert_array_equal(new, text)  # all of it agrees
        wish[~fixed] = spelled(lm, "0")[0]  # of which nothing can
        new = witness.nearest(made.number, old, 0, columns, fixed, text, wish, best, logp)
        assert made.accepts(new) and (new[fixed] == text[fixed]).all()


@needed
@pytest.mark.slow
def test_a_text_of_many_required_fields_is_found():
    """Numbers, strings and escapes on the way have endless continuations, which crowd nothing out."""
    kinds = [
        {"type": "string"},
        {"type": "integer", "minimum": 0, "maximum": 120},
        {"enum": ["baker", "nurse"]},
        {"type": "boolean"},
    ]
    fields = {f"field {index}": kinds[index % 4] for index in range(12)}
    lm = toys.byte_level()
    made = grammar.json_schema({"properties": fields, "required": list(fields)}, lm, depth=None)
    assert list(json.loads(lm.tokenizer.decode(made.shortest))) == list(fields)


@needed
def test_a_text_that_does_not_fit_the_canvas_is_not_found():
    made = grammar.lark(BRACKETS, lm := toys.byte_level(), depth=None)
    pinned = np.array(spelled(lm, ")(("), np.int32)
    assert witness.first_text(made, pinned, np.array([True, False, False])) is None


def test_recursion_without_a_bound_is_refused_with_what_follows_it():
    with pytest.raises(InputError, match=r"recurs, .*a checker on the host .*json_schema\(schema, lm, depth=None\)"):
        grammar.json_schema(TREE, toys.byte_level())


@needed
def test_what_is_refused():
    lm = toys.byte_level()
    with pytest.raises(InputError, match="lark 'start: nothing' is refused by llguidance"):
        grammar.lark("start: nothing", lm, depth=None)
    with pytest.raises(InputError, match=r"json_schema #/properties/a/patern is not supported .did you mean .pattern"):
        grammar.json_schema({"properties": {"a": {"patern": "x"}}}, lm, depth=None)
    with pytest.raises(InputError, match=r"json_schema .* is refused by llguidance \(.*Unsatisfiable"):
        grammar.json_schema({"type": "string", "minLength": 3, "maxLength": 2}, lm, depth=None)
    with pytest.raises(InputError, match="start='other' means nothing with depth=None"):
        grammar.lark(BRACKETS, lm, depth=None, start="other")
    with pytest.raises(InputError, match="needs tokens that spell the same wherever they stand"):
        grammar.json(jd.load("tiny"), depth=None)
    with pytest.raises(InputError, match="no text of 512 tokens or fewer"):
        grammar.lark('start: "a" start\n', lm, depth=None)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InputError, match=r"checked by the package llguidance: pip install ."):
        checked.checked("lark:none", spelling_of(toys.byte_level()), lambda matcher: "", "lark 'none'")
