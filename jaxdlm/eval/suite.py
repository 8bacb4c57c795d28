"""`jaxdlm eval --suite`: a published benchmark from the user's own files, under many policies and settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument, registry
from jaxdlm.errors import InputError
from jaxdlm.eval import chosen, evaluate, pairs, rows, run, tables
from jaxdlm.eval.suites._base import Asked, Item, Reading, Request, Suite, assistant, user
from jaxdlm.eval.sweeps import Choice
from jaxdlm.eval.task import Example


def read(name: str, request: Request, run_code: bool) -> tuple[Suite, Reading]:
    """A suite with its tasks. Raises InputError for an unknown name, files that are missing or malformed, and a suite that
    runs code where that is not allowed."""
    suite: Suite = registry.suites()[argument.check_choice(name, "--suite", registry.suites())]
    if suite.runs_code and not run_code:
        raise InputError(f"--suite {name} runs what the model wrote, in a sandboxed process: allow it with --run-code")
    if run_code and not suite.runs_code:
        raise InputError(f"--run-code means nothing with --suite {name}, which runs no code: leave it out")
    if not request.data.is_dir():
        raise InputError(f"--data {request.data} is no folder: give the one with the files of {name}")
    reading = suite.read(request)
    for task, why in reading.left_out.items():
        say(f"left out: {task}: {why}")
    for note in reading.notes:
        say(note)
    if not any(task.items for task in reading.tasks):
        why = next(iter(reading.left_out.values()), "its files have no rows")
        raise InputError(f"--suite {name} has nothing to ask: {why}")
    return suite, reading


def digest(reading: Reading, request: Request) -> str:
    """What the rows of a run depend on, so that one goes on only with the same questions. The limit may grow."""
    whole = [[task.name, [item.messages for item in task.items[:1]], task.canvas] for task in reading.tasks]
    return hashlib.sha256(json.dumps([whole, request.shots, list(reading.notes)]).encode()).hexdigest()[:12]


class Chats:
    """Token ids of chats. A closed vocabulary has few of their words: the others become the unknown one."""

    def __init__(self, lm: Any) -> None:
        if lm.tokenizer is None:
            raise InputError(f"model {lm.name!r} has no tokenizer: {lm.advice or 'a suite asks with text'}")
        self.tokenizer = lm.tokenizer
        if self.tokenizer.closed:
            self.tokenizer = dataclasses.replace(self.tokenizer, closed=False, prompt_lengths=())
            say(f"{lm.name} knows few of these words: its figures say that the run works, and nothing about the model")

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        if self.tokenizer.template is not None:
            return list(self.tokenizer.encode_prompt([dict(message) for message in messages]))
        return list(self.tokenizer.encode_prompt(plain(messages)))


def plain(messages: Sequence[Mapping[str, str]]) -> str:
    """A chat as one text, for models without a chat template: paragraphs, the last of which waits for an answer."""
    return "\n\n".join(message["content"].strip() for message in messages)


def example(task: Asked, item: Item) -> Example:
    return Example(item.id, task.name, {}, 0, "test", plain(item.messages), item.answer, dict(item.payload))


def bench(lm: Any, suite: Suite, reading: Reading, fixed: Mapping[str, Any], batch: int) -> run.Bench:
    """The questions of the suite, and what stays the same over a run."""
    ids = Chats(lm)
    examples = {task.name: [example(task, item) for item in task.items] for task in reading.tasks}
    prompts = {item.id: ids(item.messages) for task in reading.tasks for item in task.items}
    size = run.evenly(max(len(some) for some in examples.values()), batch)
    return run.Bench(
        lm, run.students(lm), examples, prompts, fixed["canvas"], fixed["block"], fixed["seed"], size, fixed["stop"],
        {task.name: task for task in reading.tasks}, suite.sweep,
    )  # fmt: skip


def pools(asked: run.Bench, graded: bool) -> list[pairs.Pool]:
    """Questions that share a canvas, together; without a check where nothing is graded."""
    by_columns: dict[int, list[pairs.Question]] = {}
    for name, some in asked.examples.items():
        for each in some:
            question = pairs.Question(each.id, name, asked.prompts[each.id], each if graded else None)
            by_columns.setdefault(asked.geometry(name)[0], []).append(question)
    make = lambda columns, some: pairs.Pool(  # noqa: E731
        asked.lm, pairs.by_length(some), columns, asked.seed, asked.stop, asked.tasks
    )
    return [make(columns, some) for columns, some in by_columns.items()]


class Turns:
    """What chats of several turns ask next: after the answers of one token per forward, the same for every method."""

    def __init__(self, asked: run.Bench, reading: Reading) -> None:
        self.asked, self.turn, self.ids = asked, 0, Chats(asked.lm)
        self.items = [(task.name, item) for task in reading.tasks for item in task.items if item.turns]

    def __call__(self, done: Sequence[rows.Line]) -> list[pairs.Pool]:
        self.turn += 1
        told = {row["id"]: row["text"] for row in reversed(done) if row["policy"] == pairs.BASELINE}
        questions = []
        for name, item in self.items:
            if len(item.turns) < self.turn:
                continue
            messages = list(item.messages)
            for place, said in enumerate(item.turns[: self.turn]):
                messages += [assistant(told[_id(item, place)] or " "), user(said)]
            questions.append(pairs.Question(_id(item, self.turn), name, self.ids(messages)))
        columns = self.asked.geometry(self.items[0][0])[0] if questions else 0
        asked = self.asked
        return [pairs.Pool(asked.lm, pairs.by_length(questions), columns, asked.seed, asked.stop)] if questions else []


def _id(item: Item, turn: int) -> str:
    return f"{item.id}#{turn + 1}" if turn else item.id


def job(
    lm: Any, suite: Suite, request: Request, reading: Reading, methods: Sequence[Choice], caches: Sequence[Choice],
    draft: Any, fixed: Mapping[str, Any], batch: int, batches: Sequence[int] | None, folder: pathlib.Path,
) -> None:  # fmt: skip
    """rows.jsonl, summary.json, report.html and tables.md; a run goes on where it stopped."""
    causal = lm.config.tokens.mask is None
    if suite.drafts and not causal:
        raise InputError(
            f"--suite {suite.name} measures drafts of an autoregressive model, and {lm.name} is a diffusion model"
        )
    asked = bench(lm, suite, reading, fixed, batch)
    mixture = f"{suite.name} {digest(reading, request)}"
    head = rows.meta(lm, split=mixture, mixture=mixture, **fixed)
    names = [task.name for task in reading.tasks if task.items]
    sizes = list(dict.fromkeys([1, asked.batch] if batches is None else batches))

    def more(done: Sequence[rows.Line]) -> dict[str, Any]:
        made = tables.tables(done, names, graded=not suite.drafts)
        notes = [*reading.notes, *(f"left out: {name}: {why}" for name, why in reading.left_out.items())]
        (folder / "tables.md").write_text(tables.markdown(f"{suite.name}: {lm.name}", made, notes), encoding="utf-8")
        say(f"wrote {folder / 'tables.md'}")
        return {"tables": made["settings"], "best": made["methods"], "suite": {"name": suite.name, "notes": notes}}

    if causal:
        first, then = pools(asked, not suite.drafts), Turns(asked, reading)
        evaluate.draft_and_target(first, methods, draft, sizes or [1], folder, head, then, more)
    else:
        evaluate.masked(asked, methods, caches, names, False, sizes, folder, head, chosen.NOTHING, more)


def say(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)
