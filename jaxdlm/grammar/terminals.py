"""Strings and expressions of a grammar of Lark, as trees."""

import re
from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.grammar import patterns, syntax
from jaxdlm.grammar.syntax import Node, cat, chars, text


def of_pattern(pattern: Any, name: str) -> Node:
    """The texts of a string or an expression. Expressions are of Unicode, as Lark has them."""
    flags = "".join(sorted(pattern.flags))
    if pattern.type == "str" and any("\ud800" <= each <= "\udfff" for each in pattern.value):
        raise InputError(f"lark: {name} is a string with half of a surrogate pair, which no text holds: leave it out")
    if pattern.type == "str":
        if set(flags) - {"i"}:
            raise InputError(f"lark: {name} is a string with the flag {flags}, which it cannot have: leave it out")
        return cat(*(chars(_cases(each)) for each in pattern.value)) if flags else text(pattern.value)
    try:
        return patterns.parse(f"(?u{flags.replace('u', '')}:{pattern.value})", inside=True)
    except InputError as error:
        raise InputError(f"lark: terminal {name}: {error}") from None


def _cases(letter: str) -> tuple[syntax.Range, ...]:
    """A letter in the cases that match each other."""
    others = [each for each in (letter.lower(), letter.upper()) if re.fullmatch(re.escape(letter), each, re.IGNORECASE)]
    return syntax.those("".join([letter, *others]))
