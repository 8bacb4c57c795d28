"""One line of the input -> one request, or one refusal; nothing that a line holds can harm another line."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.batch import answers, openai, sampling
from jaxdlm.core.keys import randomness_key
from jaxdlm.errors import InputError
from jaxdlm.layout import encode
from jaxdlm.messages import ARGUMENTS, Form, read_form
from jaxdlm.stops import Stops, read_stops
from jaxdlm.structured import Depth, asked_by, fitting, grammar_of, nested

PROMPTS = ("prompt", "messages", "tokens")
KWARGS = "chat_template_kwargs"
LARGEST = 2**31 - 1
SHOWN = 500  # characters of a message: it may quote what the row holds


class Raw(NamedTuple):
    """A row of the input as it was read."""

    row: int  # place among the rows of the input, from 0
    line: int  # place in the file, from 1, for messages
    value: bytes | Mapping[str, Any] | InputError  # JSON text, a row of a table, or why it was not read
    last: bool = False  # the file ends here, without a line end
    place: str = ""  # for messages, of a row that stands in no file

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.place or f"line {self.line}"


@dataclass(frozen=True, eq=False)
class Request:
    """A row that can be decoded."""

    row: int
    line: int  # of the input, for messages
    id: Any
    key: int  # uint32 that keys the row's randomness, together with the seed
    tokens: np.ndarray
    max_new: int
    seed: int
    temperature: float | None
    stops: Stops
    chat: bool = True  # of the OpenAI schema: chat or plain completion
    grammar: Any = None  # the language that the answer belongs to
    sampling: Mapping[str, Any] = field(default_factory=dict)  # by `sampling.FIELDS`, neutral values left out
    wants: answers.Answers = answers.Answers()
    sample: int = 0  # which of the row's answers this is, where a device decodes each by itself
    where: str = ""  # what messages call the row

    @property
    def asks(self) -> frozenset[str]:
        """What a program needs a place for, as `sampling.asked_by` says it of the row before it was read."""
        heat = {sampling.TEMPERATURE} if self.temperature else set()
        return self.wants.asks.union(self.sampling, heat)

    def refused(self, reason: str) -> "Refusal":
        """The row's result if it turns out only in its program that it cannot be decoded."""
        return Refusal(self.row, self.line, self.id, f"{self.where} (max_new={self.max_new}): {reason}")


@dataclass(frozen=True)
class Refusal:
    """A row that cannot; `message` names the line and the fix."""

    row: int
    line: int
    id: Any
    message: str


@dataclass(frozen=True)
class Defaults:
    """The values of a row that states none of its own."""

    max_new: int
    seed: int
    raw: bool = False
    temperature: bool = True  # whether the policy has one
    stop: Any = True  # as in `decode`
    language: tuple[str, Any] | None = None  # (form, value) as in `jaxdlm.structured`
    depth: Depth = "usual"  # of a language that nests and states none
    chat: Mapping[str, Any] = field(default_factory=dict)  # of `jaxdlm.messages.ARGUMENTS`, as stated
    heat: float | None = None  # of an autoregressive policy, its temperature
    refused: Mapping[str, str] = field(default_factory=dict)  # field of a row -> why none of this job can have it


def parse(raw: Raw) -> Mapping[str, Any]:
    """The object of a row. Raises InputError, with the line."""
    if isinstance(raw.value, InputError):
        raise raw.value
    if not isinstance(raw.value, bytes):
        return raw.value
    try:
        text = raw.value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{raw.where} is not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=functools.partial(_unique, raw.where))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        cut = "; the file ends inside it, so it was probably cut off" if raw.last else ""
        raise InputError(f"{raw.where} is not JSON ({short(error)}){cut}: write one object per line") from None
    if not isinstance(value, dict):
        raise InputError(f'{raw.where} is JSON, but no object: write {{"id": ..., "prompt": ...}}')
    return value


