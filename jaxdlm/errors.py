"""Errors that a user can fix; the command line prints their one line. Exit status 2: the input is bad; 1: the rest."""

import difflib
from collections.abc import Iterable

LONGEST = 1200  # characters of a message: what is quoted may be a whole file


class InputError(ValueError):
    """Bad input: one line that names the thing and the fix. A long one loses its middle."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message)))


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, without its middle where it has more characters: the thing stands at the beginning, the fix at the end."""
    tail = longest // 3
    return text if len(text) <= longest else f"{text[: longest - tail - 3]} … {text[-tail:]}"


class Moved(InputError, AttributeError):
    """A public name that has gone to another place, which the message names."""


class Unfinished(RuntimeError):
    """Work that was left undone for a reason outside the input: one line that names it and how to go on."""


class ConfigUnsupported(InputError):
    """A model setting that this library does not implement; the message names the key."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'NAME'?)` with the closest known name; empty where none is close."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def exhausted(error: BaseException) -> bool:
    """Whether a device has no room for a program or its arrays."""
    return "RESOURCE_EXHAUSTED" in str(error)
