"""A policy as it is written in a shell: NAME[,key=value...]."""

import ast
import inspect
from typing import Any

from jaxdlm import policies
from jaxdlm.errors import InputError, did_you_mean


def read_policy(words: str, extra: dict[str, Any]) -> Any:
    """`NAME[,key=value...]` to what `decode` takes: the name alone, or the recipe called with the typed values."""
    name, arguments = parse_policy(words)
    arguments |= extra
    if name not in policies.RECIPES:
        raise InputError(f"unknown policy {name!r}{did_you_mean(name, policies.RECIPES)}: jaxdlm policies lists them")
    recipe = policies.RECIPES[name]
    known = inspect.signature(recipe).parameters
    wrong = [key for key in arguments if key not in known]
    if wrong and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        raise InputError(f"policy {name!r} takes no {wrong[0]!r}: it takes {', '.join(known) or 'no arguments'}")
    if not arguments:
        return name
    try:
        return recipe(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"policy {words!r}: {error}") from error


def parse_policy(words: str) -> tuple[str, dict[str, Any]]:
    """`"prophet,steps=8,thresholds=(7.5,5,2.5)"` -> ("prophet", {"steps": 8, "thresholds": (7.5, 5, 2.5)}).

    Values are Python literals, true/false/none in any case, or else words.
    """
    name, *pairs = split(words)
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip().isidentifier() or not value.strip():
            raise InputError(f"policy argument {pair!r} is not key=value: write --policy NAME,key=value,...")
        if key.strip() in arguments:
            raise InputError(f"policy argument {key.strip()!r} is given twice: keep one")
        arguments[key.strip()] = _literal(value.strip())
    return name.strip(), arguments


def split(words: str) -> list[str]:
    """Parts between commas that are outside brackets."""
    parts, depth = [""], 0
    for character in words:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _literal(value: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if value.lower() in named:
        return named[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
