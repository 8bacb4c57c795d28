"""What each cache costs and what it gives up, on the embedded model: quality at short canvases, time at a long one.

    python benchmarks/caches.py                    # everything; --only none,dual,refresh:every=8 for some
    taskset -c 1 python benchmarks/caches.py --rounds 5

Quality: `threshold` decodes held-out problems that `tiny` has learned, in blocks of 8, so that most columns lie outside
the block; a cache loses what its stale keys spoil. Time: one policy with a fixed number of forwards, so that every
cache makes the same number of them, on a canvas of 256 columns in blocks of 32; the contestants take turns, and a figure
is the median over rounds of the ratio to no cache within the same round. Positions are columns that went through the
stack (its widest layer), pads included, per generated column.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

import jaxdlm
from jaxdlm import layout, policies
from jaxdlm.core import reads
from jaxdlm.core.rule import Decoding
from jaxdlm.eval import task

TASKS = ("reverse", "sort", "replace_index", "sudoku4")
CASES = (
    "none", "prefix", "prefix:refresh_every=4", "dual", "dual:refresh_every=2", "dual:refresh_every=4", "refresh",
    "refresh:every=4,before=4,after=4,warmup=0", "refresh:before=4,after=4,warmup=0", "delayed:every=4", "delayed",
    "adaptive:response_every=4", "adaptive", "recap", "layer_reuse", "layer_reuse:depth=2",
)  # fmt: skip


def build(words: str) -> Any:
    """A cache from `name:key=number,...`."""
    name, _, settings = words.partition(":")
    pairs = (pair.split("=") for pair in settings.split(",") if pair)
    return policies.CACHES[name](**{key: int(value) for key, value in pairs})


def positions(lm: Any, prompts: list[Any], policy: Any, cache: Any, out: Any, run: dict[str, int]) -> float:
    """Columns through the stack per generated column."""
    batch = layout.lay_out(lm, prompts, **run, seed=0, ids=None)
    decoding = Decoding(lm.model, lm.params, policy, cache, batch.geometry)
    full, part = (each.widest for each in reads.both(decoding, batch.rows))
    cached = reads.forwards_cached(cache, out.commit_step, out.forwards, run["block"])
    return float(((out.forwards - cached) * full + cached * part).sum() / out.tokens.size)


def quality(lm: Any, words: str, count: int) -> tuple[float, float, float]:
    """(share of right answers, forwards per row, positions per column)."""
    examples = [example for name in TASKS for example in task.make(name, count)]
    prompts, run = [example.prompt for example in examples], {"max_new": 32, "block": 8}
    policy, cache = policies.RECIPES["threshold"](), build(words)
    out = jaxdlm.decode(lm, prompts, policy, cache, **run)
    right = [task.task(e.task).check(e, row.tolist()).correct for e, row in zip(examples, out.tokens, strict=True)]
    return float(np.mean(right)), float(out.forwards.mean()), positions(lm, prompts, policy, cache, out, run)


def speed(lm: Any, cases: list[str], rounds: int, rows: int, steps: int) -> dict[str, tuple[float, float, float]]:
    """(seconds, times faster than no cache, positions per column) of each case."""
    prompts, run = task.examples(rows), {"max_new": 256, "block": 32}
    policy, caches = policies.RECIPES["low_confidence"](steps=steps), {words: build(words) for words in cases}
    outs = {words: jaxdlm.decode(lm, prompts, policy, cache, **run) for words, cache in caches.items()}
    assert all((out.forwards == outs["none"].forwards).all() for out in outs.values()), "not the same forwards"
    seconds: dict[str, list[float]] = {words: [] for words in cases}
    for number in range(rounds):
        turn = number % len(cases)
        for words in cases[turn:] + cases[:turn]:
            begin = time.perf_counter()
            jaxdlm.decode(lm, prompts, policy, caches[words], **run)
            seconds[words].append(time.perf_counter() - begin)
    return {
        words: (
            statistics.median(seconds[words]),
            statistics.median(a / b for a, b in zip(seconds["none"], seconds[words], strict=True)),
            positions(lm, prompts, policy, caches[words], outs[words], run),
        )
        for words in cases
    }


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=None, metavar="CACHES", help="cases, separated by spaces or semicolons")
    parser.add_argument("--count", type=int, default=24, help="problems per task (default: 24)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument("--rows", type=int, default=4, help="rows of the timed batch (default: 4)")
    parser.add_argument("--steps", type=int, default=64, help="forwards of the timed policy (default: 64)")
    args = parser.parse_args()
    cases = list(CASES) if args.only is None else args.only.replace(";", " ").split()
    cases = cases if "none" in cases else ["none", *cases]
    lm = jaxdlm.load("tiny")
    print("| cache | right | forwards | positions / column | canvas 256: s | faster than none | positions / column |")
    print("|---|---|---|---|---|---|---|")
    timed = speed(lm, cases, args.rounds, args.rows, args.steps) if args.rounds else {}
    for words in cases:
        right, forwards, read = quality(lm, words, args.count) if args.count else (float("nan"),) * 3
        line = f"| {words} | {right:.3f} | {forwards:.1f} | {read:.1f} |"
        if timed:
            seconds, ratio, long = timed[words]
            line += f" {seconds:.2f} | {ratio:.1f} | {long:.1f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
