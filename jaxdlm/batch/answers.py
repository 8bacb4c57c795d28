"""How many answers a row of a batch asks for, with which log-probabilities, and how these are written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.errors import InputError

N, LOGPROBS, TOP = "n", "logprobs", "top_logprobs"
FIELDS = (N, LOGPROBS, TOP)
MOST, MOST_TOP = 128, 20  # as in OpenAI's interface
DIGITS = 4  # of a log-probability: its last bits may depend on the shape of a product (docs/batch.md)


class Answers(NamedTuple):
    """What a row asks for. logprobs: None for none, else how many of the likeliest tokens beside each one."""

    n: int = 1
    logprobs: int | None = None

    @property
    def asks(self) -> frozenset[str]:
        """What a program keeps for it, as `asked_by` says of the row before it was read."""
        return frozenset({LOGPROBS} if self.logprobs == 0 else {LOGPROBS, TOP} if self.logprobs else ())


def asked_by(fields: Mapping[str, Any]) -> frozenset[str]:
    """Whether a row asks for log-probabilities, and for alternatives; nothing is checked."""
    own, top = fields.get(LOGPROBS), fields.get(TOP)
    stated = own is not None and own is not False
    beside = stated and (bool(top) or (own is not True and own != 0))
    return frozenset({LOGPROBS, TOP} if beside else {LOGPROBS} if stated else ())


def read(value: Mapping[str, Any], where: str, left_to_right: str | None) -> Answers:
    """What a row asks for. left_to_right: why there are no log-probabilities, None where there are. Raises InputError."""
    n = 1 if value.get(N) is None else argument.whole(1, MOST)(value[N], f"{where}: {N}")
    own, top = value.get(LOGPROBS), value.get(TOP)
    if top is not None:
        top = argument.whole(0, MOST_TOP)(top, f"{where}: {TOP}")
    if own is None or own is False:
        if top:
            raise InputError(f"{where}: {TOP}={top} needs logprobs: true")
        return Answers(n)
    number = 0 if own is True else argument.whole(0, MOST_TOP)(own, f"{where}: {LOGPROBS}")
    if left_to_right is not None:
        raise InputError(f"{where}: {LOGPROBS} {left_to_right}")
    return Answers(n, max(number, top or 0))


class Written(NamedTuple):
    """Log-probabilities of the columns that a row has written, first to last."""

    own: Sequence[float]
    top: Sequence[Sequence[tuple[int, float]]]  # of each column, likeliest first

    def cut(self, count: int, beside: int) -> "Written":
        """Of the first columns, with so many alternatives each."""
        return Written(self.own[:count], [each[:beside] for each in self.top[:count]])


def written_of(out: Any, row: int, columns: int) -> Written | None:
    """Those of a row of an `Output`; None where they were not kept."""
    if out.logprobs is None:
        return None
    count = int((out.commit_step[row, :columns] >= 0).sum())
    own = [_short(value) for value in out.logprobs[row, :count]]
    if out.top_tokens is None:
        return Written(own, [()] * count)
    pairs = zip(out.top_tokens[row, :count], out.top_logprobs[row, :count], strict=True)
    return Written(own, [[(int(t), _short(x)) for t, x in zip(*each, strict=True)] for each in pairs])


def _short(value: Any) -> float:
    return round(float(value), DIGITS) + 0.0  # and no -0.0


def native(written: Written, beside: int) -> dict[str, Any]:
    """Fields of a row of our own schema."""
    more = {TOP: [[list(pair) for pair in each] for each in written.top]} if beside else {}
    return {LOGPROBS: list(written.own), **more}


def chat(written: Written, tokens: Sequence[int], spell: Callable[[int], str]) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        text = spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    columns = zip(tokens, written.own, written.top, strict=False)  # an end of text is no content
    return {"content": [one(token, own) | {TOP: [one(*pair) for pair in top]} for token, own, top in columns]}


def completion(written: Written, tokens: Sequence[int], spell: Callable[[int], str]) -> dict[str, Any]:
    """The `logprobs` of a choice of a completion."""
    words, offsets, length = [spell(token) for token in tokens], [], 0
    for word in words:
        offsets.append(length)
        length += len(word)
    top = [{spell(token): logprob for token, logprob in each} for each in written.top[: len(words)]]
    return {"tokens": words, "token_logprobs": list(written.own[: len(words)]), TOP: top, "text_offset": offsets}


def speller(tokenizer: Any) -> Callable[[int], str]:
    """A token's text alone; without a tokenizer its number, as vLLM writes it."""
    if tokenizer is None:
        return lambda token: f"token_id:{token}"
    return lambda token: "".join(tokenizer.pieces([token])) or tokenizer.literal(token) or f"token_id:{token}"
