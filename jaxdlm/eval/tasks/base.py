"""What every task family is made of: a draw of one problem, and a check of an answer."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxdlm.registry import LAST

Tokens = Sequence[str]
Knobs = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """One problem. A core is (op, data) for list-like tasks, or (question,) for tasks asked in one sentence.

    key: what the answer depends on, JSON-able; it decides the split. payload: what the check reads.
    """

    knobs: Knobs
    core: tuple[tuple[str, ...], ...]
    answer: tuple[str, ...]
    payload: dict[str, Any]
    key: Any


@dataclass(frozen=True)
class Score:
    """correct: right by the task's rule, brackets optional. strict: right in the exact form. valid: it parses.

    marks: parts of a graded answer, `score` among them, each 0 to 1; {} where right and wrong is all there is.
    """

    correct: bool
    strict: bool
    valid: bool
    marks: Mapping[str, float] = field(default_factory=dict)


WRONG = Score(False, False, False)


@dataclass(frozen=True)
class Family:
    """One task: `draw(rng, **knobs)` samples a problem, `check(payload, tokens)` judges an answer.

    canvas: recommended number of generated columns. test_share: probability of the test split (of problems).
    gate: smallest accuracy at one token per step at which the task may enter speed claims. trained: the embedded models
    learned from it. runs_code: the check runs what the model wrote. order: place in the tables.
    """

    name: str
    draw: Callable[..., Draw]
    check: Callable[[Mapping[str, Any], list[str]], Score]
    canvas: int
    group: str
    gate: float = 0.9
    test_share: float = 0.05
    defaults: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False
    runs_code: bool = False
    order: int = LAST


def split_of(name: str, key: Any, test_share: float) -> str:
    """train, validation (1 %) or test, by sha256 of the task and what the answer depends on."""
    digest = hashlib.sha256(json.dumps([name, key], separators=(",", ":")).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2.0**64
    if share < test_share:
        return "test"
    return "validation" if share < test_share + 0.01 else "train"


def render(core: tuple[tuple[str, ...], ...], template: int) -> tuple[str, ...]:
    """Prompt tokens of a core under template 0, 1 or 2."""
    if len(core) == 1:
        (question,) = core
        return {0: question, 1: ("question", ":", *question), 2: ("Q", ":", *question, "A", ":")}[template]
    op, data = core
    if template == 0:
        return (*op, ":", *data)
    if template == 1:
        return ("the", "data", "is", *data, ".", *op, ".")
    return ("Q", ":", *data, ".", "task", ":", *op, ".", "A", ":")


def choice_of(rng: random.Random, value: Any, options: Sequence[Any]) -> Any:
    """A knob: the given value, or one of the options."""
    return rng.choice(options) if value is None else value


def digits(number: int) -> list[str]:
    """Tokens of a number."""
    return list(str(number))
