"""What happens to clients when a program, or the device, breaks. Nothing is compiled here."""

import concurrent.futures

import jax
import pytest
from starlette.testclient import TestClient

from jaxdlm.batch import slots
from jaxdlm.errors import InputError
from jaxdlm.serve.app import create_app
from jaxdlm.serve.keys import Keys
from tests.serve.test_page import service

BODY = {"prompt": [5, 6, 7], "max_tokens": 8}


class Broken(jax.errors.JaxRuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "status", "words", "lives"),
    [
        (InputError("no such block"), 400, "the body: no such block", True),
        (Broken("RESOURCE_EXHAUSTED: out of memory"), 400, "more memory than the device has", True),
        (ZeroDivisionError("a mistake"), 500, "its log has", True),
        (Broken("INTERNAL: the device is gone"), 503, "its device has failed", False),
    ],
)
def test_a_client_is_told_what_broke(monkeypatch, error, status, words, lives):
    """Others are answered as long as the device is there; without it the server says so and asks to be ended."""

    def broken(*args, **where):
        raise error

    made, ended = service("tiny", "threshold", False), []
    monkeypatch.setattr(slots, "start", broken)
    made.on_failure = lambda: ended.append(True)
    with TestClient(create_app(made, Keys([]))) as client:
        for _ in range(2):
            answer = client.post("/v1/completions", json=BODY)
            assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
        stream = client.post("/v1/completions", json=BODY | {"stream": True})
        if lives:
            assert words in stream.text and "[DONE]" not in stream.text
        assert (client.get("/health").status_code == 200) == lives
    assert ended == [True] * (not lives)
    assert (str(error) in str(made.scheduler.failure)) == (not lives)


@pytest.mark.parametrize(("kind", "policy"), [("tiny", "threshold"), ("tiny-ar", "autoregressive")])
def test_a_device_that_breaks_in_the_middle_leaves_nobody_waiting(monkeypatch, kind, policy):
    """Rows in slots, rows that wait, and questions: all are told, once."""
    made = service(kind, policy, False)

    def broken(*args, **where):
        raise Broken("INTERNAL: the device is gone")

    monkeypatch.setattr(slots, "start", lambda *args, **where: None)
    monkeypatch.setattr(slots, "take_turn", broken)
    if kind == "tiny-ar":
        monkeypatch.setattr(made.methods.own.engine, "_chunk", broken)
    with TestClient(create_app(made, Keys([]))) as client:
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/completions", json=BODY), range(5)))
    assert [answer.status_code for answer in answers] == [503] * 5
