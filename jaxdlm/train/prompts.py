"""Prompts that a model is distilled on: the benchmark's training split, or lines of a JSONL file."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.eval.task import LEARNABLE, TASKS, Example


def benchmark(count: int, seed: int, *, canvas: int, names: Sequence[str] = LEARNABLE) -> list[Example]:
    """`count` problems of the training split whose answers fit `canvas` columns, the tasks in turn."""
    fitting = [name for name in names if TASKS[name].canvas <= canvas]
    rng = random.Random(f"prompts:{seed}:{canvas}")
    return [TASKS[fitting[i % len(fitting)]].generate(rng, "train", template=rng.randrange(3)) for i in range(count)]


def read(path: Path) -> list[str | list[int]]:
    """The "prompt" of every line of a JSONL file, a text or token ids. Raises InputError that names the line."""
    return [row["prompt"] for row in _rows(path, answers=False)]


def read_solved(path: Path) -> list[tuple[str | list[int], str]]:
    """The "prompt" of every line and its "answer", a text. Raises InputError that names the line."""
    return [(row["prompt"], row["answer"]) for row in _rows(path, answers=True)]


def read_scored(path: Path) -> list[tuple[str | list[int], list[tuple[str | list[int], float]]]]:
    """The "prompt" of every line with its "candidates", texts or token ids, each with one of its "scores".

    Raises InputError that names the line.
    """
    scored = []
    for number, row in enumerate(_rows(path, answers=False), 1):
        texts, scores = row.get("candidates"), row.get("scores")
        if not isinstance(texts, list) or not isinstance(scores, list) or not len(texts) == len(scores) > 1:
            raise InputError(f"{path}, line {number}: must have 'candidates', two or more, and as many 'scores'")
        if not all(isinstance(text, str | list) and text for text in texts):
            raise InputError(f"{path}, line {number}: 'candidates' must be texts or lists of token ids")
        if any(isinstance(score, bool) or not isinstance(score, int | float) or score != score for score in scores):
            raise InputError(f"{path}, line {number}: 'scores' must be numbers")
        scored.append((row["prompt"], list(zip(texts, map(float, scores), strict=True))))
    return scored


def _rows(path: Path, answers: bool) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} is no file: give one JSON object per line, each with a text under 'prompt'")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: no JSON ({error.msg})") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str | list) or not row["prompt"]:
            raise InputError(f"{path}, line {number}: must be an object with a text or token ids under 'prompt'")
        if answers and not (isinstance(row.get("answer"), str) and row["answer"]):
            raise InputError(f"{path}, line {number}: must have the right answer, a text, under 'answer'")
        rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no prompt")
    return rows
