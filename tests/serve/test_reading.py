"""Bodies into rows: what a server adds to the reader of batch files."""

import json

import pytest

import jaxdlm as jd
from jaxdlm.batch import decisions
from jaxdlm.batch.cli import make_mesh, read_policies
from jaxdlm.batch.openai import CHAT, COMPLETION
from jaxdlm.resolve import resolve_cache
from jaxdlm.rules.per_row import number_of
from jaxdlm.serve.methods import MOST, Methods
from jaxdlm.serve.reading import Limits, Reading
from jaxdlm.serve.refusals import Refused

LM = jd.load("tiny")
SHAPE = {"max_new": 8, "block": 8, "slots": 2, "mesh": make_mesh("data=1")}
METHODS = Methods(LM, read_policies("threshold"), resolve_cache("none"), SHAPE, False, True, {}, True)
WORDS = "reverse : [ Alan , Kate ]"


def reading(seed=None, **limits) -> Reading:
    return Reading(LM, "tiny", METHODS, seed, Limits(**limits), decisions.Readers(LM, {}))


def body(**fields) -> bytes:
    return json.dumps(fields).encode()


def test_a_request_without_a_seed_has_a_fresh_one_or_that_of_the_server():
    ask = body(prompt=WORDS)
    one, two = (reading().generation(ask, COMPLETION) for _ in range(2))
    assert one.seed != two.seed and one.requests[0].seed == one.seed
    assert reading(7).generation(ask, COMPLETION).seed == 7
    assert reading(7).generation(body(prompt=WORDS, seed=5), COMPLETION).requests[0].seed == 5


def test_prompts_of_a_completion_are_numbered_as_decode_numbers_rows():
    asked = reading().generation(body(prompt=[WORDS, [5, 6], WORDS], n=2, max_tokens=4, stop=["]"]), COMPLETION)
    assert [request.key for request in asked.requests] == [0, 1, 2]
    assert [request.wants.n for request in asked.requests] == [2, 2, 2]
    assert asked.requests[1].tokens.tolist() == [5, 6] and asked.requests[0].max_new == 4
    assert asked.requests[0].tokens.tolist() == LM.tokenizer.encode(WORDS)  # as it is, no chat


def test_streams_say_what_they_want():
    messages = [{"role": "user", "content": WORDS}]
    options = {"include_usage": True, "denoising": True}
    asked = reading().generation(body(messages=messages, stream=True, stream_options=options), CHAT)
    assert (asked.stream, asked.usage, asked.denoising, asked.chat) == (True, True, True, True)
    asked = reading().generation(body(messages=messages, stream=False, model="tiny"), CHAT)
    assert (asked.stream, asked.usage, asked.denoising) == (False, False, False)
    with pytest.raises(Refused, match="stream_options needs stream: true"):
        reading().generation(body(messages=messages, stream_options=options), CHAT)


def test_an_error_is_one_of_openai():
    with pytest.raises(Refused) as caught:
        reading(prompt=3).generation(body(prompt=[5] * 4), COMPLETION)
    error = caught.value.body["error"]
    assert caught.value.status == 400 and error["code"] == "context_length_exceeded" and error["param"] == "prompt"
    assert Refused(503, "a").body["error"]["type"] == "server_error"
    assert Refused(401, "a").body["error"]["type"] == "authentication_error"


def test_a_request_names_a_method_where_it_may():
    """Its numbers compile nothing, none of it opens a file, and only so many are kept ready."""
    read = reading()
    own = read.generation(body(prompt=WORDS), COMPLETION).engine
    other = read.generation(body(prompt=WORDS, policy="threshold,tau=0.5"), COMPLETION).engine
    assert own is METHODS.own.engine and other is not own and float(number_of(other.policies.plain, "tau")) == 0.5
    assert read.generation(body(prompt=WORDS, policy="threshold,tau=0.5"), COMPLETION).engine is other
    for words in (
        "learn2pd",
        "speculative,draft=smollm2",
        "threshold,tau=(a/b)",
        "threshold,tau=../x",
        "nothing",
        "threshold,tau=7",
        "",
    ):
        with pytest.raises(Refused) as caught:
            read.generation(body(prompt=WORDS, policy=words), COMPLETION)
        assert caught.value.status == 400 and caught.value.param == "policy", words
    for tau in range(MOST + 3):
        METHODS.of(f"threshold,tau={tau / 100}")
    assert len(METHODS._made) == MOST
    listed = {each["name"]: each for each in METHODS.listed()}
    assert {"name": "tau", "default": 0.9, "whole": False} in listed["threshold"]["numbers"]
    assert "learn2pd" not in listed and "speculative" not in listed and len(listed) > 10


def test_a_server_with_one_policy_refuses_another():
    one = Methods(LM, read_policies("threshold"), resolve_cache("none"), SHAPE, False, True, {}, False)
    read = Reading(LM, "tiny", one, None, Limits(), decisions.Readers(LM, {}))
    with pytest.raises(Refused, match="start it with --choose"):
        read.generation(body(prompt=WORDS, policy="random"), COMPLETION)
    assert one.listed() == []
