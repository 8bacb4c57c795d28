"""Chat templates: messages -> one string, by the model's own Jinja template, in a process that is bounded in every way."""

import atexit
import itertools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxdlm.confined import Child, Died
from jaxdlm.controls import Controls
from jaxdlm.errors import InputError, did_you_mean

MAX_TEMPLATE = 1 << 16  # characters; the longest of the released ones that were measured has 16,714
# Measured on 46 released templates (llama.cpp's and chujiezheng's collections) and the 53 end-to-end cases of huggingface.js,
# whose text equals that of transformers wherever neither the day nor missing tools are asked for: 12 to 410 steps for a short
# chat, with tools or without, at most 42,299 for one of 1,002 messages, at most 85,991 for a message of 10^6 characters.
STEPS = 1_000_000
SECONDS = 10.0  # of one rendering; what the steps allow takes up to three
MAX_ANSWER = 1 << 26  # bytes of JSON that hold a rendering of the largest size, six for a character

Message = Mapping[str, Any]


def render(
    template: str,
    messages: Sequence[Message],
    variables: Mapping[str, Any],
    controls: Controls | None = None,
    opened: bool = True,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """messages -> text, with the assistant's turn opened.

    Args:
        template: Jinja source as checkpoints ship it.
        messages: [{"role": ..., "content": ...}, ...], plain JSON.
        variables: the special tokens by name (`bos_token`, `eos_token`, ...), undefined names render as nothing.
        controls: control tokens, which the text then holds as private characters (see `jaxdlm.controls`).
        opened: False leaves the assistant's turn closed.
        more: the caller's variables (`tools`, `enable_thinking`, ...), plain JSON; words in them are words, like those of
            messages.
    Raises InputError where the template fails, refuses the messages (`raise_exception`), exceeds a bound, or does not read
    one of `more`, which it would do without in silence.
    The environment is that of transformers' apply_chat_template: trim_blocks, lstrip_blocks, loop controls, `tojson`
    without HTML escapes, `tools` and `documents` None. Departures: `strftime_now`, `lipsum` and the filter `random` are
    absent and addresses of objects are not printed, since a prompt must not depend on the day or on chance; steps,
    output, memory and time are bounded (`jaxdlm.confined.templates`), in one process of its own for all threads, which
    starts with the first template.
    """
    if len(template) > MAX_TEMPLATE:
        raise InputError(f"the chat template has {len(template)} characters, more than {MAX_TEMPLATE}: {WITHOUT}")
    names = {"tools": None, "documents": None, **variables, "messages": messages, "add_generation_prompt": opened}
    question = {"template": template, "variables": names, "more": dict(more), "steps": STEPS, "seconds": SECONDS}
    try:
        with _lock:
            answer = _ask(question, controls)
    except InputError:  # it does not start
        raise
    except TimeoutError:
        raise InputError(f"the chat template takes more than {SECONDS:g} seconds: {WITHOUT}") from None
    except Died:
        raise InputError(f"the chat template ends the process that renders it: {WITHOUT}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the messages are not plain JSON ({error}): give strings, numbers, lists and objects"
        ) from None
    if "exceeded" in answer:
        raise InputError(f"the chat template {answer['exceeded']}: {WITHOUT}")
    if "syntax" in answer:
        raise InputError(f"the chat template does not parse ({answer['syntax']}): fetch it again, or pass raw=True")
    if "error" in answer:
        raise InputError(f"the chat template refuses these messages: {answer['error']}")
    if "unread" in answer:
        name, reads = answer["unread"], answer["reads"]
        hint = did_you_mean(name, reads) or (f" (it reads {', '.join(reads):.200})" if reads else "")
        raise InputError(f"the chat template does not read {name:.60}{hint}: leave that out")
    return _text(answer["text"])


WITHOUT = "shorten the messages, or pass raw=True to do without it"


def _text(rendered: str) -> str:
    try:
        rendered.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the chat template writes half of a surrogate pair at {error.start}, which is no text: {WITHOUT}"
        ) from None
    return rendered


_lock = threading.Lock()
_child: Child | None = None
_numbers: "weakref.WeakKeyDictionary[Controls, int]" = weakref.WeakKeyDictionary()  # of control tokens
_count = itertools.count(1)
_told: set[int] = set()  # which of them the process that renders has been told


def prepare() -> None:
    """Starts the process that renders, so that it is there when it is needed."""
    with _lock:
        _renderer()


def _renderer() -> Child:
    """The process that renders, started again where the last one was ended."""
    global _child
    if _child is None or not _child.alive():
        _end()
        _told.clear()
        _child = Child("templates", MAX_ANSWER)
    return _child


def _ask(question: dict[str, Any], controls: Controls | None) -> Any:
    child = _renderer()
    if controls is not None:
        number = question["controls"] = _numbers.setdefault(controls, next(_count))
        question["aliases"] = None if number in _told else dict(controls.aliases)
    answer = child.ask(question, SECONDS)
    _told.update({question["controls"]} if controls is not None else ())
    return answer


@atexit.register
def _end() -> None:
    global _child
    if _child is not None:
        _child.close()
    _child = None


def _forked() -> None:
    """A fork has neither the thread that reads the answers nor a lock that anybody would open: it starts its own."""
    global _child, _lock, _parents
    _parents, _child, _lock = _child, None, threading.Lock()


_parents: Child | None = None  # kept, so that the fork does not close what is not its own
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
