"""Regular expressions as trees, by Python's own parser of them."""

import functools
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxdlm.argument import shown
from jaxdlm.errors import InputError
from jaxdlm.grammar.syntax import EVERY, Node, Range, alt, cat, chars, merged, repeat, text, those, without

_sre = importlib.import_module("re._parser")  # no public module has the tree

BEGINS, ENDS = ("AT_BEGINNING", "AT_BEGINNING_STRING"), ("AT_END", "AT_END_STRING")
LINE = those("\n")
ASCII: dict[str, tuple[Range, ...]] = {
    "DIGIT": ((48, 57),), "SPACE": those(" \t\n\r\f\v"), "WORD": merged([(48, 57), (65, 90), (95, 95), (97, 122)]),
}  # fmt: skip
TESTS: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": lambda letter: letter.isalnum() or letter == "_",
}  # fmt: skip
UNSUPPORTED = {
    "ASSERT": "look-ahead or look-behind", "ASSERT_NOT": "look-ahead or look-behind", "FAILURE": "look-ahead",
    "GROUPREF": "a back-reference", "GROUPREF_EXISTS": "a conditional group", "ATOMIC_GROUP": "an atomic group (?>...)",
    "POSSESSIVE_REPEAT": "a possessive quantifier",
}  # fmt: skip
FLAGS = {re.IGNORECASE: "i (ignore case: write [aA])", re.MULTILINE: "m (multi-line)", re.LOCALE: "L (locale)"}
Item = tuple[Any, Any]


class Scope(NamedTuple):
    """What flags and place say about a part: `.` takes a newline, classes are of all Unicode; and its edges.

    An edge is "" inside the pattern, where an anchor would mean something; "closed" at the pattern's own edge, where it
    means nothing; and "open" where anything may stand beyond, unless an anchor closes it.
    """

    pattern: str
    newline: bool
    unicode: bool
    front: str = ""
    back: str = ""
    inside: bool = False


