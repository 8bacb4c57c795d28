"""Output rows: an answer or an error as one line of JSON, in our own schema or that of OpenAI's batches."""

import json
from typing import Any

from jaxdlm.batch import answers, openai
from jaxdlm.batch.engine import Result
from jaxdlm.batch.gating import Repeat
from jaxdlm.batch.rows import Refusal, Request
from jaxdlm.batch.shards import BROKEN, REFUSED, Line
from jaxdlm.command import NONFINITE
from jaxdlm.core.carry import Status


class Lines:
    """Writes rows of one job. label: its policy and the fingerprint of that; schema: "native" or "openai"."""

    def __init__(self, lm: Any, label: str, schema: str) -> None:
        self.lm, self.label, self.openai = lm, label, schema == "openai"
        self.spell = answers.speller(lm.tokenizer)

    def answer(self, request: Request, result: Result) -> Line:
        """The row of what was decoded."""
        broken = any(each.status == str(Status.NONFINITE) for each in result.every)
        if self.openai and broken:
            return Line(encoded(openai.failure(request.id, f"{request.key:08x}", NONFINITE, "nonfinite")), BROKEN)
        if self.openai:
            return Line(encoded(self._response(request, result)), 0)
        every = [self._fields(request, each) for each in result.every]
        fields = {"id": request.id, **every[0], "policy": self.label}
        if len(every) > 1:
            fields |= {"choices": every, **({"status": str(Status.NONFINITE)} if broken else {})}
        return Line(encoded(fields), BROKEN if broken else 0)

    def _fields(self, request: Request, result: Result) -> dict[str, Any]:
        """One answer."""
        tokens = [int(token) for token in result.tokens]
        fields = {
            "text": self._text(request, tokens), "tokens": tokens, "status": result.status, "forwards": result.forwards
        }  # fmt: skip
        beside = request.wants.logprobs
        if beside is None or result.logprobs is None:
            return fields
        return fields | answers.native(result.logprobs.cut(len(tokens), beside), beside)

    def _text(self, request: Request, tokens: list[int]) -> str | None:
        return None if self.lm.tokenizer is None else request.stops.text(self.lm.tokenizer, tokens)

    def _response(self, request: Request, result: Result) -> dict[str, Any]:
        choices, written = self.choices(request, result)
        number = f"{request.key:08x}"
        body = openai.completed(number, self.lm.name, choices, len(request.tokens), written, request.chat)
        return openai.answered(request.id, number, body)

    def choices(self, request: Request, result: Result, first: int = 0) -> tuple[list[dict[str, Any]], int]:
        """(the answers of a row as OpenAI has them, numbered from `first`; tokens in them)."""
        choices, written = [], 0
        for index, each in enumerate(result.every):
            tokens = [int(token) for token in each.tokens]
            content, text = request.stops.before(tokens), self._text(request, tokens)
            reason = "stop" if request.stops.ended(self.lm.tokenizer, tokens) else "length"
            logprobs, beside = None, request.wants.logprobs
            if beside is not None and each.logprobs is not None:
                form = answers.chat if request.chat else answers.completion
                logprobs = form(each.logprobs.cut(len(content), beside), content, self.spell)
            choices.append(openai.choice(first + index, text, reason, logprobs, request.chat))
            written += len(content)
        return choices, written

    def repeat(self, row: Repeat) -> Line:
        """The row of one whose stream has not moved: `same_as` is the id of the row with its answer."""
        fields = {
            "id": row.id, "text": None, "tokens": None, "status": "gated", "forwards": 0, "policy": self.label,
            "same_as": row.same,
        }  # fmt: skip
        return Line(encoded(fields), 0)

    def refusal(self, refused: Refusal) -> Line:
        """The row of a request that cannot be decoded."""
        if self.openai:
            return Line(encoded(openai.failure(refused.id, f"row_{refused.row}", refused.message)), REFUSED)
        fields = {
            "id": refused.id, "text": None, "tokens": None, "status": "error", "forwards": 0, "policy": self.label,
            "error": refused.message,
        }  # fmt: skip
        return Line(encoded(fields), REFUSED)


def encoded(value: Any) -> bytes:
    """One line of UTF-8; a string that UTF-8 cannot hold (half a surrogate pair) is escaped, so that it reads back."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(", ", ": ")).encode() + b"\n"
