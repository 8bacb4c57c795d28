"""Autoregressive models: whole batches under the same job format."""

import pytest

from jaxdlm import decode
from jaxdlm.batch.rows import randomness_key
from jaxdlm.errors import InputError
from tests.batch.jobs import job, policies, read, results, write
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, model

ASKED = [{"id": f"row {i}", "tokens": list(prompt)} for i, prompt in enumerate(PROMPTS)]


def test_rows_are_those_of_decode_whatever_the_batch(tmp_path):
    source = write(tmp_path / "in.jsonl", [*ASKED, {"id": "empty", "tokens": []}])
    options = {"lm": model(0), "policy": "autoregressive", "max_new": 12}
    assert job(source, tmp_path / "out", slots=5, **options).run() == 0
    found = read(tmp_path / "out")
    keys = [randomness_key(row["id"]) for row in ASKED]
    out = decode(model(0), PROMPTS, policies("autoregressive").plain, max_new=12, ids=keys)
    assert [row["tokens"] for row in found[:-1]] == out.tokens.tolist()
    assert [row["forwards"] for row in found[:-1]] == out.forwards.tolist()
    assert found[-1]["status"] == "error"
    assert job(source, tmp_path / "two", slots=2, order="input", **options).run() == 0
    assert results(tmp_path / "two") == results(tmp_path / "out")


def test_model_and_policy_must_meet(tmp_path):
    source = write(tmp_path / "in.jsonl", ASKED)
    with pytest.raises(InputError, match="needs an autoregressive one"):
        job(source, tmp_path / "out", lm=diffusion("same"), policy="autoregressive")
    with pytest.raises(InputError, match="no mask token"):
        job(source, tmp_path / "out", lm=model(0))
