"""Output rows: an answer or an error as one line of JSON, in our own schema or that of OpenAI's batches."""

import json
from typing import Any

from jaxdlm.batch import openai
from jaxdlm.batch.engine import Result
from jaxdlm.batch.rows import Refusal, Request
from jaxdlm.batch.shards import BROKEN, REFUSED, Line
from jaxdlm.command import NONFINITE
from jaxdlm.core.carry import Status


class Lines:
    """Writes rows of one job. label: its policy and the fingerprint of that; schema: "native" or "openai"."""

    def __init__(self, lm: Any, label: str, schema: str) -> None:
        self.lm, self.label, self.openai = lm, label, schema == "openai"

    def answer(self, request: Request, result: Result) -> Line:
        """The row of what was decoded."""
        tokens = [int(token) for token in result.tokens]
        text = None if self.lm.tokenizer is None else request.stops.text(self.lm.tokenizer, tokens)
        broken = result.status == str(Status.NONFINITE)
        if self.openai and broken:
            return Line(encoded(openai.failure(request.id, f"{request.key:08x}", NONFINITE, "nonfinite")), BROKEN)
        if self.openai:
            return Line(encoded(self._response(request, tokens, text)), 0)
        fields = {
            "id": request.id, "text": text, "tokens": tokens, "status": result.status, "forwards": result.forwards,
            "policy": self.label,
        }  # fmt: skip
        return Line(encoded(fields), BROKEN if broken else 0)

    def _response(self, request: Request, tokens: list[int], text: str | None) -> dict[str, Any]:
        written = len(request.stops.before(tokens))
        reason = "stop" if request.stops.ended(self.lm.tokenizer, tokens) else "length"
        return openai.response(
            request.id, f"{request.key:08x}", self.lm.name, text, reason, len(request.tokens), written, request.chat
        )

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
