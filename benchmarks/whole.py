"""What a whole call costs beyond its compiled loop: `decode` over the loop that it runs, and where the rest goes.

    taskset -c 1 python benchmarks/whole.py                    # tiny, 8 rows, 16 new tokens
    taskset -c 1 python benchmarks/whole.py --model tiny-ar --policy autoregressive

The loop is the one dispatch of a `decode`, with its rows laid out and on the device. Text in, text out; compiled before;
processor time, the ways in turns, medians of ratios within a round, and the least times of all rounds.
"""

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from contest import in_turns

import jaxdlm as jd
from jaxdlm import _decode


def spent(works: dict[str, Callable[[], Any]], rounds: int, times: int) -> dict[str, list[float]]:
    """Processor seconds of one call of each, the mean of `times` calls, round by round."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for name in in_turns(works, rounds):
        begin = time.process_time()
        for _ in range(times):
            works[name]()
        found[name].append((time.process_time() - begin) / times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--policy", default=None)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--max-new", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", type=int, default=10, help="calls of a round")
    parser.add_argument(
        "--profile", action="store_true", help="where the calls of the last number of rows spend their time"
    )
    args = parser.parse_args()
    lm = jd.load(args.model)
    print("| rows | loop, least | call, least | call / loop, median |\n|--:|--:|--:|--:|")
    for rows in args.rows:
        prompts = [lm.tokenizer.examples[i % len(lm.tokenizer.examples)] for i in range(rows)]
        parts = _decode.prepare(lm, prompts, args.policy, max_new=args.max_new).parts

        def loop(parts: Any = parts) -> None:
            for part in parts:
                if isinstance(part, _decode.Diffusion):
                    jax.block_until_ready(_decode._run(part.batch.rows, part.decoding, part.save))
                else:
                    jax.block_until_ready(_decode.generate(part.rows, part.decoding, *part._sizes()))

        def call(prompts: Any = prompts) -> None:
            jd.decode(lm, prompts, args.policy, max_new=args.max_new).text  # noqa: B018 (made when asked for)

        found = spent({"loop": loop, "call": call}, args.rounds, args.times)
        ratio = statistics.median(a / b for a, b in zip(found["call"], found["loop"], strict=True))
        least = {name: 1e3 * min(values) for name, values in found.items()}
        print(f"| {rows} | {least['loop']:.2f} ms | {least['call']:.2f} ms | {ratio:.2f} |", flush=True)
    if args.profile:
        with cProfile.Profile() as profile:
            for _ in range(5 * args.times):
                call()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
