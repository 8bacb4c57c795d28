"""What an ideal model could reach on the rows of a task: the dotted line of the report.

Answers are enumerated as items (format tokens are free for an ideal model). Two points are known for every task: the
fewest forwards without a loss, by confidence thresholds on the exact denoiser, and one forward, by the laws of
`closed_forms`.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.eval import closed_forms
from jaxdlm.eval.tasks import vocab

TAUS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
ONE_ANSWER = (
    "copy", "reverse", "sort", "replace_index", "insert_index", "remove_index", "rotate", "sudoku4", "add",
)  # fmt: skip
ENUMERATED = ("shuffle", "gshuffle", "rotate_any", "replace_random", "insert_random", "remove_random")


class Bound(NamedTuple):
    """What an ideal model reaches on some rows.

    points: [(TPF, accuracy)], without loss, then in one forward per row. forwards: mean per row, without loss.
    """

    points: list[tuple[float, float]]
    forwards: float


def bound(rows: Sequence[Mapping[str, Any]]) -> Bound | None:
    """Of rows of any tasks (task, knobs and answer are read); None where the distribution of one is not known here."""
    if not rows or any(row["task"] not in (*ONE_ANSWER, *ENUMERATED) for row in rows):
        return None
    tokens = float(np.mean([len(vocab.words(row["answer"])) + 1 for row in rows]))
    each = [_one(row["task"], row["knobs"]) for row in rows]
    steps, at_once = (float(np.mean(x)) for x in zip(*each))
    return Bound([(tokens / steps, 1.0), (tokens, at_once)], steps)


def _one(task: str, knobs: Mapping[str, Any]) -> tuple[float, float]:
    """(fewest forwards without loss, accuracy of one forward)."""
    if task in ONE_ANSWER:
        return 1.0, 1.0
    n, g = knobs["n"], knobs.get("g", 0)
    return fewest_forwards(task, n, g), one_forward(task, n, g)


@functools.cache
def answers(task: str, n: int, g: int) -> np.ndarray:
    """int[R, G]: every right answer for items 0..n-1 (n: the new item), each as likely."""
    items = list(range(n))
    if task == "shuffle":
        lists = [list(p) for p in itertools.permutations(items)]
    elif task == "gshuffle":
        groups = [list(itertools.permutations(items[i : i + g])) for i in range(0, n, g)]
        lists = [[x for part in parts for x in part] for parts in itertools.product(*groups)]
    elif task == "rotate_any":
        lists = [items[r:] + items[:r] for r in range(n)]
    elif task == "replace_random":
        lists = [[*items[:i], n, *items[i + 1 :]] for i in range(n)]
    elif task == "insert_random":
        lists = [[*items[:i], n, *items[i:]] for i in range(n + 1)]
    else:
        lists = [items[:i] + items[i + 1 :] for i in range(n)]
    return np.array(lists)


@functools.cache
def fewest_forwards(task: str, n: int, g: int) -> int:
    """Fewest forwards over `TAUS` that end at a right answer: all columns with p >= tau, and the surest, greedy."""
    table = answers(task, n, g)
    return min(steps for steps, right in (_decode(table, tau) for tau in TAUS) if right)


def _decode(table: np.ndarray, tau: float) -> tuple[int, bool]:
    written = np.full(table.shape[1], -1)
    steps = 0
    while (written < 0).any():
        agree = table[((written < 0) | (table == written)).all(1)]
        if not len(agree):
            return steps, False
        best = [
            max(zip(*np.unique(column, return_counts=True)[::-1]), key=lambda x: (x[0], -x[1])) for column in agree.T
        ]
        share = np.array([count for count, _ in best]) / len(agree)
        open_ = written < 0
        commit = open_ & ((share >= tau) | (np.arange(len(share)) == np.argmax(np.where(open_, share, -1))))
        written = np.where(commit, [value for _, value in best], written)
        steps += 1
    return steps, bool((table == written).all(1).any())


def one_forward(task: str, n: int, g: int) -> float:
    """Accuracy of one forward, sampled from the marginals or greedy, whichever is better."""
    greedy = float(_decode(answers(task, n, g), 0.0)[1]) if task in ("remove_random", "replace_random") else 0.0
    return max(greedy, closed_forms.all_at_once(answers(task, n, g)))
