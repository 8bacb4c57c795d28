"""Texts of answers as their columns close."""

from collections.abc import Sequence
from typing import Any

from jaxdlm.batch.rows import Request

BROKEN = "\ufffd"  # in place of a letter whose other bytes are still to come


class Text:
    """The text of an answer in pieces: what was handed out once never changes, and all pieces together are the whole."""

    def __init__(self, request: Request, tokenizer: Any) -> None:
        self.stops, self.tokenizer, self.sent = request.stops, tokenizer, ""

    def more(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """What these columns, the first ones of the answer, add. last: there are no more."""
        if self.tokenizer is None:
            return ""
        text = self.stops.text(self.tokenizer, tokens)
        text = text if last else text[: settled(text, self.stops.strings)]
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return piece


def settled(text: str, stops: Sequence[str]) -> int:
    """Letters of a text that is not whole which nothing behind them can change or cut: no broken letter at its end, and no
    beginning of a stop."""
    end = len(text.rstrip(BROKEN))
    begun = [
        size for stop in stops for size in range(1, min(len(stop), end + 1)) if text[:end].endswith(stop[:size])
    ]  # fmt: skip
    return end - max(begun, default=0)
