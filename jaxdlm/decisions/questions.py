"""What can be asked: a choice, a yes/no predicate, a score on ordered levels, a number; and the options of each."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError

MOST = 4096  # options of one question
LARGEST = 1e15  # of numbers: those below have all their digits
Value = str | bool | int | float


@dataclass(frozen=True)
class Option:
    """One answer of a question.

    value: what comes back; typed, so that "true" and True are two. description: what stands behind it in the prompt,
    text or JSON. tokens: its ids, for a model without a tokenizer.
    """

    value: Value
    description: Any = None
    tokens: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """Its words."""
        return json.dumps(self.value) if isinstance(self.value, bool) else str(self.value)


class _Question:
    """What the four kinds share. name: by which the answer is found. instructions: the question, text or JSON. depends_on:
    names of questions to the same row that are asked before, and whose answers are put before this one. ask_if: name ->
    value, or list of values, that the answer to that question must have; else this one is not asked."""

    kind: str
    name: str
    instructions: Any
    depends_on: Any
    ask_if: Any

    @property
    def options(self) -> tuple[Option, ...]:
        raise NotImplementedError

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is asked, less its name: by this calibrations and randomness know a question."""
        asked = [self.kind, self.instructions, [[each.value, each.description, each.tokens] for each in self.options]]
        asked += [list(self.depends_on)] if self.depends_on else []
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Choice(_Question):
    """One of several values, each with its probability.

    choices: strings and truth values, (value, description) pairs, a mapping value -> description, or `Option`.
    Raises InputError for none, too many, two that are equal, or another type; the question is named.
    """

    name: str
    choices: Any
    instructions: Any = ""
    depends_on: Any = field(default=(), kw_only=True)
    ask_if: Any = field(default=(), kw_only=True)
    kind = "choice"

    def __post_init__(self) -> None:
        _head(self)
        items = list(self.choices.items()) if isinstance(self.choices, Mapping) else self.choices
        object.__setattr__(self, "choices", _distinct(self, _several(self, items, "choices")))

    @property
    def options(self) -> tuple[Option, ...]:
        return self.choices


@dataclass(frozen=True)
class Predicate(_Question):
    """Yes or no: the probability of yes. yes, no: what counts as each, where the question does not say it."""

    name: str
    instructions: Any = ""
    yes: Any = None
    no: Any = None
    depends_on: Any = field(default=(), kw_only=True)
    ask_if: Any = field(default=(), kw_only=True)
    kind = "predicate"

    def __post_init__(self) -> None:
        _head(self)
        for side in ("yes", "no"):
            option = getattr(self, side)
            if not isinstance(option, Option):
                object.__setattr__(self, side, Option(side == "yes", _described(option, f"{_named(self)}: {side}")))

    @property
    def options(self) -> tuple[Option, ...]:
        return Option(True, self.yes.description, self.yes.tokens), Option(False, self.no.description, self.no.tokens)


@dataclass(frozen=True)
class Score(_Question):
    """Ordered levels, least first: the probability of each, and the expected place Σ i·p_i, i from 0.

    levels: as the choices of a `Choice`.
    """

    name: str
    levels: Any
    instructions: Any = ""
    depends_on: Any = field(default=(), kw_only=True)
    ask_if: Any = field(default=(), kw_only=True)
    kind = "score"

    def __post_init__(self) -> None:
        _head(self)
        items = list(self.levels.items()) if isinstance(self.levels, Mapping) else self.levels
        object.__setattr__(self, "levels", _distinct(self, _several(self, items, "levels")))

    @property
    def options(self) -> tuple[Option, ...]:
        return self.levels


