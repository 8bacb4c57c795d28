"""Rows that ask for several answers and for log-probabilities: what `decode` gives, in our own schema and in OpenAI's."""

import pytest

import jaxdlm as jd
from jaxdlm import decode
from jaxdlm.batch import answers
from jaxdlm.batch.engine import Result, whole
from jaxdlm.batch.rows import Defaults, Raw, Refusal, randomness_key, read
from tests.batch.jobs import job, rows, write
from tests.batch.jobs import read as output
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, model

ASKS = [{"n": 3}, {}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, "logprobs": True}, {"n": 3, "logprobs": 1}]
RUN = {"max_new": 6, "slots": 6, "policy": "autoregressive,temperature=1.0", "lm": model(0)}


def asked() -> list[dict]:
    return [{"id": f"row {i}", "tokens": list(PROMPTS[i])} | each for i, each in enumerate(ASKS)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    source = write(folder / "in.jsonl", asked())
    assert job(source, folder / "out", **RUN).run() == 0
    return source, folder / "out"


@pytest.mark.slow
def test_rows_are_those_of_decode(done):
    keys = [randomness_key(row["id"]) for row in asked()]
    out = decode(model(0), PROMPTS, jd.autoregressive(1.0), n=3, max_new=6, ids=keys, top_logprobs=20)
    for index, (ask, got) in enumerate(zip(ASKS, output(done[1]), strict=True)):
        every = got.get("choices", [got])
        assert len(every) == ask.get("n", 1) and got["tokens"] == every[0]["tokens"]
        for sample, one in enumerate(every):
            row = 3 * index + sample
            assert one["tokens"] == out.tokens[row].tolist()
            assert ("logprobs" in one, "top_logprobs" in one) == ("logprobs" in ask, index in (2, 4))
            written = int((out.commit_step[row] >= 0).sum())
            if "logprobs" in ask:
                assert one["logprobs"] == pytest.approx(out.logprobs[row, :written].tolist(), abs=1e-4)
            if index in (2, 4):
                beside = 2 if index == 2 else 1
                tokens = [[token for token, _ in column] for column in one["top_logprobs"]]
                assert tokens == out.top_tokens[row, :written, :beside].tolist()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_neighbours_order_and_slots_do_not_matter(done, tmp_path):
    source, folder = done
    assert job(write(tmp_path / "b.jsonl", asked()[::-1]), tmp_path / "b", **RUN).run() == 0
    assert output(tmp_path / "b")[::-1] == output(folder)
    assert job(source, tmp_path / "two", **RUN | {"slots": 2}).run() == 0, "fewer slots than answers: a row at a time"
    for one, other in zip(output(tmp_path / "two"), output(folder), strict=True):
        for a, b in zip(one.get("choices", [one]), other.get("choices", [other]), strict=True):
            assert a["tokens"] == b["tokens"]
            assert a.get("logprobs", []) == pytest.approx(b.get("logprobs", []), abs=2e-4), "float32, another shape"


@pytest.mark.slow
def test_openai_choices_and_log_probabilities(tmp_path):
    lm = jd.load("tiny-ar")
    ask = {"temperature": 1, "max_tokens": 6, "n": 2}
    prompt = "reverse : [ Alan , Kate ]"
    chat = {"messages": [{"role": "user", "content": prompt}], "logprobs": True, "top_logprobs": 3}
    own = [
        {"custom_id": "a", "body": ask | chat},
        {"custom_id": "b", "body": ask | {"prompt": prompt, "logprobs": 2}},
    ]  # fmt: skip
    run = {"lm": lm, "schema": "openai", "policy": "autoregressive", "max_new": 6, "slots": 4}
    assert job(write(tmp_path / "in.jsonl", own), tmp_path / "out", **run).run() == 0
    chat, completion = (row["response"]["body"] for row in output(tmp_path / "out"))
    assert [choice["index"] for choice in chat["choices"]] == [0, 1]
    for choice in chat["choices"]:
        content = choice["logprobs"]["content"]
        assert [len(each["top_logprobs"]) for each in content] == [3] * len(content)
        assert all(each["logprob"] <= each["top_logprobs"][0]["logprob"] <= 0 for each in content)
        assert content[0]["bytes"] == list(content[0]["token"].encode())
        words = [each["token"] for each in content]
        assert "".join(words).replace(" ", "") == choice["message"]["content"].replace(" ", "")
    assert chat["usage"]["completion_tokens"] == sum(len(each["logprobs"]["content"]) for each in chat["choices"])
    for choice in completion["choices"]:
        beside = choice["logprobs"]
        assert len(beside["tokens"]) == len(beside["token_logprobs"]) == len(beside["text_offset"])
        assert all(1 <= len(each) <= 2 for each in beside["top_logprobs"])


@pytest.mark.slow
def test_a_diffusion_model_gives_several_answers_and_refuses_log_probabilities(tmp_path):
    own = [row | ask for row, ask in zip(rows(4), [{"n": 3}, {}, {"logprobs": True}, {"n": 2}])]
    policy = "threshold,tau=0.05,temperature=1"
    assert job(write(tmp_path / "in.jsonl", own), tmp_path / "out", policy=policy, slots=2).run() == 0
    got = output(tmp_path / "out")
    assert got[2]["error"].startswith("line 3: logprobs are those of a text written from left to right")
    for index in (0, 3):
        key, n = [randomness_key(own[index]["id"])], own[index]["n"]
        alone = decode(diffusion("same"), [own[index]["tokens"]], policy, n=n, max_new=8, block=4, ids=key)
        assert [each["tokens"] for each in got[index]["choices"]] == alone.tokens.tolist()
    assert "choices" not in got[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "n=0: must be a whole number"), ({"n": 129}, "n=129"), ({"n": True}, "n=True"), ({"n": 1.0}, "n=1.0"),
        ({"n": 2}, "n=2 at temperature 0"), ({"n": 2, "temperature": 0}, "n=2 at temperature 0"),
        ({"logprobs": 21}, "logprobs=21"), ({"logprobs": "a"}, "logprobs='a'"), ({"logprobs": True, "top_logprobs": -1}, "=-1"),
        ({"top_logprobs": 2}, "top_logprobs=2 needs logprobs: true"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_line(fields, message):
    for row in ({"tokens": [3]} | fields, {"custom_id": "a", "body": {"prompt": [3]} | fields}):
        refused = read(Raw(0, 3, row), model(0), Defaults(8, 0, heat=0.0), {})
        assert isinstance(refused, Refusal) and refused.message.startswith("line 3: ") and message in refused.message


def test_what_is_asked_for_is_seen_before_it_is_read():
    both = {answers.LOGPROBS, answers.TOP}
    for fields, asks in [
        ({}, set()), ({"logprobs": False}, set()), ({"logprobs": True}, {"logprobs"}), ({"logprobs": 0}, {"logprobs"}),
        ({"logprobs": 2}, both), ({"logprobs": True, "top_logprobs": 2}, both), ({"n": 3}, set()),
    ]:  # fmt: skip
        assert answers.asked_by(fields) == asks
        made = read(Raw(0, 1, {"tokens": [3], "temperature": 1} | fields), model(0), Defaults(8, 0), {})
        assert made.asks - {"temperature"} == asks


def test_a_row_of_which_one_answer_was_refused_is_refused():
    good, bad = Result([], 1, "eos"), Refusal(0, 1, "a", "no")
    assert whole([good, bad]) is bad and whole([good, None]) is None
    assert whole([good, good._replace(forwards=2)]).others[0].forwards == 2
