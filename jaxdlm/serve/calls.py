"""A request while its rows are decoded: the whole answer, or its pieces."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np

from jaxdlm.batch import engine as batch
from jaxdlm.batch import openai
from jaxdlm.batch.engine import Result
from jaxdlm.batch.lines import Lines
from jaxdlm.command import NONFINITE
from jaxdlm.core.carry import Status
from jaxdlm.serve.lanes import answers_of
from jaxdlm.serve.metrics import Metrics
from jaxdlm.serve.reading import PLACE, Asked
from jaxdlm.serve.refusals import Refused, ending
from jaxdlm.serve.rows import Block, Canvas, Row, Unserved
from jaxdlm.serve.scheduler import Closed, Full, Scheduler
from jaxdlm.serve.texts import Text

LAG = 64  # messages that a slow reader may be behind before canvases are left out
BEAT = 15.0  # seconds without a piece after which a comment shows that the server is there


class Call:
    """The rows of a request, and what is told of them."""

    def __init__(self, asked: Asked, scheduler: Scheduler, lines: Lines, name: str, metrics: Metrics) -> None:
        self.asked, self.scheduler, self.lines, self.name, self.metrics = asked, scheduler, lines, name, metrics
        self.kind, self.number, self.begun = "chat" if asked.chat else "completions", uuid.uuid4().hex, time.time()
        self.messages: asyncio.Queue[tuple[Row, Any]] = asyncio.Queue()
        self.places: dict[Row, tuple[int, int]] = {}  # (prompt, answer)
        for prompt, request in enumerate(asked.requests):
            for each in answers_of(asked.engine, request):
                row = Row(each, asked.engine, self._hear, asked.stream, asked.denoising)
                self.places[row] = (prompt, each.sample)
        self.open = set(self.places)
        self.results: list[dict[int, Result]] = [{} for _ in asked.requests]
        self.clock = time.perf_counter()

    def start(self) -> None:
        """Hands the rows over. Raises Refused where there is no room."""
        submit(self.scheduler, list(self.places))

    def close(self) -> None:
        """Gives back the slots of what nobody waits for."""
        self.scheduler.leave(list(self.open))

    def _hear(self, row: Row, told: Any) -> None:
        if not (isinstance(told, Canvas) and self.messages.qsize() > LAG):
            self.messages.put_nowait((row, told))

    def _end(self, row: Row, told: Any) -> Result:
        """The result of a row that is done. Raises Refused where it has none."""
        self.open.discard(row)
        if told is None:
            raise ending()
        if isinstance(told, Unserved):
            raise unserved(told)
        result = told.outcome
        if result is None:
            raise unserved(Unserved(None))
        if not isinstance(result, Result):
            raise Refused(400, result.message)
        if any(each.status == str(Status.NONFINITE) for each in result.every):
            raise Refused(500, f"the answer is not whole: {NONFINITE}", "nonfinite")
        prompt, sample = self.places[row]
        self.results[prompt][sample] = result
        self.metrics.written(row.request, result)
        return result

    async def whole(self) -> dict[str, Any]:
        """The body of the answer. Raises Refused."""
        while self.open:
            row, told = await self.messages.get()
            if not isinstance(told, Block | Canvas):
                self._end(row, told)
        choices: list[dict[str, Any]] = []
        written = 0
        for request, answers in zip(self.asked.requests, self.results, strict=True):
            result = batch.whole([answers[sample] for sample in sorted(answers)]) if len(answers) > 1 else answers[0]
            assert isinstance(result, Result)
            more, tokens = self.lines.choices(request, result, len(choices))
            choices += [self._with_tokens(choice, each) for choice, each in zip(more, result.every, strict=True)]
            written += tokens
        fields = self._fields(choices, chunk=False) | {"usage": openai.usage(self._read(), written)}
        return fields | {"jaxdlm": self._own()}

    def _with_tokens(self, choice: dict[str, Any], result: Result) -> dict[str, Any]:
        return choice | ({"token_ids": [int(token) for token in result.tokens]} if self.asked.tokens else {})

    def _read(self) -> int:
        return sum(len(request.tokens) for request in self.asked.requests)

    def _own(self) -> dict[str, Any]:
        """What our engine says besides: the seed that brings the same answers again, and what they took."""
        every = [each for answers in self.results for at in sorted(answers) for each in answers[at].every]
        return {
            "seed": self.asked.seed, "forwards": [each.forwards for each in every],
            "status": [each.status for each in every],
        }  # fmt: skip

    def _fields(self, choices: list[dict[str, Any]], *, chunk: bool = True) -> dict[str, Any]:
        number = f"{'chat' * self.asked.chat}cmpl-{self.number}"
        body = openai.completed(number, self.name, choices, 0, 0, self.asked.chat, int(self.begun))
        kind = "chat.completion.chunk" if chunk and self.asked.chat else body["object"]
        return {key: value for key, value in body.items() if key != "usage"} | {"id": number, "object": kind}

    # ------------------------------------------------------------------------------------------------- streams

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events: a piece per closed block, a last one with the reason, then [DONE]. What goes
        wrong is an event, too."""
        try:
            async for fields in self._pieces():
                yield event(fields)
        except Refused as refused:
            yield event(refused.body)
            return
        yield b"data: [DONE]\n\n"

    async def _pieces(self) -> AsyncIterator[Mapping[str, Any]]:
        tokenizer = self.lines.lm.tokenizer
        texts = {row: Text(row.request, tokenizer) for row in self.places}
        answers = self.asked.requests[0].wants.n
        written, first = 0, True
        if self.asked.chat:
            for index in range(answers):
                yield self._fields([_piece(index, "", True, role=True)])
        while self.open:
            try:
                row, told = await asyncio.wait_for(self.messages.get(), BEAT)
            except TimeoutError:
                yield {}
                continue
            prompt, sample = self.places[row]
            index = prompt * answers + sample
            if isinstance(told, Canvas):
                yield self._fields([]) | {"denoising": self._canvas(index, told)}
                continue
            if isinstance(told, Block):
                piece = texts[row].more(told.tokens.tolist())
                if piece:
                    first = self._clocked(first)
                    yield self._fields([_piece(index, piece, self.asked.chat)])
                continue
            result = self._end(row, told)
            if self.asked.denoising:
                last = Canvas(result.tokens, np.zeros(len(result.tokens), bool), result.forwards)
                yield self._fields([]) | {"denoising": self._canvas(index, last)}
            first = self._clocked(first)
            choices, tokens = self.lines.choices(row.request, result, index)
            written += tokens
            for choice, each in zip(choices, result.every, strict=True):
                text = texts[row] if choice["index"] == index else Text(row.request, tokenizer)
                piece = text.more(each.tokens.tolist(), last=True)
                yield self._fields([self._with_tokens(_last(choice, piece, self.asked.chat), each)])
        if self.asked.usage:
            yield self._fields([]) | {"usage": openai.usage(self._read(), written), "jaxdlm": self._own()}

    def _clocked(self, first: bool) -> bool:
        if first:
            self.metrics.first.labels(self.kind).observe(time.perf_counter() - self.clock)
        return False

    def _canvas(self, index: int, told: Canvas) -> dict[str, Any]:
        """A canvas as words; None where a column is open."""
        spell = self.lines.spell
        words = [None if open_ else spell(token) for token, open_ in zip(told.tokens.tolist(), told.pending.tolist())]
        return {"index": index, "forwards": told.forwards, "tokens": words}


