"""Checks of values from outside: arguments of functions, options of commands, fields of files.

Each gives the value back, or raises InputError with one line: its name, the value, and what it must be. A `Kind` is a
check whose bounds are filled in; a table of kinds by name is the schema of a file.
"""

import contextlib
import functools
import os
import pathlib
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from jaxdlm.errors import InputError, did_you_mean

T = TypeVar("T")

INT32 = 2**31 - 1  # the largest whole number that a device holds
FLOAT32 = 3.4028234e38  # and the largest number that is finite there
COLUMNS = 2**20  # of prompt and answer: no released model reads more
MOST_ROWS = 2**16  # of a program
STEPS = 2**16  # forwards that a schedule may spread its commits over: with more than columns, most of them are idle
COLDEST = 1e-8  # below it a draw is the best token but for exact ties, which then go to the lowest id: T counts as 0
HOTTEST = 1e30  # softmax is uniform long before; 1 / T is still a normal number, so that a banned id's -inf / T is -inf

Kind = Callable[[Any, str], Any]


def shown(value: Any) -> str:
    """`repr` on one line, cut where it is long: what is quoted may be as large as its sender likes."""
    try:
        return " ".join(line.strip() for line in _short.repr(value).splitlines())  # arrays are shown row by row
    except ValueError:  # Python does not spell out numbers of thousands of digits
        return "a number of thousands of digits"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def refuse(value: Any, name: str, wanted: str) -> NoReturn:
    """Raises the InputError of a value that is not what is wanted."""
    raise InputError(f"{name}={shown(value)}: must be {wanted}")


def number(
    value: Any, name: str, *, low: float | None = None, high: float | None = None, above: float | None = None,
    whole: bool = False, plain: bool = False, none: bool = False,
) -> Any:  # fmt: skip
    """`value`, a number in [low, high] and greater than `above`; without bounds, one that float32 or int32 holds.

    A Python number comes back as int (`whole`; no float stands for one) or float. An array or tracer of shape () comes
    back as it is: a value on the device is not read, one of NumPy is checked. plain: no arrays, because the number is a
    shape or stays in Python; NumPy's whole numbers come back as int. none: None is allowed, for "not given".
    """
    if value is None and none:
        return None
    least, most = (-INT32 - 1, INT32) if whole else (-FLOAT32, FLOAT32)
    wanted = _wanted(low, high, above, whole, none)
    known = value
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, float):  # np.float64 is a float
        kinds = "iu" if whole else "iufV"  # V: bfloat16
        if value.shape != () or getattr(value.dtype, "kind", "") not in kinds:
            refuse(value, name, wanted)
        if type(value).__module__ != "numpy":
            if plain:
                refuse(value, name, f"{wanted}, and no array")
            return value
        known = value.item()
    if isinstance(known, bool) or not isinstance(known, int if whole else int | float):
        refuse(value, name, wanted)
    inside = (least if low is None else low) <= known <= (most if high is None else high)  # NaN is nowhere inside
    if not inside or (above is not None and known <= above):
        refuse(value, name, f"{wanted}, at most {most}" if whole and high is None and known > most else wanted)
    if known is value or plain:
        return int(known) if whole else float(known)
    return value


def _wanted(low: Any, high: Any, above: Any, whole: bool, none: bool) -> str:
    if low is not None and high is not None:
        bounds = f" from {low} to {high}"
    else:
        least = f", at least {low}" if low is not None else f" above {above}" if above is not None else ""
        bounds = least + (f", at most {high}" if high is not None else "")
    kind = "a whole number" if whole else "a number" if high is not None else "a finite number"
    return kind + bounds + (", or none" if none else "")


def whole(low: int = 0, high: int | None = None, *, none: bool = False) -> Kind:
    """A plain whole number in [low, high]."""
    return functools.partial(number, low=low, high=high, whole=True, plain=True, none=none)


