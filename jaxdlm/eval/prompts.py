"""Eighty prompts of our own for real models, eight of each of ten kinds, as chats. None has an answer to check: they say
how far methods get per forward on ordinary requests, and whether they change what is written."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.errors import InputError

FILE = pathlib.Path(__file__).with_name("prompts.jsonl")
KINDS = (
    "chat", "summary", "translation", "code", "arithmetic", "extraction", "rewriting", "lists", "questions",
    "multi_turn",
)  # fmt: skip
EACH = 8  # prompts of a kind
MESSAGE = {"role": argument.one_of("user", "assistant"), "content": argument.text}


class Prompt(NamedTuple):
    """A chat that waits for an answer."""

    id: str
    kind: str
    messages: tuple[dict[str, str], ...]


def _message(value: Any, name: str) -> dict[str, str]:
    return argument.record(value, name, MESSAGE, required=True)


SCHEMA = {"id": argument.text, "kind": argument.one_of(*KINDS), "messages": argument.listed(_message)}


def read(lines: Sequence[str]) -> list[Prompt]:
    """The prompts of such a file. Raises InputError that names the line and the field: a kind or role that is not known,
    turns that do not alternate from user to user, an id that was there before."""
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} is not JSON: {error}") from None
        fields = argument.record(value, f"line {number}", SCHEMA, required=True)
        prompt = Prompt(fields["id"], fields["kind"], fields["messages"])
        if [m["role"] for m in prompt.messages] != [("user", "assistant")[i % 2] for i in range(len(prompt.messages))]:
            raise InputError(f"line {number}.messages: user and assistant must take turns, the user first")
        if len(prompt.messages) % 2 == 0:
            raise InputError(f"line {number}.messages must end with the user's: it is what waits for an answer")
        if prompt.id in prompts:
            raise InputError(f"line {number}.id={argument.shown(prompt.id)} was there before: give it another name")
        prompts[prompt.id] = prompt
    return list(prompts.values())


def of_each(count: int = EACH) -> list[Prompt]:
    """The first `count` prompts of each kind. Raises InputError for more than there are."""
    argument.whole(1, EACH)(count, "prompts of a kind")
    every = read(FILE.read_text(encoding="utf-8").splitlines())
    return [prompt for kind in KINDS for prompt in [p for p in every if p.kind == kind][:count]]
