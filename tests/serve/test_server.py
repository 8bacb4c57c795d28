"""A real server on loopback, asked by the real client of OpenAI and by clients that do what they should not.

All of it runs in one program of `tiny`: prompts of 32 tokens, canvases of 16 columns, a token per forward, no early end.
"""

import concurrent.futures
import contextlib
import json
import socket
import threading
import time

import httpx
import numpy as np
import openai
import pytest

import jaxdlm as jd
from jaxdlm.batch.cli import make_mesh, read_policies
from jaxdlm.resolve import resolve_cache
from jaxdlm.serve.app import create_app
from jaxdlm.serve.keys import Keys
from jaxdlm.serve.reading import Limits
from jaxdlm.serve.server import Running, listening, make_server
from jaxdlm.serve.service import Service

KEY = "a-key-of-tests"
POLICY = "low_confidence,temperature=0.7"
NEW, BLOCK, SLOTS, QUEUE = 16, 4, 4, 12
CONNECTIONS, PATIENCE = 30, 2.0
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Server:
    """A running server, and what tests ask it with."""

    def __init__(self, running: Running, service: Service) -> None:
        self.running, self.service, self.lm = running, service, service.lm
        self.url = running.url
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)
        self.prompts = self.lm.tokenizer.examples

    def chat(self, number: int, seed: int, **more):
        messages = [{"role": "user", "content": self.prompts[number]}]
        body = {"return_token_ids": True, **more.pop("extra_body", {})}
        return self.client.chat.completions.create(model="tiny", messages=messages, seed=seed, extra_body=body, **more)

    def post(self, path: str, body, headers=HEADERS, **more) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        return httpx.post(f"{self.url}{path}", content=content, headers=headers, timeout=60, **more)

    def settle(self) -> None:
        """Waits until nobody is in a slot or waits for one."""
        end = time.monotonic() + 20
        while self.service.scheduler.busy or self.service.scheduler.waiting:
            assert time.monotonic() < end, "slots were not given back"
            time.sleep(0.02)


def started(service: Service, **more):
    app = create_app(service, Keys([KEY]), local=True)
    how = {"patience": PATIENCE, "connections": CONNECTIONS, "grace": 20, "quiet": True} | more
    return Running(make_server(app, **how), listening("127.0.0.1", 0, PATIENCE))


@pytest.fixture(scope="module")
def server():
    mesh = make_mesh("data=1")
    limits = Limits(body=20_000, prompt=60, new=NEW, answers=8, queue=QUEUE, connections=CONNECTIONS, patience=PATIENCE)
    service = Service(
        jd.load("tiny", mesh=mesh), read_policies(POLICY), resolve_cache("none"), max_new=NEW, block=BLOCK, mesh=mesh,
        slots=SLOTS, stop=False, limits=limits,
    )  # fmt: skip
    with started(service) as running:
        yield Server(running, service)


@pytest.fixture(scope="module")
def alone(server):
    """Tokens and text of a prompt under a seed, decoded alone."""
    made = {}

    def one(number: int, seed: int):
        if (number, seed) not in made:
            settings = {"max_new": NEW, "block": BLOCK, "seed": seed, "stop": False}
            made[number, seed] = jd.decode(server.lm, [server.prompts[number]], POLICY, **settings)
        out = made[number, seed]
        return out.tokens[0].tolist(), out.text[0], int(out.forwards[0])

    return one