def _unique(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = argument.repeated(key for key, _ in pairs)
        raise InputError(f"{where}: the key {twice!r:.60} stands there twice: keep one")
    return fields


def short(error: BaseException) -> str:
    """What an error says, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if "integer string conversion" in str(error):
        return "a number with thousands of digits"
    return " ".join(str(error).split())[:80] or type(error).__name__


def identity(value: Mapping[str, Any], raw: Raw) -> Any:
    """The row's id: `custom_id`, `id`, or its number. Raises InputError."""
    name = "custom_id" if openai.is_request(value) else "id"
    id_ = value.get(name)
    if id_ is None:
        return raw.row
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise InputError(f"{raw.where}: {name} {id_!r:.60} is neither a string nor a whole number")
    if isinstance(id_, str) and any("\ud800" <= letter <= "\udfff" for letter in id_):
        raise InputError(f"{raw.where}: {name} {id_!a:.60} holds half of a surrogate pair: it is no text")
    return id_


def check_duplicate(id_: Any, raw: Raw, duplicates: Mapping[int, int]) -> None:
    """Raises InputError where an earlier row has the id. duplicates: row -> line that had its id first."""
    if raw.row in duplicates:
        raise InputError(f"{raw.where}: id {id_!r:.60} stands on line {duplicates[raw.row]} already: rename one")


def read(raw: Raw, lm: Any, defaults: Defaults, duplicates: Mapping[int, int]) -> Request | Refusal:
    """A request ready to decode, or why not. duplicates: row -> line that had its id first."""
    id_: Any = raw.row
    try:
        value = parse(raw)
        id_ = identity(value, raw)
        check_duplicate(id_, raw, duplicates)
        return _request(value, id_, raw, lm, defaults)
    except InputError as error:
        message = str(error).replace(f"prompt {raw.row}", f"{raw.where}: the prompt", 1)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        message = f"{raw.where}: the row does not read ({short(error)})"
    return Refusal(raw.row, raw.line, id_, " ".join(message.split())[:SHOWN])


def _request(value: Mapping[str, Any], id_: Any, raw: Raw, lm: Any, defaults: Defaults) -> Request:
    where = raw.where
    chat, plain = True, defaults.raw
    if openai.is_request(value):
        chat = openai.is_chat(value)
        plain = plain or not chat  # a completion goes on from its prompt as it is
        value = openai.fields(value, where)
    if value.get("questions") is not None:
        raise InputError(f"{where} has questions, which jaxdlm decide answers: give it this file, or leave them out")
    kinds = [name for name in PROMPTS if value.get(name) is not None]
    if len(kinds) != 1:
        have = " and ".join(kinds) or "no prompt"
        raise InputError(f"{where} has {have}: give exactly one of prompt, messages and tokens")
    prompt = value[kinds[0]]
    if kinds[0] == "prompt" and not isinstance(prompt, str):
        raise InputError(f"{where}: prompt is no string: token ids go under tokens, chats under messages")
    if kinds[0] != "prompt" and not isinstance(prompt, list | tuple | np.ndarray):
        raise InputError(f"{where}: {kinds[0]} is no list")
    if kinds[0] == "messages" and not all(isinstance(message, dict) for message in prompt):
        raise InputError(f'{where}: messages must be a list of {{"role": ..., "content": ...}}')
    if kinds[0] == "tokens" and any(isinstance(token, bool) for token in prompt):
        raise InputError(f"{where}: tokens holds a truth value: token ids are whole numbers")
    max_new = _whole(value, "max_new", defaults.max_new, 1, where)
    seed = _whole(value, "seed", defaults.seed, -LARGEST - 1, where)
    temperature = _temperature(value.get("temperature"), defaults, where)
    asked = sampling.read(value, where, lm.config.vocab_size, defaults.refused)
    number = answers.read(value, where, defaults.refused.get(answers.LOGPROBS))
    if number.n > 1 and defaults.heat is not None and (defaults.heat if temperature is None else temperature) == 0:
        raise InputError(
            f"{where}: n={number.n} at temperature 0 is one answer {number.n} times: raise it, or leave n out"
        )
    tokens = encode(
        lm, prompt, raw.row, max_new, plain, _form(value, defaults, kinds[0] != "tokens" and not plain, where)
    )
    stops = _stops(value.get("stop"), lm, defaults, where)
    language = asked_by(value, where) or defaults.language
    grammar = _grammar(language and nested(language, defaults.depth), lm, max_new, stops, where)
    return Request(
        raw.row, raw.line, id_, randomness_key(id_), tokens, max_new, seed & LARGEST, temperature, stops, chat, grammar,
        asked, number, where=where,
    )  # fmt: skip


def _form(value: Mapping[str, Any], defaults: Defaults, chats: bool, where: str) -> Form:
    """How the row's chat is written: as it says itself, else as the job does, where the row is a chat."""
    own = {name: value[name] for name in ARGUMENTS if value.get(name) is not None}
    if isinstance(stated := own.get(KWARGS), Mapping):
        own[KWARGS] = {**defaults.chat.get(KWARGS, {}), **stated}
    try:
        return read_form(**{**(defaults.chat if chats else {}), **own})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _grammar(asked: tuple[str, Any] | None, lm: Any, max_new: int, stops: Stops, where: str) -> Any:
    """The grammar of a row that asks for one."""
    if asked is None:
        return None
    try:
        return fitting(lm, grammar_of(lm, *asked), asked[0], max_new, stops)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _stops(stop: Any, lm: Any, defaults: Defaults, where: str) -> Stops:
    """The row's stops: its own, else those of the job."""
    try:
        return read_stops(lm, defaults.stop if stop is None else stop)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _whole(value: Mapping[str, Any], name: str, default: int, low: int, where: str) -> int:
    number = value.get(name)
    return default if number is None else argument.whole(low)(number, f"{where}: {name}")


def _temperature(number: Any, defaults: Defaults, where: str) -> float | None:
    if number is None:
        return None
    number = argument.temperature(number, f"{where}: temperature")
    if not defaults.temperature:
        raise InputError(f"{where}: this policy has no temperature: leave it out, or choose a policy that takes one")
    return float(np.float32(number))
