"""What rows ask of their sampling: each gets what `decode` gives it alone, in one program with those that ask for nothing."""

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import decode
from jaxdlm.batch import sampling
from jaxdlm.batch.engine import Policies
from jaxdlm.batch.rows import Defaults, Raw, Refusal, randomness_key, read
from jaxdlm.batch.source import scan
from jaxdlm.rules import sample, select_above
from tests.batch.jobs import job, results, rows, write
from tests.batch.jobs import read as output
from tests.batch.test_slots import TRACE
from tests.conformance.toy_models import VOCAB
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, model

BIAS = {"5": 4.0, "9": -100.0}
ASKS = [
    {}, {"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.5, "top_k": 3}, {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 2.0, "min_p": 0.3}, {"temperature": 1.0, "typical_p": 0.4}, {"repetition_penalty": 2.0},
    {"temperature": 1.0, "presence_penalty": 1.5}, {"frequency_penalty": 2.0}, {"logit_bias": BIAS},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "frequency_penalty": 0.5, "logit_bias": {"3": -5}},
]  # fmt: skip
SIDE = {"max_new": 12, "slots": 6, "policy": "autoregressive"}


def asked(fields=ASKS) -> list[dict]:
    return [{"id": f"row {i}", "tokens": list(PROMPTS[i % len(PROMPTS)])} | each for i, each in enumerate(fields)]


def policy_of(row: dict):
    """What a row asks for, as a caller of `decode` would write it; of one structure, which compiles once."""
    asks = sampling.PLAIN | row
    guides = [
        jd.guides.presence(asks["presence_penalty"]), jd.guides.frequency(asks["frequency_penalty"]),
        jd.guides.repetition(asks["repetition_penalty"]), jd.guides.logit_bias(asks["logit_bias"], model(0)),
    ]  # fmt: skip
    filters = {name: asks[name] for name in ("top_k", "top_p", "min_p", "typical_p")}
    return jd.autoregressive(np.float32(row.get("temperature", 0)), guide=guides[::-1], **filters)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    source = write(folder / "in.jsonl", asked())
    assert job(source, folder / "out", lm=model(0), **SIDE).run() == 0
    return folder, source


@pytest.mark.slow
def test_rows_are_those_of_decode(done):
    folder, _ = done
    for row, got in zip(asked(), output(folder / "out"), strict=True):
        key = [randomness_key(row["id"])]
        alone = decode(model(0), [row["tokens"]], policy_of(row), max_new=12, ids=key)
        assert got["tokens"] == alone.tokens[0].tolist(), row
    plain = decode(model(0), [PROMPTS[0]], "autoregressive", max_new=12)
    assert output(folder / "out")[0]["tokens"] == plain.tokens[0].tolist(), "what asks for nothing is as it was"
    texts = [tuple(row["tokens"]) for row in output(folder / "out")]
    assert len(set(texts)) > 9, "and they are not all the same"


def test_batch_order_and_neighbours_do_not_matter(done, tmp_path):
    """Permuted, in other batches; and other values, of the same fields, run the same program."""
    folder, source = done
    events = []
    listen = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert job(write(tmp_path / "b.jsonl", asked()[::-1]), tmp_path / "b", lm=model(0), **SIDE).run() == 0
        other = [each | {"min_p": 0.01 * i, "top_k": 5 + i} for i, each in enumerate(ASKS)]
        assert job(write(tmp_path / "c.jsonl", asked(other)), tmp_path / "c", lm=model(0), **SIDE).run() == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert TRACE not in events
    assert output(tmp_path / "b")[::-1] == output(folder / "out")
    assert results(tmp_path / "c") != results(folder / "out")
    assert scan(source).asked == {"temperature", *sampling.FIELDS}


@pytest.mark.exhaustive
def test_alone_and_by_threes(done, tmp_path):
    folder, source = done
    assert job(source, tmp_path / "three", lm=model(0), **SIDE | {"slots": 3}).run() == 0
    assert results(tmp_path / "three") == results(folder / "out")
    for i, row in enumerate(asked()):
        assert job(write(tmp_path / "a.jsonl", [row]), tmp_path / f"{i}", lm=model(0), **SIDE).run() == 0
        assert output(tmp_path / f"{i}")[0] == output(folder / "out")[i], row


