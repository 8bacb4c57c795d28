"""Chats as they come in -> the plain form that chat templates read: strings, and nothing but strings, as content."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.controls import MARK, checked
from jaxdlm.errors import InputError

CALLS = (
    "tool_calls",
    "function_call",
    "tool_responses",
)  # keys whose values are JSON of any shape, which templates print
DEPTH = 32  # of that JSON
SHAPE = "{'role': ..., 'content': ...}"
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # names of the same field, in releases and in servers
FIELDS = ("content", *THOUGHTS)  # that an answer can go on with
RESERVED = {  # variables of a template that are stated otherwise
    "messages": "they are the prompt", "tools": "give them as tools",
    "add_generation_prompt": "use continue_final_message", "continue_final_message": "give it beside",
}  # fmt: skip


class Form(NamedTuple):
    """What becomes of a prompt besides its words.

    system: words of a system message, in front of prompts that have none. tools: what a template shows as functions, JSON
    schemas. variables: further variables of the template (`chat_template_kwargs`). resume: the field of the last message
    whose words the answer goes on with; True: its content; None: its content where the assistant has the last word; False:
    the answer is a message of its own.
    """

    system: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    variables: Mapping[str, Any] = MappingProxyType({})
    resume: bool | str | None = None

    @property
    def stated(self) -> list[str]:
        """The arguments that a prompt without a chat template has no use for, by their names."""
        values = (self.system, self.tools, self.variables or None, self.resume)
        return [name for name, value in zip(ARGUMENTS, values, strict=True) if value is not None]

    def chat(self, messages: Any) -> list[dict[str, Any]]:
        """The messages as templates read them, behind the system's words."""
        read = plain(messages)
        if self.system is None or read[0]["role"] in ("system", "developer"):
            return read
        return [{"role": "system", "content": self.system}, *read]

    def resumed(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The field of the last message that the answer goes on with. Raises InputError where there are no such words."""
        last, where = messages[-1], f"message {len(messages) - 1}"
        spoken = last["role"] in ("assistant", "model")
        if self.resume is False or (self.resume is None and not (spoken and last["content"].strip())):
            return None
        calls = next((name for name in CALLS if last.get(name)), None)
        if calls is not None and self.resume is None:
            return None
        field = self.resume if isinstance(self.resume, str) else FIELDS[0]
        hint = "or leave continue_final_message out"
        if not spoken:
            raise InputError(f"{where} is not the assistant's ({last['role']:.60}): end with words of its own, {hint}")
        if calls is not None:
            raise InputError(f"{where} ends with {calls}, and nothing goes on behind these: leave them out, {hint}")
        if not last.get(field, "").strip():
            raise InputError(f"{where} has no words of {field} to go on with: write some, {hint}")
        if field in THOUGHTS and last["content"].strip():
            raise InputError(f"{where} has content, behind which its {field} is closed: leave the content out, {hint}")
        return field


OPENED = Form(resume=False)
ARGUMENTS = ("system", "tools", "chat_template_kwargs", "continue_final_message")


def read_form(
    system: Any = None, tools: Any = None, chat_template_kwargs: Any = None, continue_final_message: Any = None
) -> Form:
    """The `Form` of these arguments. Raises InputError that names the one that is none."""
    if system is not None and not argument.text(system, "system").strip():
        raise InputError("system is empty: write the system's words, or leave it out")
    resume = continue_final_message
    if isinstance(resume, str):
        argument.check_choice(resume, "continue_final_message", FIELDS)
    elif resume is not None:
        argument.flag(resume, "continue_final_message")
    variables = _json(argument.table(chat_template_kwargs or {}, "chat_template_kwargs"), "chat_template_kwargs")
    for name in variables:
        if name in RESERVED or not name.isidentifier():
            why = RESERVED.get(name, "a variable of a template has a name of letters")
            raise InputError(f"chat_template_kwargs: {name!r:.60} cannot be given there: {why}")
    shown = None if tools is None else argument.items(tools, "tools", _tool) or None
    return Form(None if system is None else checked(system), shown, variables, resume)


def _tool(value: Any, name: str) -> Mapping[str, Any]:
    """A function as a chat template shows it: {"type": "function", "function": {"name", ...}}, or the latter alone."""
    read: dict[str, Any] = _json(argument.table(value, name), name)
    function = read.get("function", read)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f'{name} is no function: write {{"type": "function", "function": {{"name": ...}}}}')
    return read


def marked(messages: Sequence[Mapping[str, Any]], field: str) -> list[Mapping[str, Any]]:
    """The messages with a mark behind the words of that field of the last one; of thoughts, whatever they are called."""
    fields = THOUGHTS if field in THOUGHTS else (field,)
    last = dict(messages[-1])
    return [*messages[:-1], last | {name: last[name] + MARK + " " for name in fields if name in last}]


def before_mark(text: str, messages: Sequence[Mapping[str, Any]], field: str) -> str:
    """A rendering of marked messages up to the mark. Raises InputError where the words of the last message do not stand there.

    The blank behind the mark tells whether the template keeps blanks at the end of what it writes: where it does not, those
    of the words go too, as they do in transformers.
    """
    before, mark, after = text.rpartition(MARK)
    where = f"message {len(messages) - 1}"
    if not mark:
        raise InputError(
            f"the chat template closes or leaves out the {field} of {where}, so that no answer goes on with it"
        )
    words = messages[-1][field].split()[-1]
    if MARK in before or not before.rstrip().endswith(words):
        raise InputError(f"the chat template changes the {field} of {where}, so that no answer goes on with it")
    asked = " ".join(message["content"] for message in messages if message["role"] == "user").split()[-1:]
    if not all(word in before for word in asked):
        raise InputError(f"the chat template reads the last message alone, so that no answer goes on with {where}")
    return before if after.startswith(" ") else before.rstrip()


def plain(messages: Any) -> list[dict[str, Any]]:
    """Messages as new dicts: a role, content as one string, further strings, tool calls as JSON.

    Content is a string, or a list of parts {"type": "text", "text": ...}, which are joined as they are; None, or none
    at all, is "" beside tool calls. Keys whose value is None or an empty list count as absent; thoughts go by each name that
    templates have for them. Raises InputError that names the message
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
    values = message.items() if isinstance(message, Mapping) else ()
    fields = {key: value for key, value in values if value is not None and (key == "content" or not _nothing(value))}
    calls = any(key in fields for key in CALLS)
    if "role" not in fields or ("content" not in fields and not calls):
        raise InputError(f"{where} is not {SHAPE}: {message!r:.80}")
    read: dict[str, Any] = {}
    for key, value in (fields if "content" in fields else fields | {"content": ""}).items():
        name = _text(key, where)
        if name == "content":
            read[name] = _content(value, where)
        elif name in CALLS:
            read[name] = _json(value, f"{where}: {name}")
        else:
            read[name] = _text(value, f"{where}: {name:.60}")
    thoughts = next((read[name] for name in THOUGHTS if name in read), None)
    return read if thoughts is None else {"thinking": thoughts, **read, "reasoning_content": thoughts}


def _nothing(value: Any) -> bool:
    return isinstance(value, list | tuple) and not value


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
