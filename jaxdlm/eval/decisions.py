"""How good decisions are on labelled rows: accuracy, Brier score, calibration, and what they cost; by several readers."""

import hashlib
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.batch.decisions import LABELS, Readers, labelled
from jaxdlm.batch.rows import Raw, parse
from jaxdlm.batch.source import source
from jaxdlm.command import note
from jaxdlm.decisions import metrics as measures
from jaxdlm.decisions.output import Decision
from jaxdlm.decisions.pool import pool
from jaxdlm.decisions.questions import place_of
from jaxdlm.errors import InputError
from jaxdlm.eval import metrics, rows

FILE = pathlib.Path(__file__).with_name("labelled.jsonl")
LISTED, ORDERS, PRIOR, WORDS = "as listed", "all orders", "orders, prior", "words"
READERS: dict[tuple[str, ...], Mapping[str, Any]] = {  # names -> settings of one reading; before its prior, and behind it
    (LISTED,): {}, (ORDERS, PRIOR): {"orders": "cyclic", "prior": "contextual"},
    (WORDS,): {"read": "text"},
}  # fmt: skip
NAMES = tuple(itertools.chain(*READERS))
PART = 50  # rows that are read together, and then on disk
ALL = "all"  # questions together


class Labelled(NamedTuple):
    """Rows of a file with right answers. digest: of their bytes."""

    raws: list[Raw]
    digest: str


def read(file: str | None, n: int | None) -> Labelled:
    """The rows of a file, or our own 200; n: of each set of names of questions. Raises InputError for a file without any."""
    raws = list(source(str(FILE) if file is None else file).rows())
    values = [parse(raw) for raw in raws]
    if not raws:
        raise InputError(f"--labelled {file} has no rows: give lines with a prompt, questions and answers")
    taken: dict[str, int] = {}
    some = []
    for raw, value in zip(raws, values):
        kind = json.dumps(sorted(map(str, value.get(LABELS) or ())))
        taken[kind] = taken.get(kind, 0) + 1
        some += [raw] if n is None or taken[kind] <= n else []
    return Labelled(some, hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16])


def run(
    lm: Any, asked: Labelled, settings: Mapping[str, Any], file: Any, done: Sequence[rows.Line]
) -> Iterator[rows.Line]:
    """Lines of all readers, old and new; new ones are on disk when they are yielded."""
    yield from done
    there = {(line["reader"], line["row"]) for line in done}
    for names, own in READERS.items():
        readers = Readers(lm, {**settings, **own})
        pairs = [labelled(raw, readers) for raw in asked.raws if (names[-1], raw.row) not in there]
        for first in range(0, len(pairs), PART):
            begin, part = time.perf_counter(), pairs[first : first + PART]
            answers = readers.plain.answer([row.asked for row, _ in part])
            seconds = (time.perf_counter() - begin) / len(part)
            new = [
                line
                for (row, truth), answer in zip(part, answers)
                for line in _lines(row, answer, truth, names, seconds)
            ]
            rows.append(file, new)
            yield from new


def _lines(row: Any, answers: Any, truth: Mapping[str, Any], names: Sequence[str], seconds: float) -> list[rows.Line]:
    """One line for each reader and question that has a right answer."""
    made = []
    for question in row.asked.questions:
        if question.name not in truth:
            continue
        told: Decision = answers[question.name]
        known = told.probabilities is not None
        for name in names:
            raw = name == ORDERS and known  # before the prior
            p = (
                pool([np.array(told.logits)]).probabilities.tolist()
                if raw
                else list((told.probabilities or {}).values())
            )
            made.append({
                "kind": "row", "row": row.row, "id": row.id, "reader": name, "question": question.name,
                "type": question.kind, "probabilities": p, "right": place_of(question, truth[question.name], "row"),
                "status": told.status, "reads": told.forwards, "label_mass": told.label_mass, "spread": told.spread,
                "flips": told.flips, "seconds": seconds / len(answers),
            })  # fmt: skip
    return made


