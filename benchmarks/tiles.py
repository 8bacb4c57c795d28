"""What `rows_per_program` takes: time of a decode in programs of R rows over that of all rows in one program.

    taskset -c 1 python benchmarks/tiles.py                        # tiny, 32 rows and one
    taskset -c 1 python benchmarks/tiles.py --model smollm2 --policy autoregressive --max-new 16 --rounds 3

All ways take turns on the same prompts, of one bucket; whole calls, compiled before, by processor time and by the clock. A
way with R above the number of rows is one row with R - 1 idle ones beside it. Medians of ratios within a round.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from contest import clock, in_turns

import jaxdlm as jd


def asked(lm: Any, count: int) -> list[list[int]]:
    """`count` prompts of one bucket: our own, or of a model of few words its tasks."""
    from jaxdlm.eval import prompts
    from jaxdlm.eval.task import make
    from jaxdlm.layout import bucket_of

    chat = not lm.tokenizer.closed
    texts = [each.messages for each in prompts.of_each()] if chat else [each.prompt for each in make("reverse", count)]
    groups: dict[int, list[list[int]]] = {}
    for ids in map(lm.tokenizer.encode_prompt, texts):
        groups.setdefault(bucket_of(len(ids)), []).append(list(ids))
    return list(itertools.islice(itertools.cycle(max(groups.values(), key=len)), count))


def timed(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(processor seconds, seconds) of every call of each, after one round to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()
    for name in in_turns(works, rounds):
        busy = time.process_time()
        wall = clock(works[name])
        times[name].append((time.process_time() - busy, wall))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--policy", default="threshold")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rows-per-program", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--max-new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print("| weights | rows | rows per program | of the processor time | of the time |\n|---|--:|--:|--:|--:|")
    for dtype, rows in itertools.product(args.dtype, args.rows):
        lm = jd.load(args.model, dtype=dtype)
        prompts = asked(lm, rows)
        sizes = [size for size in args.rows_per_program if rows % size == 0 or rows == 1]
        works = {
            size: lambda size=size: jd.decode(lm, prompts, args.policy, max_new=args.max_new, rows_per_program=size).tokens
            for size in (None, *sizes)
        }  # fmt: skip
        times = timed(works, args.rounds)
        for size in sizes:
            pairs = list(zip(times[size], times[None], strict=True))
            busy, wall = (statistics.median(a[which] / b[which] for a, b in pairs) for which in (0, 1))
            print(f"| {dtype} | {rows} | {size} | {busy:.2f} | {wall:.2f} |", flush=True)


if __name__ == "__main__":
    main()
