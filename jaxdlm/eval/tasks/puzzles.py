"""Latin squares of order 4 and 4 x 4 sudoku, with every solution known by enumeration."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from itertools import permutations
from typing import Any

from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of
from jaxdlm.registry import task

SYMBOLS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
Grid = tuple[tuple[int, ...], ...]


@cache
def latin_squares() -> tuple[Grid, ...]:
    """All 576 Latin squares of order 4 over 0..3."""
    rows = tuple(permutations(range(4)))
    grids: list[Grid] = [()]
    for _ in range(4):
        grids = [
            (*grid, row)
            for grid in grids
            for row in rows
            if all(row[c] != above[c] for above in grid for c in range(4))
        ]
    return tuple(grids)


@cache
def sudoku_grids() -> tuple[Grid, ...]:
    """All 288 Latin squares whose 2 x 2 boxes hold each symbol once."""
    return tuple(
        grid
        for grid in latin_squares()
        if all(len({grid[r + i][c + j] for i in (0, 1) for j in (0, 1)}) == 4 for r in (0, 2) for c in (0, 2))
    )


def solutions(clues: tuple[int, ...]) -> list[Grid]:
    """Sudoku grids that agree with 16 clues, 0 = blank, 1..4 otherwise."""
    return [
        grid for grid in sudoku_grids() if all(clue in (0, grid[i // 4][i % 4] + 1) for i, clue in enumerate(clues))
    ]


def _lines(rows: list[tuple[str, ...]]) -> tuple[str, ...]:
    out: list[str] = []
    for i, row in enumerate(rows):
        if i:
            out.append("\n")
        out.extend(row)
    return tuple(out)


def _commas(row: list[str]) -> tuple[str, ...]:
    return tuple(token for i, symbol in enumerate(row) for token in ((",", symbol) if i else (symbol,)))


def draw_latin(rng: random.Random) -> Draw:
    """Any of the 576 squares over four drawn symbols: 22.83 bits with the cells independent of nothing."""
    symbols = rng.sample(SYMBOLS, 4)
    grid = rng.choice(latin_squares())
    rows = [_commas([symbols[cell] for cell in row]) for row in grid]
    return Draw({}, (("latin", "square"), tuple(symbols)), _lines(rows), {"symbols": symbols}, sorted(symbols))


def check_latin(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """Every row and column holds the four symbols once; commas are optional."""
    symbols = set(payload["symbols"])
    lines: list[list[str]] = [[]]
    for token in tokens:
        if token == "\n":
            lines.append([])
        else:
            lines[-1].append(token)
    rows = [[token for token in line if token != ","] for line in lines]
    if len(rows) != 4 or any(len(row) != 4 or not symbols.issuperset(row) for row in rows):
        return WRONG
    columns = zip(*rows, strict=True)
    correct = all(set(line) == symbols for line in (*rows, *columns))
    exact = tuple(tokens) == _lines([_commas(row) for row in rows])
    return Score(correct, correct and exact, exact)


def draw_sudoku(rng: random.Random, c: int | None = None, multi: bool = False) -> Draw:
    """c clues (6-12 by default) with a unique solution; `multi`: c <= 3 clues and several solutions."""
    c = choice_of(rng, c, (1, 2, 3) if multi else (6, 7, 8, 9, 10, 11, 12))
    while True:
        grid = rng.choice(sudoku_grids())
        flat = [cell + 1 for row in grid for cell in row]
        for _ in range(20):
            shown = set(rng.sample(range(16), c))
            clues = tuple(value if i in shown else 0 for i, value in enumerate(flat))
            solved = solutions(clues)
            if (len(solved) > 1) == multi:
                break
        else:
            continue
        answer = flat if not multi else [cell + 1 for row in rng.choice(solved) for cell in row]
        rows = [tuple(map(str, clues[i : i + 4])) for i in range(0, 16, 4)]
        payload = {"clues": clues}
        solution = [tuple(map(str, answer[i : i + 4])) for i in range(0, 16, 4)]
        knobs = {"c": c, "multi": multi}
        return Draw(knobs, (("sudoku",), _lines(rows)), _lines(solution), payload, "".join(map(str, answer)))


def check_sudoku(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """A legal grid that keeps the clues (several may be right)."""
    cells = [token for token in tokens if token != "\n"]
    if len(cells) != 16 or any(cell not in ("1", "2", "3", "4") for cell in cells):
        return WRONG
    exact = tuple(tokens) == _lines([tuple(cells[i : i + 4]) for i in range(0, 16, 4)])
    grid = tuple(tuple(int(cell) - 1 for cell in cells[i : i + 4]) for i in range(0, 16, 4))
    keeps = all(clue in (0, int(cell)) for clue, cell in zip(payload["clues"], cells, strict=True))
    correct = keeps and grid in sudoku_grids()
    return Score(correct, correct and exact, exact)


LATIN = task(Family("latin4", draw_latin, check_latin, canvas=32, group="latin", trained=True, order=110))
SUDOKU = task(
    Family("sudoku4", draw_sudoku, check_sudoku, canvas=32, group="sudoku", test_share=0.2, trained=True, order=111)
)