def summarise(lines: Sequence[rows.Line]) -> dict[str, Any]:
    """{"decisions": a point for each question and reader, and for all questions together, "reliability": reader -> bins}."""
    questions = list(dict.fromkeys(line["question"] for line in lines))
    points, bins = [], {}
    for name in NAMES:
        own = [line for line in lines if line["reader"] == name]
        for question in [*questions, *([ALL] if len(questions) > 1 else [])]:
            some = [line for line in own if question in (ALL, line["question"])]
            base = [line for line in lines if line["reader"] == LISTED and question in (ALL, line["question"])]
            points += [] if not some else [{"question": question, "reader": name, **_point(some, base)}]
        p, y = _table(own)
        if len(y):
            bins[name] = [each._asdict() for each in measures.reliability(p.max(1), p.argmax(1) == y)]
    return {"decisions": points, "reliability": bins}


def _table(lines: Sequence[rows.Line]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, K] and right places [n] of the rows that have an answer; missing options have none."""
    answered = [line for line in lines if line["status"] == "ok"]
    p = np.zeros((len(answered), max((len(line["probabilities"]) for line in answered), default=1)))
    for row, line in zip(p, answered):
        row[: len(line["probabilities"])] = line["probabilities"]
    return p, np.array([line["right"] for line in answered], np.int64)


def _point(lines: Sequence[rows.Line], base: Sequence[rows.Line]) -> dict[str, Any]:
    p, y = _table(lines)
    made: dict[str, Any] = {"unanswered": len(lines) - len(y)}
    if not len(y):
        return made | {"n": 0}
    made |= measures.quality(p, y)._asdict()
    made["interval"] = list(metrics.wilson(int((p.argmax(1) == y).sum()), len(y)))
    if all(line["type"] == "score" for line in lines):
        made |= measures.of_levels(p, y)._asdict()
    old = {(line["row"], line["question"]): _right(line) for line in base}
    pairs = [(old[key], _right(line)) for line in lines if (key := (line["row"], line["question"])) in old]
    if pairs and lines[0]["reader"] != LISTED:
        test = metrics.paired(*map(list, zip(*pairs, strict=True)))
        made |= {"delta": test.delta, "delta_interval": list(test.interval), "mcnemar_p": test.mcnemar_p}
    mean = lambda name: float(np.mean([line[name] for line in lines if line[name] is not None] or [np.nan]))  # noqa: E731
    return made | {name: mean(name) for name in ("reads", "label_mass", "spread", "flips", "seconds")}


def _right(line: rows.Line) -> bool:
    return line["status"] == "ok" and int(np.argmax(line["probabilities"])) == line["right"]


def check(lm: Any, file: str | None) -> None:
    """Raises InputError for a model that has no words for our own rows."""
    if lm.tokenizer is None:
        raise InputError(f"model {lm.name!r} has no tokenizer: {lm.advice or 'the labelled rows are text'}")
    if file is None and lm.tokenizer.closed:
        raise InputError(
            f"{lm.name} has few words, and the labelled rows are English: give --labelled rows in its words"
        )


def evaluate(lm: Any, asked: Labelled, settings: Mapping[str, Any], folder: pathlib.Path, head: rows.Line) -> None:
    """rows.jsonl, summary.json, report.html and reliability.svg; a run goes on where it stopped."""
    from jaxdlm.eval import evaluate as job
    from jaxdlm.eval import report, summary

    begin = time.perf_counter()
    file, done = rows.open_for(folder / "rows.jsonl", head)
    lines: list[rows.Line] = []
    with file:
        for line in run(lm, asked, settings, file, done):
            lines.append(line)
            if len(lines) % (2 * PART) == 0:
                note(f"{len(lines)} answers, {time.perf_counter() - begin:.0f} s")
    made = {"meta": head, **summarise(lines)}
    (folder / "summary.json").write_text(summary.dump(made))
    (folder / "report.html").write_text(report.decisions_page(made))
    job.picture(folder / "reliability.svg", lambda: report.reliability_chart(made))
    for point in made["decisions"]:
        if point["n"]:
            note(
                f"{point['question']}, {point['reader']}: {100 * point['accuracy']:.0f} % right of {point['n']}, "
                f"Brier {point['brier']:.3f}, calibration error {point['ece']:.3f} ({point['low']:.3f} to {point['high']:.3f})"
            )
    note(f"wrote {folder / 'report.html'}, summary.json, reliability.svg, rows.jsonl ({len(lines)} rows)")