@pytest.mark.slow
def test_answers_are_those_of_decode(server, alone):
    """Bit for bit, many at a time, each prompt and seed by itself; streams are the same text in blocks."""
    asked = [(number, seed) for number in range(3) for seed in (5, 6)]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda each: server.chat(*each), asked))
    for (number, seed), answer in zip(asked, answers, strict=True):
        tokens, text, forwards = alone(number, seed)
        assert answer.choices[0].token_ids == tokens
        assert answer.choices[0].message.content == text
        assert answer.jaxdlm == {"seed": seed, "forwards": [forwards], "status": ["finished"]}
        assert (answer.object, answer.model, answer.usage.prompt_tokens) == ("chat.completion", "tiny", 32)
    options = {"include_usage": True, "denoising": True}
    pieces = list(server.chat(0, 5, stream=True, stream_options=options))
    words = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    canvases = [piece.denoising for piece in pieces if getattr(piece, "denoising", None)]
    tokens, text, forwards = alone(0, 5)
    assert "".join(words) == text and sum(map(bool, words)) > 1
    assert [each["forwards"] for each in canvases] == list(range(1, forwards + 1))
    opened = [sum(word is None for word in each["tokens"]) for each in canvases]
    assert opened == sorted(opened, reverse=True) and opened[-1] == 0 < opened[0]
    assert pieces[-1].usage.completion_tokens == answers[0].usage.completion_tokens


