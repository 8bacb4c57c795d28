"""PG-TD beside sampling and filtering at equal forwards: how many problems have an answer that keeps all rules, and its reward.

    taskset -c 1 python benchmarks/planning.py --problems 32 --rollouts 32
    taskset -c 1 python benchmarks/planning.py --problems 32 --rollouts 32 --leaves 1 4 8 --seconds

Problems are those of the embedded model's tasks whose answers a rule can judge without knowing one: a latin square and a sudoku,
by the share of rows, columns and boxes that are right (clues that are changed: 0). Planning has `--rollouts`; for each problem
sampling draws answers one by one until it has had as many forwards as planning took there, and keeps the one of the greatest
reward, the first of equals. Greedy decoding is both's first answer at worst. --seconds: time of the whole search by leaves.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import make


def grid_of(text: str, symbols: Sequence[str]) -> list[list[str]] | None:
    """The four rows of an answer, or nothing."""
    rows = [[cell for cell in line if cell in symbols] for line in text.split("\n")]
    return rows if [len(row) for row in rows] == [4] * 4 else None


def lines_right(rows: list[list[str]] | None, symbols: Sequence[str], boxes: bool) -> float:
    """The share of lines that hold every symbol."""
    if rows is None:
        return 0.0
    lines = [*rows, *map(list, zip(*rows, strict=True))]
    if boxes:
        lines += [[rows[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
    return sum(sorted(line) == sorted(symbols) for line in lines) / len(lines)


def latin(example: Any) -> Callable[[str], float]:
    symbols = example.payload["symbols"]
    return lambda text: lines_right(grid_of(text, symbols), symbols, False)


def sudoku(example: Any) -> Callable[[str], float]:
    clues = [str(clue) for clue in example.payload["clues"]]

    def reward(text: str) -> float:
        rows = grid_of(text, "1234")
        cells = [] if rows is None else [cell for row in rows for cell in row]
        keeps = len(cells) == 16 and all(clue in ("0", cell) for clue, cell in zip(clues, cells, strict=True))
        return lines_right(rows, "1234", True) if keeps else 0.0

    return reward


JUDGES = {"latin4": latin, "sudoku4": sudoku}


def at_equal_forwards(
    out: Any, each: int, budget: np.ndarray, judges: list[Callable[[str], float]]
) -> tuple[list, list]:
    """(best rewards, answers drawn) of each problem within its budget of forwards."""
    best, drawn = [], []
    for row, judge in enumerate(judges):
        spent = np.cumsum(out.forwards[row * each : (row + 1) * each])
        count = max(1, int(np.searchsorted(spent, budget[row], side="right")))
        best.append(max(judge(out.text[row * each + at]) for at in range(min(count, each))))
        drawn.append(count)
    return best, drawn


def share(rewards: Any) -> dict[str, float]:
    return {"reward": round(float(np.mean(rewards)), 3), "pass": round(float(np.mean(np.asarray(rewards) == 1)), 3)}


def compare(lm: Any, name: str, args: argparse.Namespace) -> dict[str, Any]:
    examples = make(name, args.problems, seed=3)
    judges, prompts = [JUDGES[name](one) for one in examples], [one.prompt for one in examples]
    run: dict[str, Any] = {"max_new": 36, "rows_per_program": args.problems}
    plain = jd.decode(lm, prompts, "autoregressive", **run)
    made = {"greedy": share([judge(text) for judge, text in zip(judges, plain.text, strict=True)])}
    policy = jd.pg_td(rollouts=args.rollouts, c=args.c, enough=1.0)
    plan = jd.planned(lm, prompts, lambda text, row: judges[row](text), policy, **run)
    budget = plan.out.forwards
    made["planned"] = share(plan.reward) | {
        "forwards": round(float(budget.mean()), 1), "answers": round(float(plan.generations.mean()), 1),
        "rollouts": round(float(plan.rollouts.mean()), 1),
    }  # fmt: skip
    for temperature in args.temperatures:
        for top_k in (0, 3):
            policy = jd.autoregressive(temperature, top_k=top_k or None)
            out = jd.decode(lm, prompts, policy, n=args.most, max_new=36, rows_per_program=8 * args.most)
            best, drawn = at_equal_forwards(out, args.most, budget, judges)
            label = f"samples T={temperature}" + (f", top_k={top_k}" if top_k else "")
            made[label] = share(best) | {"answers": round(float(np.mean(drawn)), 1)}
            assert max(drawn) <= args.most, "raise --most: there are forwards left"
    return made


def seconds(lm: Any, args: argparse.Namespace) -> dict[str, float]:
    """Of a whole search, by leaves: the best of three, in turns."""
    examples = make("latin4", args.problems, seed=3)
    judges = [latin(one) for one in examples]
    taken: dict[str, list[float]] = {}
    for turn in range(4):
        for leaves in args.leaves:
            begun = time.perf_counter()
            policy = jd.pg_td(rollouts=args.rollouts, c=args.c, leaves=leaves)
            plan = jd.planned(
                lm, [one.prompt for one in examples], lambda text, row: judges[row](text), policy, max_new=36
            )
            if turn:  # the first compiles
                taken.setdefault(str(leaves), []).append(time.perf_counter() - begun)
                taken.setdefault(f"reward at {leaves}", []).append(-float(plan.reward.mean()))
    return {name: round(min(values), 3) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--c", type=float, default=4.0)
    parser.add_argument("--most", type=int, default=32, help="samples of a problem")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 1.0, 1.5])
    parser.add_argument("--tasks", nargs="+", default=list(JUDGES), choices=list(JUDGES))
    parser.add_argument("--leaves", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", action="store_true")
    args = parser.parse_args()
    lm = jd.load("tiny-ar")
    print(json.dumps(seconds(lm, args) if args.seconds else {name: compare(lm, name, args) for name in args.tasks}))


if __name__ == "__main__":
    main()
