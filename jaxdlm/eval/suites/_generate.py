"""Items of ParallelBench (arXiv 2510.04767) by its recipe, from a task's configuration and seed.

Draws come from Python's `random` in the order in which the official generator makes them, so that both make the same items.
The published Latin squares come out again; the published lists do not, by the official generator either.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxdlm.errors import InputError

Config = Mapping[str, Any]
Row = dict[str, Any]
SYMBOLS = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789"]


def seed_of(name: str, offset: int = 42) -> int:
    """The seed of a task by the last part of its name: (sha256 + offset) mod 65535."""
    return (int(hashlib.sha256(name.split("/")[-1].encode()).hexdigest(), 16) + offset) % (2**16 - 1)


def text_of(items: Sequence[str]) -> str:
    """`["A B", "C D"]`."""
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def items(config: Config, words: Sequence[str] | None) -> list[Row]:
    """`num_samples` rows in the layout of the files, as many of each length, each with its worked example.

    config: type, num_samples, samples_per_length, icl_example_count, seed, and min_length and max_length or size.
    Raises InputError for a type that is not generated.
    """
    rng = random.Random(config["seed"])
    each, count = config.get("samples_per_length") or 0, config["num_samples"]
    rows = _of_each_length(_draws(rng, config, words), each, count) if each else _first(rng, config, words)
    shots = [_first(rng, config, words) for _ in range(config.get("icl_example_count") or 0)]
    for index, row in enumerate(rows):
        if shots:
            row["input"]["icl_examples"] = [some[index] for some in shots]
    return rows


def _first(rng: random.Random, config: Config, words: Sequence[str] | None) -> list[Row]:
    return list(itertools.islice(_draws(rng, config, words), config["num_samples"]))


def _of_each_length(draws: Iterator[Row], each: int, count: int) -> list[Row]:
    """Rows sorted by length; those of a length that has enough are thrown away until all lengths have."""
    by_length: dict[int, list[Row]] = {}
    for row in draws:
        kept = by_length.setdefault(row["metadata"]["length"], [])
        if len(kept) < each:
            kept.append(row)
        full = [length for length, rows in by_length.items() if len(rows) == each]
        if len(full) == count // each:
            return [row for length in sorted(full) for row in by_length[length]]
    raise AssertionError("draws do not end")


def _draws(rng: random.Random, config: Config, words: Sequence[str] | None) -> Iterator[Row]:
    kind = config["type"]
    if kind == "latin_square":
        while True:
            yield _latin_square(rng, config["size"])
    if kind not in EDITS or words is None:
        raise InputError(f"items of type {kind!r} are not generated: copy the file of the task")
    while True:
        length = rng.randint(config["min_length"], config["max_length"])
        line = rng.sample(words, length)
        yield EDITS[kind](rng, line, words, config)


def _row(line: Sequence[str], answer: Any, **more: Any) -> Row:
    return {"input": {"context": text_of(line), **more}, "answer": answer, "metadata": {"length": len(line)}}


def _copy(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    return _row(line, text_of(line))


def _reverse(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    return _row(line, text_of(line[::-1]))


def _sort(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    return _row(line, text_of(sorted(line)))


def _shuffle(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    other = list(line)
    while other == line:
        rng.shuffle(other)
    return _row(line, {"input": line, "example": text_of(other)})


def _insert(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    word = _other(rng, line, words)
    at = rng.randint(0, len(line))
    return _edited(line, [*line[:at], word, *line[at:]], at, config, word=word)


def _remove(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    at = rng.randint(0, len(line) - 1)
    return _edited(line, [*line[:at], *line[at + 1 :]], at, config)


def _replace(rng: random.Random, line: list[str], words: Sequence[str], config: Config) -> Row:
    word = _other(rng, line, words)
    at = rng.randint(0, len(line) - 1)
    return _edited(line, [*line[:at], word, *line[at + 1 :]], at, config, word=word)


def _other(rng: random.Random, line: Sequence[str], words: Sequence[str]) -> str:
    there = set(line)
    return rng.choice([word for word in words if word not in there])


def _edited(line: list[str], after: list[str], at: int, config: Config, **word: str) -> Row:
    """Where the place is asked for, the answer is one list; else what undoes the edit is stored."""
    if not config.get("random_index"):
        return _row(line, text_of(after), **word, index=at)
    return _row(line, {"input": line, **word, "example": text_of(after)}, **word)


def _latin_square(rng: random.Random, size: int) -> Row:
    """Rotations of one row, then rows and columns in any order: only squares of the cyclic kind are reached."""
    symbols = rng.sample(SYMBOLS, size)
    rows = [symbols[i:] + symbols[:i] for i in range(size)]
    rng.shuffle(rows)
    columns = list(zip(*rows))
    rng.shuffle(columns)
    square = "\n".join(",".join(row) for row in zip(*columns))
    return {
        "input": {"size": size, "symbols": f"[{', '.join(symbols)}]"},
        "answer": {"symbols": symbols, "example": square},
        "metadata": {"length": size},
    }


EDITS: Mapping[str, Callable[[random.Random, list[str], Sequence[str], Config], Row]] = {
    "copy": _copy, "reverse": _reverse, "sort": _sort, "shuffle": _shuffle, "insert": _insert, "remove": _remove,
    "replace": _replace,
}  # fmt: skip
