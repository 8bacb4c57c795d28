"""What an ideal model could reach on the rows of a task: the dotted line of the report.

Answers are enumerated as items (format tokens are free for an ideal model). Two points are known for every task: the
fewest forwards without a loss, by confidence thresholds on the exact denoiser, and one forward, by the laws of
`closed_forms`.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdlm.eval import closed_forms
from jaxdlm.eval.tasks import vocab

TAUS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
ONE_ANSWER = (
    "copy", "reverse", "sort", "replace_index", "insert_index", "remove_index", "rotate", "sudoku4", "add",
)  # fmt: skip
ENUMERATED = ("shuffle", "gshuffle", "rotate_any", "replace_random", "insert_random", "remove_random")


def bound(task: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]] | None:
    """[(TPF, accuracy)] of an ideal model: no loss up to the first TPF, then falling to one forward per row.

    None where the law of the task is not known here. rows: any rows of the task (knobs and answer are read).
    """
    if task not in (*ONE_ANSWER, *ENUMERATED):
        return None
    tokens = float(np.mean([len(vocab.words(row["answer"])) + 1 for row in rows]))
    if task in ONE_ANSWER:
        return [(tokens, 1.0)]
    knobs = [(row["knobs"]["n"], row["knobs"].get("g", 0)) for row in rows]
    steps = float(np.mean([fewest_forwards(task, n, g) for n, g in knobs]))
    at_once = float(np.mean([one_forward(task, n, g) for n, g in knobs]))
    return [(tokens / steps, 1.0), (tokens, at_once)]


@functools.cache
def answers(task: str, n: int, g: int) -> np.ndarray:
    """int[R, G]: every right answer for items 0..n-1 (n: the new item), each as likely."""
    items = list(range(n))
    if task == "shuffle":
        found = [list(p) for p in itertools.permutations(items)]
    elif task == "gshuffle":
        groups = [list(itertools.permutations(items[i : i + g])) for i in range(0, n, g)]
        found = [[x for part in parts for x in part] for parts in itertools.product(*groups)]
    elif task == "rotate_any":
        found = [items[r:] + items[:r] for r in range(n)]
    elif task == "replace_random":
        found = [[*items[:i], n, *items[i + 1 :]] for i in range(n)]
    elif task == "insert_random":
        found = [[*items[:i], n, *items[i:]] for i in range(n + 1)]
    else:
        found = [items[:i] + items[i + 1 :] for i in range(n)]
    return np.array(found)


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
