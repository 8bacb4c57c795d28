"""Errors that a user can fix; the command line prints their one line and exits with status 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one line that names the thing and the fix."""


class ConfigUnsupported(InputError):
    """A model setting that this library does not implement; the message names the key."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'NAME'?)` with the closest known name; empty where none is close."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
