"""A policy or a cache as it is written in a shell, NAME[,key=value...], taken apart and built."""

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from jaxdlm import registry
from jaxdlm.argument import shown
from jaxdlm.errors import InputError, did_you_mean


def read(words: str, extra: Mapping[str, Any] | None = None) -> Any:
    """The policy that `NAME[,key=value...]` stands for, as in a shell; `extra` wins over the words.

    Raises InputError for an unknown name or argument, and for what the method refuses.
    """
    return _built(words, registry.methods(), "policy", extra or {})


def read_cache(words: str) -> Any:
    """The cache that `NAME[,key=value...]` stands for."""
    return _built(words, registry.caches(), "cache", {})


def _built(
    words: str, known: Mapping[str, registry.Method | registry.Cache], thing: str, extra: Mapping[str, Any]
) -> Any:
    name, stated = parse_policy(words, thing)
    arguments = stated | dict(extra)
    if name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise InputError(f"unknown {thing} {shown(name)}{hint}")
    build = known[name].build
    takes = inspect.signature(build).parameters
    wrong = [key for key in arguments if key not in takes]
    if wrong:
        raise InputError(f"{thing} {name!r} takes no {wrong[0]!r}: it takes {', '.join(takes) or 'no arguments'}")
    return build(**arguments)


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
        arguments[key.strip()] = literal(value.strip())
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


def literal(value: str) -> Any:
    """A word of a shell as a value: true, false, none, a literal of Python, else itself."""
    named = {"true": True, "false": False, "none": None}
    if value.lower() in named:
        return named[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        inside = value.startswith("(") and value.endswith(")")  # which keep commas together: host=(threshold,tau=0.8)
        return value[1:-1] if inside else value
