"""Canvases with keys and marks of JSON on them: what stands where, what is written between, what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode, grammar
from tests.conformance.spelling import spelling_model
from tests.grammar import toys

SCHEMA = {
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "home": {"properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"$ref": "#/$defs/answer"}}},
    },
    "$defs": {"answer": {"type": "boolean"}},
}  # fmt: skip
COLUMNS = {"name": 8, "age": 3, "home.city": 10, "home.old": 5}


def test_keys_and_marks_stand_and_values_have_their_columns():
    lm = toys.byte_level()
    made, mask = grammar.skeleton(SCHEMA, lm, columns=COLUMNS), lm.config.tokens.mask
    assert {name: end - begin for name, (begin, end) in made.slots.items()} == COLUMNS
    values = {"name": '"Al"', "age": "7 ", "home.city": '"Rome"', "home.old": "true"}
    canvas, around = made.canvas.tolist(), []
    for at, (begin, end) in sorted(made.slots.items(), key=lambda each: each[1]):
        assert canvas[begin:end] == [mask] * (end - begin)
        around.append(at)
    assert around == list(COLUMNS)
    text, last = "", 0
    for name, (begin, end) in made.slots.items():
        text, last = text + lm.tokenizer.decode(canvas[last:begin]) + values[name], end
    text += lm.tokenizer.decode(canvas[last:])
    assert text == '{"name": "Al", "age": 7 , "home": {"city": "Rome", "old": true}}'
    assert made.grammar.accepts(lm.tokenizer.encode_inside(text)), "spaces behind a value are the language's"
    assert not made.grammar.accepts(lm.tokenizer.encode_inside(text.replace("7", "-7")))
    assert repr(made) == f"<Skeleton of {len(canvas)} columns: name 8, age 3, home.city 10, home.old 5>"


@pytest.mark.slow
def test_a_diffusion_model_writes_the_values_alone():
    lm = spelling_model("same")
    made = grammar.skeleton(SCHEMA, lm, columns=COLUMNS)
    pinned = np.flatnonzero(made.canvas != lm.config.tokens.mask)
    for temperature in (0.0, 1.0):
        policy = jd.threshold(0.05, temperature=jnp.float32(temperature))
        out = decode(lm, ["ab", "name"], policy, grammar=made, block=16, raw=True)
        assert out.tokens.shape == (2, len(made.canvas)) and (out.forwards < sum(COLUMNS.values())).all()
        np.testing.assert_array_equal(out.tokens[:, pinned], made.canvas[None, pinned].repeat(2, 0))
        for text in out.text:
            value = json.loads(text)
            assert list(value) == ["name", "age", "home"] and list(value["home"]) == ["city", "old"]
            assert value["age"] >= 0 and value["home"]["city"] in ("Paris", "Rome")
            assert isinstance(value["home"]["old"], bool)


@pytest.mark.exhaustive
def test_rows_with_other_languages_beside_it_keep_their_own():
    lm = spelling_model("same")
    both = [grammar.skeleton(SCHEMA, lm, columns=COLUMNS), grammar.choices(["Paris", "Rome"], lm)]
    out = decode(lm, ["ab", "name"], jd.threshold(0.05), grammar=both, block=16, raw=True, max_new=64)
    assert json.loads(out.text[0])["age"] >= 0 and out.text[1] in ("Paris", "Rome")


def test_what_is_refused():
    lm, few = toys.byte_level(), {"properties": {"a": {"enum": ["Paris and Rome"]}, "b": {"type": "null"}}}
    with pytest.raises(InputError, match=r"columns\['a'\] is 2, and its shortest value takes \d+: give more"):
        grammar.skeleton(few, lm, columns={"a": 2, "b": 4})
    with pytest.raises(InputError, match="columns has none for 'b': say how many tokens its value may take"):
        grammar.skeleton(few, lm, columns={"a": 9})
    with pytest.raises(InputError, match=r"columns.*'c'"):
        grammar.skeleton(few, lm, columns={"a": 9, "b": 4, "c": 3})
    with pytest.raises(InputError, match="json_schema # has no properties: a skeleton is made of an object's"):
        grammar.skeleton({"type": "string"}, lm)
    with pytest.raises(InputError, match="json_schema #/properties/a/patern is not supported"):
        grammar.skeleton({"properties": {"a": {"patern": "b"}}}, lm)
    with pytest.raises(InputError, match="this model has no mask: give it json_schema="):
        grammar.skeleton(few, spelling_model("causal"))
    with pytest.raises(InputError, match="a skeleton fills up with spaces, and this tokenizer has no token for one"):
        grammar.skeleton({"properties": {"Alan": {"type": "integer"}}}, jd.load("tiny"))
    made, model = grammar.skeleton(few, lm, columns=12), spelling_model("same")
    for more, what in (({"canvas": [[1]]}, "canvas"), ({"max_new": 40}, "max_new=40 means nothing with a skeleton")):
        with pytest.raises(InputError, match=what):
            decode(model, ["ab"], grammar=made, raw=True, **more)
    with pytest.raises(InputError, match="has a canvas of its own: a diffusion model fills it in"):
        decode(spelling_model("causal"), ["ab"], grammar=made, raw=True)