@pytest.mark.slow
def test_a_draft_and_a_grammar_beside(tmp_path):
    """Numbers and penalties hold behind drafts, too; `lookup` at temperature 0 writes what `autoregressive` does."""
    source = write(tmp_path / "in.jsonl", asked([{}, {"frequency_penalty": 2.0}, {"logit_bias": BIAS}]))
    for policy in ("lookup", "autoregressive"):
        assert job(source, tmp_path / policy, lm=model(0), **SIDE | {"policy": policy}).run() == 0
    both = [[row["tokens"] for row in output(tmp_path / policy)] for policy in ("lookup", "autoregressive")]
    assert both[0] == both[1]


DRAWN = [
    {}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2}, {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 2.0, "min_p": 0.5, "logit_bias": {"7": 3.0}}, {"temperature": 1.0, "typical_p": 0.3},
    {"logit_bias": {"7": 100}},
]  # fmt: skip


@pytest.mark.slow
def test_diffusion_rows_are_those_of_decode_and_of_any_slot(tmp_path):
    own = [row | each for row, each in zip(rows(len(DRAWN)), DRAWN, strict=True)]
    source = write(tmp_path / "in.jsonl", own)
    assert job(source, tmp_path / "out", slots=2).run() == 0
    assert job(write(tmp_path / "b.jsonl", own[::-1]), tmp_path / "b", slots=2).run() == 0
    assert output(tmp_path / "b")[::-1] == output(tmp_path / "out")
    for row, got in zip(own, output(tmp_path / "out"), strict=True):
        fields = {name: (sampling.PLAIN | row)[name] for name in ("top_k", "top_p", "min_p", "typical_p")}
        bias = np.zeros(VOCAB, np.float32)
        bias[7] = row.get("logit_bias", {}).get("7", 0)
        policy = jd.chain(sample(np.float32(row.get("temperature", 0)), **fields, logit_bias=bias), select_above(0.05))
        key = [randomness_key(row["id"])]
        alone = decode(diffusion("same"), [row["tokens"]], policy, max_new=8, block=4, ids=key)
        assert got["tokens"] == alone.tokens[0].tolist(), row


BAD = {
    "top_p": (1.5, "top_p=1.5: must be a number from 0 to 1"), "min_p": ("a", "min_p='a'"),
    "top_k": (-2, "top_k=-2: must be a whole number"), "typical_p": (0, "typical_p=0"),
    "presence_penalty": (3, "presence_penalty=3: must be a number from -2 to 2"), "frequency_penalty": (True, "penalty=True"),
    "repetition_penalty": (0, "repetition_penalty=0"), "logit_bias": ({"99": 1}, "token id=99"),
}  # fmt: skip


def parse(value, **defaults):
    return read(Raw(0, 3, value), model(0), Defaults(8, 0, **defaults), {})


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_by_line_and_name_in_both_schemas(name):
    value, message = BAD[name]
    for row in ({"tokens": [3], name: value}, {"custom_id": "a", "body": {"prompt": [3], name: value}}):
        refused = parse(row)
        assert isinstance(refused, Refusal) and refused.message.startswith("line 3: ") and message in refused.message


def test_neutral_values_ask_for_nothing():
    row = {"tokens": [3], **sampling.PLAIN, "top_k": -1, "temperature": 0}
    assert parse(row).asks == frozenset() and sampling.asked_by(row | {"top_k": 0}) == frozenset()
    assert sampling.asked_by({"custom_id": "a", "body": {"top_p": 0.5, "n": 1}}) == {"top_p"}


def test_what_a_diffusion_model_cannot_honour_is_refused_for_that_row_alone(tmp_path):
    own = rows(4, frequency_penalty=[None, 0.5, 0, None])
    assert job(write(tmp_path / "in.jsonl", own), tmp_path / "out").run() == 0
    assert job(write(tmp_path / "clean.jsonl", own[:1]), tmp_path / "clean").run() == 0
    answers = output(tmp_path / "out")
    assert [row["status"] == "error" for row in answers] == [False, True, False, False]
    assert answers[1]["error"].startswith("line 2: frequency_penalty is for rows of autoregressive models")
    assert answers[0]["tokens"] == output(tmp_path / "clean")[0]["tokens"]


def test_a_policy_that_draws_nothing_refuses_filters_and_takes_penalties():
    refused = sampling.refusals(Policies(jd.autoregressive(), None, None), "toy")
    assert set(refused) == {"top_k", "top_p", "min_p", "typical_p"}
    assert "top_k means nothing to this policy" in parse({"tokens": [3], "top_k": 2}, refused=refused).message
    assert parse({"tokens": [3], "presence_penalty": 1}, refused=refused).asks == {"presence_penalty"}
