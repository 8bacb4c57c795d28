"""A policy around another one that is given in words."""

import inspect
from typing import Any

from jaxdlm import argument, registry
from jaxdlm.core.rule import Rule
from jaxdlm.errors import InputError
from jaxdlm.policy_words import parse_policy, read


def hosted(words: str, own: str, extra: dict[str, tuple[Any, Any]]) -> Rule:
    """The policy that a host's words stand for, with what `own`, the recipe that asks, adds: name -> (value, default)."""
    name, stated = parse_policy(words)
    known = [each for each in registry.methods() if each != own]
    if name not in known:
        raise InputError(f"host={argument.shown(words)}: must be a rule or one of {', '.join(known)}")
    argument.unused(
        f"beside that of host={argument.shown(words)}", **{key: pair for key, pair in extra.items() if key in stated}
    )
    added = {key: value for key, (value, default) in extra.items() if value is not default and key not in stated}
    return read(words, added)


def accepted(name: str) -> tuple[str, ...]:
    """Names of a method's arguments; none where there is no such method."""
    known = registry.methods().get(name)
    return () if known is None else tuple(inspect.signature(known.build).parameters)


def scheduled() -> tuple[str, ...]:
    """Names of the methods that spread their commits evenly over `steps` forwards."""
    return tuple(name for name, known in registry.methods().items() if known.scheduled)
