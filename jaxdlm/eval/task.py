"""The embedded benchmark: every task by name, examples of fixed splits, and checks of answers.

Splits are decided by a hash of what the answer depends on, so they are disjoint for every seed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxdlm import registry
from jaxdlm.errors import InputError
from jaxdlm.eval.tasks import vocab
from jaxdlm.eval.tasks.base import Family, Score, render, split_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One problem with its prompt as text, one right answer, and what the check needs."""

    id: str
    task: str
    knobs: dict[str, Any]
    template: int
    split: str
    prompt: str
    answer: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task of the benchmark; `canvas` columns hold its longest answer and an end-of-text token."""

    family: Family
    reads_ids: ClassVar[bool] = True  # `check` takes ids as well as text

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def canvas(self) -> int:
        return self.family.canvas

    @property
    def gate(self) -> float:
        return self.family.gate

    def tokens(
        self, rng: random.Random, split: str, template: int, **knobs: Any
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(prompt, answer) as tokens: what training reads, without the cost of an Example."""
        draw = self._draw(rng, split, knobs)
        return render(draw.core, template), draw.answer

    def generate(self, rng: random.Random, split: str, template: int | None = None, **knobs: Any) -> Example:
        """A problem of the split; template 0..2, drawn if None. knobs fix the task's own settings (n, w, d, c, ...)."""
        draw = self._draw(rng, split, knobs)
        if template is None:
            template = rng.randrange(3)
        prompt = vocab.join(render(draw.core, template))
        answer = vocab.join(draw.answer)
        digest = hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()[:12]
        return Example(f"{self.name}-{digest}", self.name, draw.knobs, template, split, prompt, answer, draw.payload)

    def _draw(self, rng: random.Random, split: str, knobs: dict[str, Any]) -> Any:
        if split not in SPLITS:
            raise InputError(f"split {split!r} is unknown; one of {', '.join(SPLITS)}")
        family = self.family
        while True:
            draw = family.draw(rng, **{**family.defaults, **knobs})
            if split_of(family.name, draw.key, family.test_share) == split:
                return draw

    def check(self, example: Example, output: str | Sequence[int]) -> Score:
        """Score of a text, or of token ids as decoded (the ids also show stray masks and text after the end)."""
        if isinstance(output, str):
            return self.family.check(example.payload, vocab.words(output))
        ids = [int(i) for i in output]
        end = ids.index(vocab.EOS) if vocab.EOS in ids else len(ids)
        clean = all(i == vocab.EOS for i in ids[end:]) and not {vocab.MASK, vocab.PAD}.intersection(ids[:end])
        score = self.family.check(example.payload, vocab.tokens_of(ids[:end]))
        return Score(score.correct, score.strict, score.valid and clean)


TASKS: dict[str, Task] = {name: Task(family) for name, family in registry.tasks().items()}
LEARNABLE = tuple(name for name, each in TASKS.items() if each.family.trained)  # by the embedded models


def task(name: str) -> Task:
    """The task of that name. Raises InputError with the known names."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown; one of {', '.join(TASKS)}")
    return TASKS[name]


def make(name: str, count: int, split: str = "test", seed: int = 0, **knobs: Any) -> list[Example]:
    """`count` examples of a task, templates balanced, the same on every machine; knobs fix its settings."""
    rng = random.Random(f"{name}:{split}:{seed}")
    one = task(name)
    return [one.generate(rng, split, template=i % 3, **knobs) for i in range(count)]


SHOWN = (
    "reverse", "sort", "add", "replace_index", "shuffle", "couple", "sudoku4", "insert_random", "latin4", "rotate",
    "remove_random", "gshuffle",
)  # fmt: skip


def examples(count: int = 12, seed: int = 0, learned: Collection[str] | None = None) -> list[str]:
    """Held-out prompts in plain wording (template 0), a different task each time as far as they go.

    learned: the tasks that a model answers well; None: all.
    """
    shown = [name for name in SHOWN if learned is None or name in learned] or list(SHOWN)
    made = [make(name, -(-count // len(shown)) * 3, "test", seed)[::3] for name in shown]
    return [made[i % len(shown)][i // len(shown)].prompt for i in range(count)]
