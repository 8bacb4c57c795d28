"""JSON schemas as trees: the values they allow, in one layout."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple
from urllib.parse import unquote

from jaxdlm import argument
from jaxdlm.argument import shown
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.grammar import numbers, patterns, syntax
from jaxdlm.grammar.automaton import MOST_NODES
from jaxdlm.grammar.syntax import EVERY, Node, alt, cat, chars, members, repeat, text, those, without, words

DEEPEST = 6  # of free values
NESTED = 100  # schemas inside each other
SHORT = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}  # letters behind a backslash
PLAIN = without(EVERY, [(0, 31), *those('"\\')])
LETTER = alt(chars(PLAIN), cat(text("\\"), chars(those("".join(SHORT.values())))))
STRING = cat(text('"'), repeat(LETTER, 0, None), text('"'))
CONSTANTS = {"boolean": alt(text("true"), text("false")), "null": text("null")}
ANNOTATIONS = frozenset(
    "title description default examples example $schema $id $comment $defs definitions deprecated readOnly writeOnly "
    "strict".split()
)
KEYWORDS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
ALONE = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")  # none beside another, nor beside a type's own keywords
KNOWN = frozenset([*ANNOTATIONS, *ALONE, "type", "nullable", *(key for keys in KEYWORDS.values() for key in keys)])
YEAR = r"(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
DATE = (
    rf"(?:{YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    rf"02-(?:0[1-9]|1[0-9]|2[0-8]))|{LEAP}-02-29)"
)
HOUR = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
TIME = rf"{HOUR}:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+-]{HOUR})"
HEX = "[0-9a-fA-F]"
FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}T{TIME}",
    "uuid": f"{HEX}{{8}}(?:-{HEX}{{4}}){{3}}-{HEX}{{12}}",
    "email": r"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}",
}


class Layout(NamedTuple):
    """What stands around members: behind the opening and before the closing bracket, between members, before a value."""

    pad: Node
    comma: Node
    colon: Node


def layout(whitespace: str | None) -> Layout:
    """That of `json.dumps`, or white space by a regular expression wherever JSON allows some."""
    if whitespace is None:
        return Layout(text(""), text(", "), text(": "))
    space = patterns.parse(argument.text(whitespace, "whitespace"))
    return Layout(space, cat(space, text(","), space), cat(space, text(":"), space))


def read(schema: Any) -> Any:
    """A schema from a dict, a boolean or the text of one; InputError where it is none."""
    if isinstance(schema, str | bytes):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InputError(f"json_schema does not parse as JSON ({error}): correct it, or pass a dict") from None
    if not isinstance(schema, Mapping | bool):
        argument.refuse(schema, "json_schema", "an object, {'type': 'object', 'properties': ...}, or its text")
    try:
        return json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"json_schema is no JSON ({error}): leave out what JSON cannot write") from None


def schema(known: Any, spaces: Layout, depth: int) -> Node:
    """The tree of a schema that `read` has made. Raises InputError for what is not supported, by its path."""
    return _Reader(known, spaces, depth).value(known, "#", ())


def part(document: Any, known: Any, where: str, depth: int) -> Node:
    """`schema` of a part of a document, by its path; in the layout of `json.dumps`."""
    return _Reader(document, layout(None), depth).value(known, where, ())


def anything(depth: int, spaces: Layout, objects: bool = False) -> Node:
    """Any value with `depth` objects and lists inside each other; objects: one of these at the top."""
    scalar = alt(STRING, numbers.NUMBER, *CONSTANTS.values())
    if depth == 0:
        return scalar
    inner = anything(depth - 1, spaces)
    free = _object([], [], _member(STRING, inner, spaces), spaces)
    return free if objects else alt(scalar, free, _array([], 0, inner, spaces))


def _member(key: Node, value: Node, spaces: Layout) -> Node:
    return cat(key, spaces.colon, value)


def _object(parts: Sequence[Node], required: Sequence[bool], rest: Node | None, spaces: Layout) -> Node:
    return cat(text("{"), spaces.pad, members(parts, required, spaces.comma, rest), spaces.pad, text("}"))


def _array(parts: Sequence[Node], least: int, rest: Node | None, spaces: Layout) -> Node:
    return cat(text("["), spaces.pad, members(parts, least, spaces.comma, rest), spaces.pad, text("]"))


def quoted(tree: Node) -> Node:
    """The same texts inside a string of JSON: what must be escaped in it is."""
    match tree:
        case syntax.Chars(ranges=ranges):
            escapes = [letter for letter in SHORT if any(low <= ord(letter) <= high for low, high in ranges)]
            plain = chars(without(ranges, [(0, 31), *those('"\\')]))
            behind = chars(those("".join(SHORT[letter] for letter in escapes)))
            return alt(plain, cat(text("\\"), behind)) if escapes else plain
        case syntax.Text(data=data):
            return cat(*(quoted(chars(those(letter))) for letter in data.decode())) if data else tree
        case syntax.Cat(parts=parts):
            return cat(*map(quoted, parts))
        case syntax.Alt(options=options):
            return alt(*map(quoted, options))
        case syntax.Repeat(inner=inner, low=low, high=high):
            return repeat(quoted(inner), low, high)
    raise TypeError(type(tree))


class _Reader:
    """Reads one document; a definition is read once however often it is referred to."""

    def __init__(self, document: Any, spaces: Layout, depth: int) -> None:
        self._document, self._spaces, self._depth = document, spaces, depth
        self._known: dict[str, Node] = {}

    def value(self, known: Any, path: str, inside: tuple[str, ...]) -> Node:
        """inside: the references that lead here, of which none may be met again."""
        if path.count("/") > NESTED or len(inside) > NESTED:
            raise InputError(f"json_schema {path[:80]}... is nested more than {NESTED} deep: write it flatter")
        if known is True or known == {}:
            return anything(self._depth, self._spaces)
        if not isinstance(known, Mapping):
            raise _wrong(path, f"is {shown(known)}: must be a schema that allows some value")
        self._check_keys(known, path)
        node = self._alone(known, path, inside) or self._typed(known, path, inside)
        return alt(node, text("null")) if self._flag(known, "nullable", path) else node

    def _check_keys(self, known: Mapping[str, Any], path: str) -> None:
        for key in known:
            if key not in KNOWN:
                raise _wrong(f"{path}/{key}", f"is not supported{did_you_mean(key, KNOWN)}: leave it out")
        alone = [key for key in ALONE if key in known]
        others = [key for key in known if key not in ANNOTATIONS and key not in (*alone[:1], "nullable")]
        if alone and (set(others) - ({"type"} if alone[0] in ("enum", "const") else set())):
            raise _wrong(f"{path}/{others[0]}", f"beside {alone[0]} is not supported: put it into {alone[0]}")

    def _flag(self, known: Mapping[str, Any], key: str, path: str) -> bool:
        return argument.flag(known.get(key, False), f"json_schema {path}/{key}")

    def _alone(self, known: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Node | None:
        if "$ref" in known:
            return self._reference(known["$ref"], f"{path}/$ref", inside)
        if "enum" in known or "const" in known:
            return self._listed(known, path)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in known:
                options = self._list(known[key], f"{path}/{key}")
                if key == "allOf" and len(options) > 1:
                    raise _wrong(f"{path}/{key}", "of more than one schema is not supported: join them into one")
                return alt(*(self.value(each, f"{path}/{key}/{i}", inside) for i, each in enumerate(options)))
        return None

    def _list(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(path, f"is {shown(value)}: must be a list with something in it")
        return value

    def _reference(self, target: Any, path: str, inside: tuple[str, ...]) -> Node:
        if not isinstance(target, str) or not target.startswith("#"):
            raise _wrong(path, f"is {shown(target)}: must point into the schema, '#/$defs/NAME'")
        if target in inside or target == "#":
            raise _wrong(
                path,
                f"{shown(target)} recurs, which no automaton can follow without end: write out as many levels as you need, or "
                f"have a checker on the host follow it, grammar=jaxdlm.grammar.json_schema(schema, lm, depth=None)",
            )
        if target not in self._known:
            node = self._document
            for step in filter(None, unquote(target[1:]).split("/")):
                step = step.replace("~1", "/").replace("~0", "~")
                if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                    node = node[int(step)]
                elif isinstance(node, Mapping) and step in node:
                    node = node[step]
                else:
                    raise _wrong(path, f"{shown(target)} leads nowhere: add {step!r:.60}")
            self._known[target] = self.value(node, target, (*inside, target))
        return self._known[target]

    def _listed(self, known: Mapping[str, Any], path: str) -> Node:
        values = self._list(known["enum"], f"{path}/enum") if "enum" in known else [known["const"]]
        kinds = self._types(known, path) if "type" in known else list(KEYWORDS)
        fitting = [each for each in values if any(_is(each, kind) for kind in kinds)]
        if not fitting:
            raise _wrong(path, f"has no value of type {' or '.join(kinds)}: correct one of them")
        if all(isinstance(each, Mapping | list) is False for each in fitting):
            return words(dict.fromkeys(json.dumps(each, ensure_ascii=False) for each in fitting))
        return alt(*(self._constant(each) for each in fitting))

    def _constant(self, value: Any) -> Node:
        """A value in the layout."""
        if isinstance(value, Mapping):
            parts = [
                _member(text(json.dumps(key, ensure_ascii=False)), self._constant(each), self._spaces)
                for key, each in value.items()
            ]
            return _object(parts, [True] * len(parts), None, self._spaces)
        if isinstance(value, list):
            return _array([self._constant(each) for each in value], len(value), None, self._spaces)
        return text(json.dumps(value, ensure_ascii=False))

    def _types(self, known: Mapping[str, Any], path: str) -> list[str]:
        """The types of a schema; where it names none, those that its keywords belong to."""
        if "type" in known:
            stated = known["type"] if isinstance(known["type"], list) else [known["type"]]
            named = argument.items(stated, f"json_schema {path}/type", argument.one_of(*KEYWORDS))
        else:
            named = tuple(kind for kind, keys in KEYWORDS.items() if kind != "integer" and set(keys) & known.keys())
        if not named:
            raise _wrong(path, "has no type: give it one")
        own = {key for kind in named for key in KEYWORDS[kind]}
        strange = known.keys() - own - ANNOTATIONS - {"type", "nullable", "enum", "const"}
        if strange:
            first = min(strange)
            raise _wrong(f"{path}/{first}", f"means nothing for type {' or '.join(named)}: leave it out")
        return list(dict.fromkeys(named))

    def _typed(self, known: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Node:
        if not known.keys() - ANNOTATIONS - {"nullable"}:
            return anything(self._depth, self._spaces)
        made: list[Node] = []
        for kind in self._types(known, path):
            if kind in CONSTANTS:
                made.append(CONSTANTS[kind])
            elif kind in ("integer", "number"):
                made.append(self._number(known, kind, path))
            elif kind == "string":
                made.append(self._string(known, path))
            else:
                made.append((self._object if kind == "object" else self._array)(known, path, inside))
        return alt(*made)

    # ------------------------------------------------------------------------------------------------- scalar values

    def _count(self, known: Mapping[str, Any], key: str, path: str, default: int | None) -> Any:
        value = known.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return argument.whole(0, none=default is None)(value, f"json_schema {path}/{key}")

    def _range(self, known: Mapping[str, Any], kind: str, path: str) -> tuple[int, int | None]:
        low, high = (
            self._count(known, f"{side}{kind}", path, default) for side, default in (("min", 0), ("max", None))
        )
        if high is not None and low > high:
            raise _wrong(path, f"has min{kind}={low} above max{kind}={high}: no value fits, correct one of them")
        return low, high

    def _string(self, known: Mapping[str, Any], path: str) -> Node:
        ways = [key for key in ("pattern", "format") if key in known]
        sized = [key for key in ("minLength", "maxLength") if key in known]
        if len(ways) > 1 or (ways and sized):
            raise _wrong(f"{path}/{(ways + sized)[1]}", f"beside {ways[0]} is not supported: put all into a pattern")
        if not ways:
            return cat(text('"'), repeat(LETTER, *self._range(known, "Length", path)), text('"'))
        where = f"json_schema {path}/{ways[0]}"
        if ways[0] == "format":
            tree = patterns.parse(FORMATS[argument.check_choice(known["format"], where, FORMATS)])
        else:
            pattern = argument.text(known["pattern"], where)
            try:
                tree = patterns.parse(pattern, search=True)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        return cat(text('"'), quoted(tree), text('"'))

    def _number(self, known: Mapping[str, Any], kind: str, path: str) -> Node:
        low = self._bound(known, "minimum", "exclusiveMinimum", path, max)
        high = self._bound(known, "maximum", "exclusiveMaximum", path, min)
        if kind == "number":
            return numbers.number(low, high)
        least = None if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
        most = None if high is None else math.ceil(high[0]) - 1 if high[1] else math.floor(high[0])
        if least is not None and most is not None and least > most:
            raise _wrong(path, "allows no integer: correct its minimum or maximum")
        return numbers.integer(least, most)

    def _bound(
        self, known: Mapping[str, Any], key: str, exclusive: str, path: str, tighter: Callable[..., Fraction]
    ) -> numbers.Bound | None:
        """(bound, whether it is itself out), of which two may be stated; exact as it is written."""
        stated: dict[bool, Fraction] = {}
        for out, name in ((False, key), (True, exclusive)):
            if name in known:
                argument.real()(known[name], f"json_schema {path}/{name}")
                stated[out] = Fraction(repr(known[name]))
        if not stated:
            return None
        least = tighter(stated.values())
        return least, stated.get(True) == least

    # ------------------------------------------------------------------------------------------------ nested values

    def _object(self, known: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Node:
        properties = argument.table(known.get("properties", {}), f"json_schema {path}/properties")
        required = argument.items(known.get("required", []), f"json_schema {path}/required", argument.text)
        missing = next((name for name in required if name not in properties), None)
        if missing is not None:
            raise _wrong(f"{path}/required", f"names {missing!r:.60}, which properties lacks: add it there")
        parts = [self._property(name, each, path, inside) for name, each in properties.items()]
        rest = None if parts else self._free(known.get("additionalProperties", True), path, inside)
        return _object(parts, [name in required for name in properties], rest, self._spaces)

    def _property(self, name: str, known: Any, path: str, inside: tuple[str, ...]) -> Node:
        step = name.replace("~", "~0").replace("/", "~1")
        key = text(json.dumps(name, ensure_ascii=False))
        return _member(key, self.value(known, f"{path}/properties/{step}", inside), self._spaces)

    def _free(self, known: Any, path: str, inside: tuple[str, ...]) -> Node | None:
        """A member of any name; None where there are none."""
        if known is False or (known is True and self._depth == 0):
            return None
        if known is True:
            value = anything(self._depth - 1, self._spaces)
        else:
            value = self.value(known, f"{path}/additionalProperties", inside)
        return _member(STRING, value, self._spaces)

    def _array(self, known: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Node:
        low, high = self._range(known, "Items", path)
        first = known.get("prefixItems", [])
        first = self._list(first, f"{path}/prefixItems") if first else []
        parts = [self.value(each, f"{path}/prefixItems/{i}", inside) for i, each in enumerate(first)]
        parts = parts if high is None else parts[:high]
        item = self._items(known, path, inside) if high is None or high > len(parts) else None
        if item is None:
            if low > len(parts):
                raise _wrong(f"{path}/minItems", f"is {low}, but there are {len(parts)} items: correct one of them")
            return _array(parts, low, None, self._spaces)
        count = (low if high is None else high) - len(parts)
        if count > MOST_NODES:  # refused before it is written out
            raise _wrong(f"{path}/{'minItems' if high is None else 'maxItems'}", f"asks for {count:,} items: lower it")
        more = [item] * count
        return _array([*parts, *more], low, item if high is None else None, self._spaces)

    def _items(self, known: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Node | None:
        """An item behind the first ones; None where there are none."""
        items = known.get("items", True)
        if items is False or (items is True and self._depth == 0):
            return None
        if items is True:
            return anything(self._depth - 1, self._spaces)
        return self.value(items, f"{path}/items", inside)


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of a type of JSON schema."""
    match value:
        case bool() | None:
            return kind == ("null" if value is None else "boolean")
        case int() | float():
            return kind == "number" or (kind == "integer" and float(value).is_integer())
        case str():
            return kind == "string"
    return kind == ("array" if isinstance(value, list) else "object")


def _wrong(path: str, problem: str) -> InputError:
    return InputError(f"json_schema {path} {problem}")