@dataclass(frozen=True)
class Number(_Question):
    """A number from minimum to maximum: the probability of each value, mean, standard deviation and quantiles.

    step: between two values (default 1); decimals=d stands for a step of 10^-d. Each value is scored as its decimal
    digits, all with the decimals of the step. Raises InputError for a range of more than 4096 values.
    """

    name: str
    minimum: float
    maximum: float
    step: float | None = None
    decimals: int | None = None
    instructions: Any = ""
    depends_on: Any = field(default=(), kw_only=True)
    ask_if: Any = field(default=(), kw_only=True)
    kind = "number"

    def __post_init__(self) -> None:
        _head(self)
        where = _named(self)
        for side in ("minimum", "maximum"):
            argument.real(-LARGEST, LARGEST)(getattr(self, side), f"{where}: {side}")
        argument.whole(0, 15, none=True)(self.decimals, f"{where}: decimals")
        if self.step is not None and self.decimals is not None:
            raise InputError(f"{where}: step and decimals say the same: give one of them")
        if self.step is not None:
            argument.real(above=0)(self.step, f"{where}: step")
        if self.minimum > self.maximum:
            raise InputError(f"{where}: minimum {self.minimum} is above maximum {self.maximum}: exchange them")
        count = (_exact(self.maximum) - _exact(self.minimum)) // self._step + 1
        if count > MOST:
            raise InputError(f"{where} has {count} values, more than {MOST}: take a larger step or a smaller range")

    @property
    def _step(self) -> Decimal:
        return Decimal(1).scaleb(-(self.decimals or 0)) if self.step is None else _exact(self.step)

    @property
    def options(self) -> tuple[Option, ...]:
        return self._values

    @functools.cached_property
    def _values(self) -> tuple[Option, ...]:
        low, step = _exact(self.minimum), self._step
        count = int((_exact(self.maximum) - low) // step) + 1
        places = max(0, -min(int(x.as_tuple().exponent) for x in (low.normalize(), step.normalize())))
        return tuple(Option(_number(low + index * step, places)) for index in range(count))

    def written(self, option: Option) -> str:
        """The digits of a value, with the decimals of the step."""
        low, step = _exact(self.minimum).normalize(), self._step.normalize()
        places = max(0, -min(int(low.as_tuple().exponent), int(step.as_tuple().exponent)))
        return f"{_exact(option.value):.{places}f}"


Question = Choice | Predicate | Score | Number
KINDS = (Choice, Predicate, Score, Number)


def place_of(question: Question, value: Any, where: str) -> int:
    """Which option a value is; of a score the place of the level. Raises InputError."""
    if question.kind == "score" and isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(question.options):
            return value
    else:
        for place, option in enumerate(question.options):
            if type(option.value) is type(value) and option.value == value:
                return place
            if question.kind == "number" and not isinstance(value, bool | str) and option.value == value:
                return place
    raise InputError(
        f"{where}: the label {argument.shown(value)} of {argument.shown(question.name)} is none of its options"
    )


def _exact(value: Any) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        argument.refuse(value, "a number", "a finite number")


def _number(value: Decimal, places: int) -> int | float:
    return float(value) if places else int(value)


def _named(question: Any) -> str:
    return f"question {argument.shown(question.name)}"


def _head(question: Any) -> None:
    if not isinstance(question.name, str) or not question.name:
        argument.refuse(question.name, "name of a question", "a string that is not empty")
    _spelled(question.name, "name of a question")
    _described(question.instructions, f"{_named(question)}: instructions")
    _waits(question)


def _waits(question: Any) -> None:
    """Brings depends_on and ask_if into one form: names, and (name, values)."""
    where, named, asked = _named(question), question.depends_on, question.ask_if
    names = argument.items([named] if isinstance(named, str) else named, f"{where}: depends_on", argument.text)
    pairs = (
        dict(asked) if isinstance(asked, tuple) else argument.table({} if asked is None else asked, f"{where}: ask_if")
    )
    wanted = {name: tuple(each) if isinstance(each, list | tuple) else (each,) for name, each in pairs.items()}
    for name, values in wanted.items():
        if not values:
            raise InputError(f"{where}: ask_if has no value for {argument.shown(name)}: give at least one")
        for value in values:
            _value(value, f"{where}: ask_if.{argument.text(name, 'name')}")
    object.__setattr__(question, "depends_on", tuple(dict.fromkeys(names)))
    object.__setattr__(question, "ask_if", tuple(wanted.items()))


def _described(value: Any, where: str) -> Any:
    """Text or JSON, as it is."""
    if isinstance(value, str | dict | list | None):
        try:
            written = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            argument.refuse(value, where, "text, or an object or list of JSON")
        _spelled(written, where)
        return value
    argument.refuse(value, where, "text, or an object or list of JSON")


def _several(question: Any, items: Any, what: str) -> tuple[Option, ...]:
    where = _named(question)
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        argument.refuse(items, f"{where}: {what}", "a list, or an object from values to descriptions")
    if not items:
        raise InputError(f"{where} has no {what}: give at least one")
    if len(items) > MOST:
        raise InputError(f"{where} has {len(items)} {what}, more than {MOST}: ask it in several steps")
    return tuple(_option(item, f"{where}: {what}[{index}]") for index, item in enumerate(items))


def _option(item: Any, where: str) -> Option:
    if isinstance(item, Option):
        tokens = item.tokens
        if tokens is not None:
            tokens = argument.items(tokens, f"{where}: tokens", argument.whole(0))
            if not tokens:
                raise InputError(f"{where} has no tokens: give at least one id")
        return Option(_value(item.value, where), _described(item.description, where), tokens)
    if isinstance(item, tuple) and len(item) == 2:
        return Option(_value(item[0], where), _described(item[1], f"{where}: description"))
    return Option(_value(item, where))


def _value(value: Any, where: str) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) <= LARGEST else argument.refuse(value, where, f"a number up to {LARGEST:g}")
    if not isinstance(value, str):
        argument.refuse(value, where, "a string or a truth value")
    if not value.strip():
        raise InputError(f"{where} is empty: give it a word")
    _spelled(value, where)
    return value


def _spelled(text: str, where: str) -> None:
    """Raises InputError for what no text can hold, and no file of answers."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{where} {text!a:.60} holds half of a surrogate pair: it is no text")


def _distinct(question: Any, options: tuple[Option, ...]) -> tuple[Option, ...]:
    seen: dict[Any, int] = {}
    for index, option in enumerate(options):
        if option.value in seen:  # "true" and True are two, 1 and True one
            first = seen[option.value]
            raise InputError(
                f"{_named(question)}: options {first} and {index} are both {argument.shown(option.value)}: keep one"
            )
        seen[option.value] = index
    return options