def submit(scheduler: Scheduler, rows: Any) -> None:
    """Hands rows over. Raises Refused where there is no room."""
    try:
        scheduler.submit(rows)
    except Full as full:
        raise Refused(429, str(full), "queue_full", headers={"Retry-After": str(full.seconds)}) from None
    except Closed:
        raise ending() from None


def unserved(told: Unserved) -> Refused:
    """What is told of a row without a program."""
    if told.broken:
        return Refused(500, str(told.reason))
    if told.reason is None:
        return Refused(400, "the request needs more memory than the device has: ask for less", "too_large")
    return Refused(400, f"{PLACE}: {told.reason}")


def event(fields: Mapping[str, Any]) -> bytes:
    """A server-sent event; an empty one is a comment."""
    if not fields:
        return b": waiting\n\n"
    return f"data: {json.dumps(fields, ensure_ascii=True, separators=(',', ':'))}\n\n".encode()


def _piece(index: int, text: str, chat: bool, *, role: bool = False) -> dict[str, Any]:
    delta = {"role": "assistant", "content": text} if role else {"content": text}
    return {"index": index, **({"delta": delta} if chat else {"text": text}), "logprobs": None, "finish_reason": None}


def _last(choice: Mapping[str, Any], text: str, chat: bool) -> dict[str, Any]:
    """The end of an answer: what was not sent yet, and why it ended."""
    told = {"finish_reason": choice["finish_reason"], "logprobs": choice.get("logprobs")}
    return _piece(choice["index"], text, chat) | told