def parse(pattern: str, *, search: bool = False, inside: bool = False) -> Node:
    r"""The texts that `re.fullmatch(pattern, text, re.ASCII)` accepts; search: those in which `re.search` finds it.

    inside: those that `re.match` takes as a whole, wherever in a longer text; so anchors, lazy quantifiers and an option
    that begins a later one are refused.

    `\d`, `\w` and `\s` are those of ASCII, as JSON Schema has them, unless the pattern says (?u). Lazy quantifiers are
    as good as others. Anchors mean something at the ends only.

    Raises InputError for a pattern that does not parse, and for what is no regular language or not supported, by name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later Python may read otherwise, this one reads as it does
            tree, stated = _parsed(pattern)
    except (re.error, OverflowError, ValueError) as error:
        raise InputError(f"regex {shown(pattern)} does not parse ({error}): correct it") from None
    except RecursionError:
        raise InputError(f"regex {shown(pattern)} is nested too deeply: write it flatter") from None
    flags = tree.state.flags
    _check_flags(pattern, flags)
    edge = "open" if search else "" if inside else "closed"
    try:
        return _sequence(list(tree), Scope(pattern, bool(flags & re.DOTALL), stated, edge, edge, inside))
    except RecursionError:
        raise InputError(f"regex {shown(pattern)} is nested too deeply: write it flatter") from None


def _parsed(pattern: str) -> tuple[Any, bool]:
    """(Python's tree, whether the pattern says (?u), which ASCII does not go with)."""
    try:
        return _sre.parse(pattern, re.ASCII), False
    except ValueError:
        return _sre.parse(pattern), True


def _check_flags(pattern: str, flags: int) -> None:
    for flag, name in FLAGS.items():
        if flags & flag:
            raise InputError(f"regex {shown(pattern)} uses the flag {name}, which is not supported: write it without")


def _refuse(scope: Scope, feature: str) -> InputError:
    return InputError(
        f"regex {shown(scope.pattern)} uses {feature}, which is not supported: an automaton cannot look around or back; "
        f"write it without"
    )


def _anchors(items: Sequence[Item]) -> tuple[int, int]:
    """How many items at the front are anchors of the beginning, and at the back of the end."""
    lead = next((i for i, item in enumerate(items) if not _is_anchor(item, BEGINS)), len(items))
    behind = items[lead:][::-1]
    return lead, next((i for i, item in enumerate(behind) if not _is_anchor(item, ENDS)), len(behind))


def _is_anchor(item: Item, kinds: Sequence[str]) -> bool:
    return str(item[0]) == "AT" and str(item[1]) in kinds


def _sequence(items: Sequence[Item], scope: Scope) -> Node:
    lead, tail = _anchors(items)
    lead, tail = lead * (scope.front != ""), tail * (scope.back != "")  # those inside are refused below
    core = items[lead : len(items) - tail]
    front, back = "closed" if lead else scope.front, "closed" if tail else scope.back
    parts = []
    for index, item in enumerate(core):
        first, last = front if index == 0 else "", back if index == len(core) - 1 else ""
        if str(item[0]) in ("SUBPATTERN", "BRANCH"):  # what stands beyond an open edge is up to each option in it
            parts.append(_item(item, scope._replace(front=first, back=last)))
        else:
            parts += [*_beyond(first), _item(item, scope._replace(front="", back="")), *_beyond(last)]
    return cat(*(parts if core else _beyond("open" if "open" in (front, back) else "")))


def _beyond(edge: str) -> list[Node]:
    return [repeat(chars(EVERY), 0, None)] if edge == "open" else []


def _item(item: Item, scope: Scope) -> Node:
    kind, value = str(item[0]), item[1]
    if kind in UNSUPPORTED:
        raise _refuse(scope, UNSUPPORTED[kind])
    if kind == "AT":
        words = "a word boundary" if "BOUNDARY" in str(value) else "an anchor inside"
        raise _refuse(scope, words)
    return ITEMS[kind](value, scope)


def _literal(value: int, scope: Scope) -> Node:
    return text(chr(value)) if not 0xD800 <= value <= 0xDFFF else chars(())


def _any(_: None, scope: Scope) -> Node:
    return chars(EVERY if scope.newline else without(EVERY, LINE))


def _set(value: Sequence[Item], scope: Scope) -> Node:
    ranges: list[Range] = []
    for kind, what in value:
        match str(kind):
            case "LITERAL":
                ranges.append((what, what))
            case "RANGE":
                ranges.append(what)
            case "CATEGORY":
                ranges += _category(str(what), scope)
    negated = any(str(kind) == "NEGATE" for kind, _ in value)
    return chars(without(EVERY, ranges) if negated else merged(ranges))


def _category(name: str, scope: Scope) -> tuple[Range, ...]:
    kind = name.removeprefix("CATEGORY_")
    ranges = category(kind.removeprefix("NOT_"), scope.unicode)
    return without(EVERY, ranges) if kind.startswith("NOT_") else ranges


@functools.cache
def category(kind: str, unicode: bool) -> tuple[Range, ...]:
    """The characters of DIGIT, SPACE or WORD."""
    if not unicode:
        return ASCII[kind]
    test = TESTS[kind]
    return merged((code, code) for code in range(sys.maxunicode + 1) if test(chr(code)))


def _branch(value: tuple[None, Sequence[Sequence[Item]]], scope: Scope) -> Node:
    if scope.inside and any(
        not len(option) for option in value[1][:-1]
    ):  # the parser has taken out what all begin with
        raise InputError(
            f"regex {shown(scope.pattern)} has an option that a later one begins with, and takes that first: put the longer "
            f"one before it"
        )
    return alt(*(_sequence(option, scope) for option in value[1]))


def _flagged(scope: Scope, added: int, removed: int) -> Scope:
    _check_flags(scope.pattern, added)
    newline = (scope.newline or bool(added & re.DOTALL)) and not removed & re.DOTALL
    unicode = (scope.unicode or bool(added & re.UNICODE)) and not added & re.ASCII
    return scope._replace(newline=newline, unicode=unicode)


def _group(value: tuple[Any, int, int, Sequence[Item]], scope: Scope) -> Node:
    _, added, removed, inner = value
    return _sequence(list(inner), _flagged(scope, added, removed))


def _repeated(value: tuple[int, Any, Sequence[Item]], scope: Scope) -> Node:
    low, high, inner = value
    node = _sequence(list(inner), scope)
    return repeat(node, int(low), None if high == _sre.MAXREPEAT else int(high))


def _lazy(value: tuple[int, Any, Sequence[Item]], scope: Scope) -> Node:
    if scope.inside:
        raise InputError(
            f"regex {shown(scope.pattern)} uses a lazy quantifier, and where it ends depends on what follows: write which "
            f"characters it takes, as in [^x]*"
        )
    return _repeated(value, scope)


ITEMS: dict[str, Callable[[Any, Scope], Node]] = {
    "LITERAL": _literal, "NOT_LITERAL": lambda value, scope: chars(without(EVERY, [(value, value)])), "ANY": _any,
    "IN": _set, "BRANCH": _branch, "SUBPATTERN": _group, "MAX_REPEAT": _repeated, "MIN_REPEAT": _lazy,
}  # fmt: skip
