"""Rows of a batch whose language nests without a bound: slots and chunks give what `decode` gives, beside any others."""

import importlib.util

import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm.batch.rows import randomness_key
from jaxdlm.command import language
from jaxdlm.sharding import make_mesh
from jaxdlm.structured import Nested, asked_by, nested
from tests.batch.jobs import job, read, write
from tests.conformance.spelling import spelling_model
from tests.grammar.test_checked import BRACKETS
from tests.marks import exhaustive

needs = pytest.mark.skipif(not importlib.util.find_spec("llguidance"), reason="needs llguidance")
PROMPT = "reverse : [ Alan , Kate , Omar ]"


@needs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "policy", "block"),
    [("same", "threshold,tau=0.05", {"block": 8}), exhaustive(("causal", "lookup,k=3", {}))],
)
def test_rows_are_those_of_decode(kind, policy, block, tmp_path):
    lm = spelling_model(kind)
    asked = [{"grammar": {"lark": BRACKETS, "depth": None}}, {}, {"lark": BRACKETS}]
    prompts = ["ab", "name", "Paris, 1"]
    rows = [{"id": f"row {i}", "prompt": text} | own for i, (text, own) in enumerate(zip(prompts, asked, strict=True))]
    options = {"lm": lm, "policy": policy, "max_new": 16, "depth": None, "raw": True, "slots": 2, **block}
    assert job(write(tmp_path / "in.jsonl", rows), tmp_path / "out", **options).run() == 0
    free = jd.grammar.lark(BRACKETS, lm, depth=None)
    for row, own, got in zip(rows, [free, None, free], read(tmp_path / "out"), strict=True):
        run = {"max_new": 16, "ids": [randomness_key(row["id"])], "grammar": own, "raw": True, **block}
        alone = decode(lm, [row["prompt"]], policy, **run)
        assert got["tokens"] == alone.tokens[0].tolist()[: len(got["tokens"])] and got["text"] == alone.text[0]
        assert own is None or own.accepts(alone.tokens[0])


@needs
def test_weights_that_are_split_leave_no_room_for_a_checker(tmp_path):
    lm = spelling_model("same")
    rows = [{"id": 0, "prompt": "ab", "lark": BRACKETS}]
    options = {"lm": lm, "policy": "threshold", "max_new": 16, "depth": None, "raw": True, "slots": 2, "block": 8}
    mesh = make_mesh({"data": 1, "tensor": 2})
    job(write(tmp_path / "in.jsonl", rows), tmp_path / "out", mesh=mesh, **options).run()
    assert "without a bound (depth=None) is checked on the host" in read(tmp_path / "out")[0]["error"]


def test_a_depth_is_that_of_what_nests():
    assert asked_by({"grammar": {"lark": "start: x", "depth": None}}, "line 1") == ("lark", Nested("start: x", None))
    assert nested(("lark", Nested("start: x", 2)), None) == ("lark", Nested("start: x", 2))
    assert nested(("regex", "a"), None) == ("regex", "a") and nested(("json", True), "usual") == ("json", True)
    assert language(None, None, None, True, None, 2) == {"json": Nested(True, 2)}
    for own, words in [
        ({"regex": "a", "depth": 1}, "grammar.depth means nothing beside regex"),
        ({"json": True, "depth": -1}, "grammar.depth"), ({"json": True, "deep": 1}, "may have a depth"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=rf"^line 1: .*{words}|^line 1: {words}"):
            asked_by({"grammar": own}, "line 1")
    with pytest.raises(InputError, match="json=2 is a depth of its own"):
        decode(jd.load("tiny"), [PROMPT], json=Nested(2, 1), max_new=8)
