"""Chats as they come in -> the plain form that chat templates read: strings, and nothing but strings, as content."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.controls import checked
from jaxdlm.errors import InputError

CALLS = (
    "tool_calls",
    "function_call",
    "tool_responses",
)  # keys whose values are JSON of any shape, which templates print
DEPTH = 32  # of that JSON
SHAPE = "{'role': ..., 'content': ...}"


def plain(messages: Any) -> list[dict[str, Any]]:
    """Messages as new dicts: a role, content as one string, further strings, tool calls as JSON.

    Content is a string, or a list of parts {"type": "text", "text": ...}, which are joined as they are; None, or none
    at all, is "" beside tool calls. Keys whose value is None count as absent. Raises InputError that names the message
    and what it holds instead: another kind of part, an object, a number; a private character or half of a surrogate
    pair anywhere, keys included; and for messages without a word.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"a chat is a list of {SHAPE}, not {type(messages).__name__}")
    read = [_message(message, f"message {index}") for index, message in enumerate(messages)]
    if not any(message["content"].strip() for message in read):
        raise InputError("the prompt is empty: give at least one message with a word in it")
    return read


def _message(message: Any, where: str) -> dict[str, Any]:
    given = {key: value for key, value in message.items() if value is not None} if isinstance(message, Mapping) else {}
    calls = any(key in given for key in CALLS)
    if "role" not in given or ("content" not in given and not calls):
        raise InputError(f"{where} is not {SHAPE}: {message!r:.80}")
    read: dict[str, Any] = {}
    for key, value in (given if "content" in given else given | {"content": ""}).items():
        name = _text(key, where)
        if name == "content":
            read[name] = _content(value, where)
        elif name in CALLS:
            read[name] = _json(value, f"{where}: {name}")
        else:
            read[name] = _text(value, f"{where}: {name:.60}")
    return read


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return checked(content)
    if not isinstance(content, list | tuple):
        raise InputError(f"{where}: content is {_kind(content)}: write a string, or a list of text parts")
    return "".join(_part(part, f"{where}: part {index}") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InputError(f'{where} is {_kind(part)}: write {{"type": "text", "text": ...}}')
    if part.get("type") != "text":
        raise InputError(f"{where} has type {part.get('type')!r:.60}, and this model reads text alone: leave it out")
    others = [key for key, value in part.items() if key not in ("type", "text") and value is not None]
    if others:
        raise InputError(f"{where} has {others[0]!r:.60} beside its text, which means nothing here: leave it out")
    return _text(part.get("text"), f"{where}: text")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} is {_kind(value)}: write a string")
    return checked(value)


def _json(value: Any, where: str, depth: int = 0) -> Any:
    """The same value, checked: objects with strings as keys, lists, strings, finite numbers, truth values, null."""
    if depth > DEPTH:
        raise InputError(f"{where} is nested more than {DEPTH} deep: write it flatter")
    if isinstance(value, Mapping):
        return {_text(key, f"{where}: a key"): _json(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, where, depth + 1) for item in value]
    if isinstance(value, str):
        return checked(value)
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{where} holds {_kind(value)}: write JSON")


def _kind(value: Any) -> str:
    named = {
        dict: "an object",
        list: "a list",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a string",
    }
    return "null" if value is None else named.get(type(value), f"of type {type(value).__name__}")
