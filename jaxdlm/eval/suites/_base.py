"""What every suite is made of: tasks with their items, and how the files of a folder become them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from jaxdlm.eval.sweeps import Settings, sweep
from jaxdlm.eval.task import Example
from jaxdlm.eval.tasks.base import WRONG, Score
from jaxdlm.registry import LAST

Message = dict[str, str]
ENDS = ("</s>", "<|im_end|>")  # of a turn, where a model spells them as text


class Item(NamedTuple):
    """One question. messages: the chat that waits for an answer; payload: what the check reads, JSON-able.

    turns: what the user says next, once this is answered.
    """

    id: str
    messages: Sequence[Message]
    answer: str
    payload: Mapping[str, Any]
    turns: Sequence[str] = ()


@dataclass(frozen=True)
class Asked:
    """A task of a suite. canvas: columns to generate. grade: payload, text of the answer -> Score; None: nothing to check.

    until: strings at which an answer is cut.
    """

    name: str
    items: Sequence[Item]
    canvas: int
    grade: Callable[[Mapping[str, Any], str], Score] | None = None
    until: Sequence[str] = ENDS
    gate: float = 0.0  # papers print every figure
    reads_ids: ClassVar[bool] = False

    def check(self, example: Example, output: str) -> Score:
        """The verdict on a text, cut where the answer ends."""
        return WRONG if self.grade is None else self.grade(example.payload, cut(output, self.until))


class Request(NamedTuple):
    """What the command asks a suite for. tasks: names of tasks or groups; None: those that papers average.

    limit: items per task at most. shots: worked examples before each question, None as the suite has them.
    """

    data: pathlib.Path
    tasks: tuple[str, ...] | None = None
    limit: int | None = None
    shots: int | None = None


class Reading(NamedTuple):
    """tasks to ask; left_out: task -> why it is not asked; notes: what the reader of the figures should know."""

    tasks: Sequence[Asked]
    left_out: Mapping[str, str] = {}
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """A published benchmark. read: a request -> its tasks, InputError for files that are missing or malformed.

    shots: worked examples by default; None where the data decide. methods: what papers compare, as --policies words.
    sweeps: policy -> columns -> settings of the paper. runs_code: grading runs what the model wrote. drafts: measures draft
    methods of an autoregressive model alone. order: its place in the tables.
    """

    name: str
    paper: str
    asks: str
    files: str
    read: Callable[[Request], Reading]
    shots: int | None = None
    methods: str = "all"
    sweeps: Mapping[str, Callable[[int], list[Settings]]] = field(default_factory=dict)
    runs_code: bool = False
    drafts: bool = False
    order: int = LAST

    def sweep(self, policy: str, columns: int) -> list[Settings]:
        """Settings of a policy: the paper's, else the standard sweep."""
        return self.sweeps[policy](columns) if policy in self.sweeps else sweep(policy, columns)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of some strings."""
    places = [text.find(word) for word in until if word in text]
    return text[: min(places)] if places else text


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def chat(shots: Sequence[tuple[str, str]], question: str) -> tuple[Message, ...]:
    """Worked examples as turns, then the question."""
    turns = [turn for asked, told in shots for turn in (user(asked), assistant(told))]
    return (*turns, user(question))


def exactly(right: bool, strict: bool, valid: bool) -> Score:
    return Score(bool(right), bool(strict), bool(valid))
