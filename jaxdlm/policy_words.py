"""A policy or a cache as it is written in a shell, NAME[,key=value...], taken apart."""

import ast
from typing import Any

from jaxdlm.argument import shown
from jaxdlm.errors import InputError


def parse_policy(words: str, thing: str = "policy") -> tuple[str, dict[str, Any]]:
    """`"prophet,steps=8,thresholds=(7.5,5,2.5)"` -> ("prophet", {"steps": 8, "thresholds": (7.5, 5, 2.5)}).

    Values are Python literals, true/false/none in any case, or else words.
    """
    name, *pairs = split(words)
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip().isidentifier() or not value.strip():
            raise InputError(f"{thing} argument {shown(pair)} is not key=value: write NAME,key=value,...")
        if key.strip() in arguments:
            raise InputError(f"{thing} argument {key.strip()!r} is given twice: keep one")
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
        inside = value.startswith("(") and value.endswith(")")  # which keep commas together: host=(threshold,tau=0.8)
        return value[1:-1] if inside else value