def real(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Kind:
    """A plain finite number in [low, high] and greater than `above`."""
    return functools.partial(number, low=low, high=high, above=above, plain=True)


def probability(value: Any, name: str, *, none: bool = False) -> Any:
    """A number of a policy from 0 to 1: no probability reaches a bar above 1."""
    return number(value, name, low=0, high=1, none=none)


def nats(value: Any, name: str, *, none: bool = False) -> Any:
    """A number of a policy that entropies, or sums of them, are compared with: at least 0, as they are."""
    return number(value, name, low=0, none=none)


def steps(value: Any, name: str = "steps", *, none: bool = True) -> Any:
    """Forwards of a schedule, a number of a policy."""
    return number(value, name, low=1, high=STEPS, whole=True, none=none)


def temperature(value: Any, name: str = "temperature", *, none: bool = False) -> Any:
    """A temperature T from 0 to 1e30, where softmax is uniform long since; a plain number below 1e-8 becomes 0."""
    value = number(value, name, low=0, high=HOTTEST, none=none)
    return 0.0 if isinstance(value, float) and value < COLDEST else value


def greedy(temperature: Any) -> bool:
    """Whether a checked temperature is known to be 0; an array may be anything."""
    return isinstance(temperature, float) and temperature == 0


def flag(value: Any, name: str) -> bool:
    """True or False, and nothing that stands for them."""
    if not isinstance(value, bool):
        refuse(value, name, "true or false")
    return value


def text(value: Any, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        refuse(value, name, "a string")
    return value


def repeated(values: Iterable[T]) -> T:
    """The first value that was there before; of values that are not all different."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    raise ValueError("all values are different")


def model(lm: Any) -> Any:
    """What `jaxdlm.load` returns, and not the name of it."""
    if not (hasattr(lm, "config") or hasattr(lm, "tokenizer")):
        refuse(lm, "lm", 'a model, as in lm = jaxdlm.load("tiny")')
    return lm


def path(value: Any, name: str) -> pathlib.Path:
    """A path, `~` expanded, that the file system can look up; whether there is anything is another question."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        refuse(value, name, "a path")
    try:
        expanded = pathlib.Path(os.fsdecode(value)).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            expanded.stat()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a user that is not known, a null byte
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{name}={shown(value)}: must be a path that can be looked up ({reason})") from None
    return expanded


def check_choice(value: Any, name: str, known: Iterable[str]) -> str:
    """The value, one of the known words; InputError, with the nearest one, for any other."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        refuse(value, name, f"one of {', '.join(known)}{hint}")
    return value


def one_of(*known: str) -> Kind:
    """One of these words."""
    return functools.partial(check_choice, known=known)


def items(value: Any, name: str, kind: Kind, *, most: int = 10**6) -> tuple[Any, ...]:
    """The items of a list, each of a kind and named by its place."""
    if not isinstance(value, list | tuple):
        refuse(value, name, "a list")
    if len(value) > most:
        raise InputError(f"{name} has {len(value)} entries: must be at most {most}")
    return tuple([kind(item, f"{name}[{index}]") for index, item in enumerate(value)])


def listed(kind: Kind) -> Kind:
    """A list of values of a kind."""
    return functools.partial(items, kind=kind)


def table(value: Any, name: str) -> Mapping[str, Any]:
    """An object of JSON."""
    if not isinstance(value, Mapping):
        refuse(value, name, "an object")
    return value


def record(
    value: Any, name: str, schema: Mapping[str, Kind], *, required: bool = False, dot: str = "."
) -> dict[str, Any]:
    """An object whose fields are of the schema's kinds. A null counts as absent, which `required` does not allow.

    Fields that the schema does not know stay as they are: files carry more than is read. `dot` stands between the
    object's name and the field's.
    """
    fields = dict(table(value, name))
    for key, kind in schema.items():
        if fields.get(key) is not None:
            fields[key] = kind(fields[key], f"{name}{dot}{key}")
        elif required:
            raise InputError(f"{name} has no {key}: add it")
    return fields


def unused(why: str, **arguments: tuple[Any, Any]) -> None:
    """Raises InputError for an argument that differs from its default and means nothing beside the others.

    arguments: name -> (value, default).
    """
    for name, (value, default) in arguments.items():
        if value is not default and (hasattr(value, "shape") or value != default):
            raise InputError(f"{name}={shown(value)} means nothing {why}: leave it out")