@pytest.mark.slow
def test_completions_several_answers_and_questions(server, alone):
    """Prompts of token ids, two at once with two answers each; typed questions as `decide` answers them."""
    ids = [server.lm.tokenizer.encode_prompt(server.prompts[number]) for number in (0, 1)]
    answer = server.client.completions.create(
        model="tiny", prompt=ids, n=2, seed=5, extra_body={"return_token_ids": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].token_ids == alone(0, 5)[0]
    rows = jd.decode(server.lm, ids, POLICY, max_new=NEW, block=BLOCK, seed=5, stop=False, n=2, rows_per_program=1)
    assert [choice.token_ids for choice in answer.choices] == rows.tokens.tolist()
    assert answer.jaxdlm["seed"] == 5 and len(answer.jaxdlm["forwards"]) == 4
    stream = server.client.completions.create(model="tiny", prompt=ids[0], seed=5, stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == alone(0, 5)[1]
    question = {
        "type": "choice",
        "name": "a",
        "instructions": "sort",
        "choices": [{"value": "Alan"}, {"value": "Kate"}],
    }
    body = {"input": "reverse : [ Alan , Kate ]", "questions": [question]}
    asked = server.post("/v1/decisions", body)
    row = jd.decide(server.lm, [body["input"]], [question])[0]
    assert asked.status_code == 200 and asked.json() == json.loads(json.dumps(row.to_row("openai")))
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").owned_by == "jaxdlm"


@pytest.mark.exhaustive
def test_fields_of_a_request_are_those_of_decode(server):
    """A language, a temperature and a stop of its own, each a program: several of them take turns on the device."""
    names = ["[ Gina ]", "[ Uma , Boris ]"]
    own = {
        "a language": ({"structured_outputs": {"choice": names}}, {"choices": names}),
        "greedy": ({"temperature": 0}, {"policy": "low_confidence"}),
        "hot": ({"temperature": 1.5}, {"policy": "low_confidence,temperature=1.5"}),
        "a stop": ({"stop": [","]}, {"stop": [","]}),
        "a filter": ({"temperature": 1.5, "top_k": 3}, None),
        "shorter": ({"max_tokens": 6}, {"max_new": 6}),
    }

    def ask(body):
        return server.chat(0, 5, extra_body=body).choices[0]

    with concurrent.futures.ThreadPoolExecutor(len(own)) as pool:
        answers = list(pool.map(ask, [body for body, _ in own.values()]))
    for (name, (_, settings)), answer in zip(own.items(), answers, strict=True):
        if settings is None:
            continue
        how = {"policy": POLICY, "max_new": NEW, "block": BLOCK, "seed": 5, "stop": False} | settings
        out = jd.decode(server.lm, server.prompts[:1], **how)
        assert (answer.token_ids, answer.message.content) == (out.tokens[0].tolist(), out.text[0]), name


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WRONG = {  # what is sent -> (path, body, status, words of the message)
    "no JSON": (CHAT, b"{", 400, "the body is not JSON"),
    "no object": (CHAT, b"[1]", 400, "no object"),
    "a key twice": (CHAT, b'{"messages": [], "messages": []}', 400, "stands there twice"),
    "deep": (CHAT, b'{"messages": ' + b"[" * 9000, 400, "the body is not JSON"),
    "not UTF-8": (CHAT, b'{"messages": "\xff"}', 400, "not UTF-8"),
    "nothing": (CHAT, {}, 400, "there is none"),
    "messages of no words": (CHAT, {"messages": [1]}, 400, "messages must be a list"),
    "an unknown field": (COMPLETIONS, {"prompt": [1], "top_q": 0.5}, 400, "top_q is not supported"),
    "echo": (COMPLETIONS, {"prompt": [1], "echo": True}, 400, "echo is not supported"),
    "log-probabilities": (COMPLETIONS, {"prompt": [1], "logprobs": 1}, 400, "left to right"),
    "a long prompt": (COMPLETIONS, {"prompt": [5] * 61}, 400, "more tokens than this server reads (61 > 60)"),
    "ids beyond the vocabulary": (COMPLETIONS, {"prompt": [10**6]}, 400, "1000000"),
    "many columns": (COMPLETIONS, {"prompt": [1], "max_tokens": NEW + 1}, 400, "max_tokens=17 is more than"),
    "no columns": (COMPLETIONS, {"prompt": [1], "max_tokens": 0}, 400, "max_new=0"),
    "many answers": (COMPLETIONS, {"prompt": [1], "n": 9}, 400, "more than 8 answers"),
    "many prompts": (COMPLETIONS, {"prompt": [[1]] * 9}, 400, "more than 8 answers"),
    "stream_options": (CHAT, {"messages": [], "stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x"),
    "a stream of no truth": (CHAT, {"messages": [], "stream": "yes"}, 400, "stream"),
    "another model": (CHAT, {"model": "gpt", "messages": []}, 404, "there is no model 'gpt'"),
    "a schema of no JSON": (COMPLETIONS, {"prompt": [1], "response_format": {"type": "x"}}, 400, "response_format"),
    "no questions": ("/v1/decisions", {"input": "a"}, 400, "no questions"),
    "a stream of questions": ("/v1/decisions", {"input": "a", "questions": [], "stream": True}, 400, "'stream'"),
    "a giant": (CHAT, b'{"messages": "' + b"a" * 30_000, 413, "more than 20000 bytes"),
    "no route": ("/v1/embeddings", {}, 404, "/v1/embeddings"),
}  # fmt: skip


def test_what_cannot_be_answered_has_a_status_and_a_reason(server):
    """In the shape of OpenAI's errors, so that its client raises what it should; nothing of it reaches a slot."""
    for name, (path, body, status, words) in WRONG.items():
        answer = server.post(path, body)
        error = answer.json()["error"]
        assert (answer.status_code, set(error)) == (status, {"message", "type", "param", "code"}), name
        assert words in error["message"] and "line 0" not in error["message"], f"{name}: {error['message']}"
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": "Bearer \xff".encode("latin-1")}, 401),
        (HEADERS | {"Host": "evil.example"}, 403),
        (HEADERS | {"Content-Type": "text/plain"}, 415),
    ):
        answer = server.post(CHAT, {}, headers)
        assert answer.status_code == status and KEY not in answer.text, headers
    assert httpx.get(f"{server.url}{CHAT}", headers=HEADERS).status_code == 405
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        server.chat(0, 1, max_tokens=NEW + 1)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    assert server.service.scheduler.busy == server.service.scheduler.waiting == 0


@contextlib.contextmanager
def connected(server, data: bytes = b""):
    with socket.create_connection(server.running.sock.getsockname()[:2], timeout=20) as sock:
        sock.sendall(data)
        yield sock


def request(path: str, body: dict, extra: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    )
    return f"{head}{extra}Content-Length: {len(content)}\r\n\r\n".encode() + content


def received(sock) -> bytes:
    """All that comes before the connection is closed, in however many pieces."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(4096):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.slow
def test_clients_that_wait_vanish_or_never_speak(server):
    """Slots come back from clients that have gone, whether they were streaming, waiting or in the queue; a client that
    sends nothing, or half, loses its connection; others are answered meanwhile."""
    body = {"messages": [{"role": "user", "content": server.prompts[0]}]}
    with contextlib.ExitStack() as stack:
        for index in range(10):
            stack.enter_context(connected(server, request(CHAT, body | {"stream": index % 2 == 0})))
        while server.service.scheduler.busy < SLOTS:
            time.sleep(0.005)
        first = server.service.scheduler.waiting
    assert first > 0
    server.settle()
    with connected(server) as silent, connected(server, request(CHAT, body)[:-20]) as half:
        begun = time.monotonic()
        assert server.chat(1, 5).choices
        answer = received(half)
        assert b" 408 " in answer and b"took more than" in answer
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(10) == b""
        assert time.monotonic() - begun < 3 * PATIENCE


@pytest.mark.slow
def test_too_many_requests_or_connections_are_told_so(server):
    """429 with a time to come again where the queue is full, and 503 for connections beyond the limit; then all is well."""
    body = {"prompt": [[5] * 30] * 8, "seed": 1}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.post(COMPLETIONS, body), range(4)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "queue_full" and 1 <= int(answer.headers["retry-after"]) <= 600
    texts = {
        answer.text.partition('"choices"')[2].partition('"usage"')[0] for answer in answers if answer.status_code == 200
    }
    assert len(texts) == 1, "the same request with the same seed had two answers"
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(server)) for _ in range(CONNECTIONS + 10)]
        told = [received(sock) for sock in crowd[-5:]]
        assert all(answer.startswith(b"HTTP/1.1 503 ") and b"too many connections" in answer for answer in told)
    time.sleep(0.1)
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


@pytest.mark.slow
def test_load_in_small(server, alone):
    """Clients that read slowly, that leave and that stay: whoever stays has the whole answer of its own prompt and seed."""
    random = np.random.default_rng(0)
    plan = [
        (int(random.integers(3)), int(random.choice([5, 6])), str(random.choice(["stay", "slow", "leave"])))
        for _ in range(20)
    ]

    def client(number: int, seed: int, kind: str) -> bool:
        while True:
            try:
                stream = server.chat(number, seed, stream=True)
                break
            except openai.RateLimitError:
                time.sleep(0.05)
        words = []
        for piece in stream:
            words.append(piece.choices[0].delta.content or "")
            if kind == "leave":
                stream.close()
                return True
            time.sleep(0.02 * (kind == "slow"))
        return "".join(words) == alone(number, seed)[1]

    for number in range(3):
        for seed in (5, 6):
            alone(number, seed)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert all(pool.map(client, *zip(*plan)))
    server.settle()
    text = httpx.get(f"{server.url}/metrics", headers=HEADERS).text
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(counts["jaxdlm_busy_slots"]) == float(counts["jaxdlm_waiting"]) == 0
    assert float(counts['jaxdlm_answers_total{status="finished"}']) >= sum(kind != "leave" for *_, kind in plan)
    assert float(counts["jaxdlm_row_forwards_total"]) >= NEW


@pytest.mark.slow
def test_the_end_is_orderly(server, alone):
    """Who is being answered is answered; who comes then is not let in. The last test: it ends the server."""
    got = {}

    def stay() -> None:
        got["text"] = "".join(piece.choices[0].delta.content or "" for piece in server.chat(0, 5, stream=True))

    thread = threading.Thread(target=stay)
    thread.start()
    while not server.service.scheduler.busy:
        time.sleep(0.002)
    server.running.server.should_exit = True
    thread.join(20)
    assert got["text"] == alone(0, 5)[1]
    server.running.thread.join(20)
    assert not server.running.thread.is_alive() and server.service.state["status"] == "ending"
    with pytest.raises(openai.APIConnectionError):
        server.chat(0, 5)
