"""Verdicts of ParallelBench (arXiv 2510.04767) on lists and puzzles, loose and strict, as its own graders give them.

Loose leaves brackets and quotes out; strict asks for `["A B", "C D"]`. What is odd in the official graders is kept, and
said where it is: figures are compared with theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Truth = Any  # a text, or an object with the input


def parse(text: str, strict: bool = False) -> list[str] | None:
    """The items between the last `[` and the `]` that follows; None where the strict form is broken."""
    if strict and "[" not in text:
        return None
    inside = text.rpartition("[")[2]
    if strict and "]" not in inside:
        return None
    inside = inside.partition("]")[0]
    if not strict:
        return [item.strip('" ') for item in inside.split(",") if item.strip()]
    items = []
    for item in inside.split(", "):
        if not (item.startswith('"') and item.endswith('"')):
            return None
        items.append(item[1:-1])  # one quote alone counts as an empty name
        if '"' in items[-1]:
            return None
    return items


def same(answer: list[str], truth: Truth) -> bool:
    """Item for item the stored list."""
    return answer == parse(truth)


def shuffled(answer: list[str], truth: Truth) -> bool:
    """The same people in another order."""
    return sorted(answer) == sorted(truth["input"]) and answer != truth["input"]


def inserted(answer: list[str], truth: Truth) -> bool:
    """Without the new person it is the list of before."""
    if truth["word"] not in answer:
        return False
    rest = list(answer)
    rest.remove(truth["word"])
    return rest == truth["input"]


def removed(answer: list[str], truth: Truth) -> bool:
    """The list of before without exactly one person."""
    gone = set(truth["input"]) - set(answer)
    return (
        len(answer) == len(truth["input"]) - 1
        and len(gone) == 1
        and [person for person in truth["input"] if person not in gone] == answer
    )


def replaced(answer: list[str], truth: Truth) -> bool:
    """The list of before with the new person in one place."""
    if len(answer) != len(truth["input"]) or truth["word"] not in answer:
        return False
    at = answer.index(truth["word"])
    return [*truth["input"][:at], truth["word"], *truth["input"][at + 1 :]] == answer


def latin_square(text: str, truth: Truth, strict: bool) -> bool:
    """Rows and columns of the first lines that hold all symbols; other lines are passed over, in the strict form too.

    A row may be longer than the square where it repeats a symbol: its columns beyond the shortest row are not read.
    """
    symbols = set(truth["symbols"])
    lines = [[cell.strip() for cell in line.strip().split(",")] for line in text.split("\n")]
    square = [line for line in lines if set(line) == symbols][: len(symbols)]
    return len(square) == len(symbols) and all(set(column) == symbols for column in zip(*square))


def grid(text: str, strict: bool = False) -> list[list[int]] | None:
    """The 4 × 4 digits of a sudoku; loose takes the lines that have four digits, whatever else stands there."""
    if not strict:
        found = [re.findall(r"\d", line) for line in text.replace(" ", "").replace(",", "").split("\n")]
        lines = [[int(digit) for digit in line] for line in found if len(line) == 4]
        return lines if len(lines) == 4 else None
    rows = [line.strip() for line in text.strip().split("\n") if line.strip()]
    if len(rows) != 4 or any(len(row) != 4 or not row.isdecimal() for row in rows):
        return None
    return [[int(digit) for digit in row] for row in rows]


def sudoku(text: str, truth: Truth, strict: bool) -> bool:
    """The stored grid: a puzzle of this file has one solution."""
    return grid(text, strict) == grid(truth, True)


OF_LISTS: Mapping[str, Callable[[list[str], Truth], bool]] = {
    "list_match_score": same,
    "list_shuffle_score": shuffled,
    "list_random_insert_score": inserted,
    "list_random_remove_score": removed,
    "list_random_replace_score": replaced,
}
OF_TEXT: Mapping[str, Callable[[str, Truth, bool], bool]] = {
    "latin_square_score": latin_square,
    "sudoku_score": sudoku,
}
NAMES: Sequence[str] = (*OF_LISTS, *OF_TEXT)


def verdict(metric: str, text: str, truth: Truth, strict: bool = False) -> bool:
    """Whether an answer is right by a metric of `NAMES`."""
    if metric in OF_TEXT:
        return OF_TEXT[metric](text, truth, strict)
    answer = parse(text, strict)
    return answer is not None and OF_LISTS[metric](answer, truth)
