"""Autoregressive models: whole batches under the same job format."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm import decode
from jaxdlm._load import LM
from jaxdlm.batch.cli import make_mesh
from jaxdlm.batch.rows import randomness_key
from jaxdlm.errors import InputError
from jaxdlm.models import Backbone
from jaxdlm.speculative import speculative
from tests.batch.jobs import job, policies, read, results, write
from tests.batch.test_engine import job_of
from tests.batch.test_slots import TRACE
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, expected, model, near

ASKED = [{"id": f"row {i}", "tokens": list(prompt)} for i, prompt in enumerate(PROMPTS)]


@pytest.mark.slow
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


@pytest.mark.slow
def test_rows_are_the_same_on_several_devices(tmp_path):
    """Rows along data, as many on each device as there are slots; what one device alone wrote before."""
    source = write(tmp_path / "in.jsonl", ASKED)
    options = {"policy": "autoregressive", "max_new": 12, "slots": 5}
    assert job(source, tmp_path / "one", lm=model(0), **options).run() == 0
    mesh = make_mesh("data=2")
    spread = dataclasses.replace(model(0), params=jax.device_put(model(0).params, NamedSharding(mesh, PartitionSpec())))
    several = job(source, tmp_path / "two", lm=spread, devices=2, **options)
    assert several.engine.slots == 10 and several.run() == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_model_and_policy_must_meet(tmp_path):
    source = write(tmp_path / "in.jsonl", ASKED)
    with pytest.raises(InputError, match="needs an autoregressive target"):
        job(source, tmp_path / "out", lm=diffusion("same"), policy="autoregressive")
    with pytest.raises(InputError, match="block=4: an autoregressive model writes no blocks"):
        job(source, tmp_path / "out", lm=model(0), policy="autoregressive", block=4)
    with pytest.raises(InputError, match="PrefixCache: an autoregressive model always keeps its keys"):
        job(source, tmp_path / "out", lm=model(0), policy="autoregressive", cache="prefix")
    with pytest.raises(InputError, match="no mask token"):
        job(source, tmp_path / "out", lm=model(0))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_length_and_seed_are_data(tmp_path):
    """Rows of any length and seed share batches and programs, and each is as decode has it."""
    asked = [row | ({"seed": 9} if i % 2 else {"max_new": 3}) for i, row in enumerate(ASKED)]
    rule = speculative(near(model(3), 0.02), k=3, temperature=1.0)
    options = {"lm": model(3), "max_new": 12, "slots": 3}
    assert job_of(rule, write(tmp_path / "in.jsonl", asked), tmp_path / "out", **options).run() == 0
    found = read(tmp_path / "out")
    for first, own in enumerate([{"max_new": 3, "seed": 0}, {"max_new": 12, "seed": 9}]):
        some, keys = ASKED[first::2], [randomness_key(row["id"]) for row in ASKED[first::2]]
        out = decode(model(3), [row["tokens"] for row in some], rule, **own, ids=keys)
        assert [row["tokens"] for row in found[first::2]] == out.tokens.tolist()
        assert [row["forwards"] for row in found[first::2]] == out.forwards.tolist()
    events = []
    listen = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        other = [row | {"max_new": 2 + i, "seed": i} for i, row in enumerate(ASKED)]
        assert job_of(rule, write(tmp_path / "more.jsonl", other), tmp_path / "more", **options).run() == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert TRACE not in events


def short_draft(positions: int) -> LM:
    """A draft that reads no more than so many positions."""
    lm = near(model(3), 0.02)
    return LM(Backbone(dataclasses.replace(lm.config, max_position=positions)), lm.params, None, "short")


@pytest.mark.slow
def test_a_row_that_the_draft_cannot_do_is_refused_alone(tmp_path):
    """A row of two tokens is shorter than any draft and gets its two; one beyond the draft's positions is named."""
    asked = [row | {"max_new": 2 if i == 1 else None} for i, row in enumerate(ASKED)]
    long = {"id": "long", "tokens": [3] * 16}
    source = write(tmp_path / "in.jsonl", [*asked, long])
    options = {"lm": model(3), "max_new": 12, "slots": 6}
    assert job_of(speculative(short_draft(24), k=3), source, tmp_path / "out", **options).run() == 0
    found = read(tmp_path / "out")
    want = expected(3).tolist()
    assert [row["tokens"] for row in found] == [want[0], want[1][:2], *want[2:], None]
    assert found[-1]["error"].startswith(
        "line 6 (max_new=12): a prompt of 16 tokens with max_new=12 is more than the 24"
    )


def test_pairs_that_do_not_meet_are_refused_before_anything_is_written(tmp_path):
    source = write(tmp_path / "in.jsonl", ASKED)
    options = {"lm": model(3), "max_new": 12}
    with pytest.raises(InputError, match="different vocabularies"):
        job_of(speculative(model(4, vocab=29)), source, tmp_path / "out", **options)
    with pytest.raises(InputError, match="more than the 12 positions of draft short"):
        job_of(speculative(short_draft(12)), source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
