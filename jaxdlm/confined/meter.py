"""The meter of the child that renders chat templates: what a step is, and what is too large before it is made."""

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2.utils import Namespace

UNIT, ITEMS = 128, 4
MAX_RENDERED = 1 << 22  # characters of one rendering, and of any string on the way
MAX_WIDTH = 1 << 16  # of center, indent, slice, ... in a filter
WIDE = re.compile(r"\d{6}|\*|\{[^{}]*\{")  # in a format: a width of six digits, or one that comes from elsewhere
SIZED = (list, tuple, dict, set, range)
SCALARS = (str, int, float, types.NoneType)
ADDRESSED = (Iterator, types.FunctionType, types.BuiltinFunctionType, types.MethodType)  # what they print differs


class Exceeded(BaseException):  # nothing in a template or in Jinja may catch it
    """A bound; the message says which."""


class Meter:
    """The steps of one rendering."""

    def __init__(self) -> None:
        self.most = self.left = 0

    def start(self, most: int) -> None:
        self.most = self.left = most

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise Exceeded(f"takes more than {self.most} steps")

    def weigh(self, value: Any) -> Any:
        """The value, paid for by its size; what is made on demand is paid for then. Exceeded where it is too large."""
        if isinstance(value, str):
            self.size(len(value))
            self.spend(1 + len(value) // UNIT)
        elif isinstance(value, int):
            if not -(1 << 64) < value < 1 << 64:
                raise Exceeded("makes a number of more than 64 bits")
            self.spend()
        elif isinstance(value, SIZED):
            self.spend(1 + len(value) // ITEMS)
        elif isinstance(value, Iterator):
            return self._paid(value)
        else:
            self.spend()
        return value

    def _paid(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.spend()
            yield value

    def weigh_whole(self, value: Any) -> bool:
        """As `weigh`, for what reads a value down to its last leaf: one that is shared is read wherever it stands.

        Whether it prints the same in every run: an object without a text of its own prints its address.
        """
        waiting, plain = [value], True
        while waiting:
            value = waiting.pop()
            self.weigh(value)
            if isinstance(value, dict):
                waiting += value.keys()
                waiting += value.values()
            elif isinstance(value, list | tuple | set):
                waiting += value
            elif isinstance(value, Namespace):
                waiting += value._Namespace__attrs.values()
            elif not isinstance(value, SCALARS):
                plain = plain and not isinstance(value, ADDRESSED) and type(value).__repr__ is not object.__repr__
        return plain

    def size(self, characters: int) -> None:
        """Exceeded for a text of so many characters or a list of so many entries, before it is made."""
        if characters > MAX_RENDERED:
            raise Exceeded(f"makes a text or a list of more than {MAX_RENDERED} characters or entries")


meter = Meter()


def check_format(text: str, values: Any) -> None:
    """Exceeded where a format could make more than it reads."""
    if WIDE.search(text):
        raise Exceeded("formats to a large or computed width")
    meter.weigh_whole(values)


def check_text(name: str, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Exceeded where a method of strings would make too long a one."""
    values = [*args, *kwargs.values()]
    for each in (text, *values):
        meter.weigh(each)
    if name == "replace":
        check_replaced(text, *args[:2])
    elif name == "join":
        check_joined(values[0] if values else (), text)
    elif name == "expandtabs":
        meter.size((text.count("\t") + 1) * max([8, *values]))
    else:
        meter.size(max((each for each in values if isinstance(each, int)), default=0))


def check_replaced(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        meter.size(text.count(old) * len(new))


def check_joined(values: Any, between: str) -> None:
    if isinstance(values, (str, *SIZED)):
        meter.size(sum(len(each) if isinstance(each, str) else 1 for each in values) + len(between) * len(values))


def check_filter(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Exceeded where a filter would make too much of what it is given."""
    values = [meter.weigh(each) for each in (*args, *kwargs.values())]
    value, rest = (values[0], values[1:]) if values else (None, [])
    width = max((each for each in rest if isinstance(each, int)), default=0)
    if width > MAX_WIDTH:
        raise Exceeded(f"has a width of {width} in the filter {name}")
    if name == "replace":
        check_replaced(str(value), *rest)
    elif name == "format":
        check_format(str(value), rest)
    elif name in ("indent", "wordwrap"):
        longest = max([width, 4, *(len(each) for each in rest if isinstance(each, str))])
        meter.size(len(str(value)) + (str(value).count("\n") + 1) * longest)
    elif name == "tojson":
        meter.weigh_whole(value)
        meter.spend(width)
    elif name == "join":
        meter.weigh_whole(value)
        check_joined(value, str(rest[0]) if rest else "")
