"""Puzzles against the rules, written out."""

import random

from jaxdlm.eval.task import TASKS, make
from jaxdlm.eval.tasks import puzzles


def test_there_are_576_squares_and_288_sudoku_grids():
    assert len(puzzles.latin_squares()) == 576
    assert len(puzzles.sudoku_grids()) == 288


def test_swapping_two_cells_breaks_a_square():
    rng = random.Random(0)
    for name in ("latin4", "sudoku4"):
        for example in make(name, 20, "train"):
            answer = list(example.answer)
            i, j = rng.sample([k for k, c in enumerate(answer) if c.isalnum()], 2)
            if answer[i] == answer[j]:
                continue
            answer[i], answer[j] = answer[j], answer[i]
            assert not TASKS[name].check(example, "".join(answer)).correct


def test_unique_and_several_solutions():
    rng = random.Random(1)
    for _ in range(10):
        assert len(puzzles.solutions(puzzles.draw_sudoku(rng).payload["clues"])) == 1
        several = puzzles.draw_sudoku(rng, multi=True).payload["clues"]
        assert len(puzzles.solutions(several)) > 1 and sum(map(bool, several)) <= 3
