"""Columns computed, and answers right, with canvases by `length_prior` and with one canvas for all; and what `count_bonus` does.

    nice -n 10 python benchmarks/lengths.py --n 6

Held-out problems of the tasks that `tiny` has learned, whose answers have from 2 to some 20 tokens. Columns of a row: its
forwards times those that one reads, prompt and canvas; of the prior also the forward that reads the prompt. `ended`: rows whose
text ends inside its canvas. The same problems in every line. Then, on shuffle (--shuffles 0: left out), in a fixed number of
forwards, the share of right answers (each name once) by the weight of `count_bonus`.
"""

import argparse
import json
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import LEARNABLE, TASKS, make
from jaxdlm.layout import bucket_of, encode


def measured(lm: Any, examples: list[Any], columns: Any, policy: Any, first: int) -> dict[str, Any]:
    """first: columns of a prompt's own forward, 0 or 1 times its bucket."""
    prompts = [each.prompt for each in examples]
    rooms = columns if isinstance(columns, list) else [columns] * len(prompts)
    out = jd.decode(lm, prompts, policy, max_new=columns, rows_per_program=16)  # lines share programs
    bucket = np.array([bucket_of(len(encode(lm, prompt, 0, 1, False))) for prompt in prompts])
    cost = out.forwards * (bucket + rooms) + first * bucket
    right = [TASKS[each.task].check(each, text).correct for each, text in zip(examples, out.text, strict=True)]
    ended = [str(status) == "eos" for status in out.status]
    return {
        "rows": len(prompts), "right": round(float(np.mean(right)), 4), "columns": round(float(cost.mean()), 1),
        "canvas": round(float(np.mean(rooms)), 1), "forwards": round(float(out.forwards.mean()), 2),
        "ended": round(float(np.mean(ended)), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=6, help="problems of each task")
    parser.add_argument("--most", type=int, default=64, help="the canvas for all")
    parser.add_argument("--quantiles", type=float, nargs="+", default=[0.9, 0.99])
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 1, 4])
    parser.add_argument("--shuffles", type=int, default=48)
    parser.add_argument("--forwards", type=int, default=8, help="of each shuffle, on 16 columns")
    args = parser.parse_args()
    lm = jd.load("tiny")
    names = [name for name in LEARNABLE if TASKS[name].canvas <= args.most]
    examples = [each for name in names for each in make(name, args.n, "test", 0)]
    prompts = [each.prompt for each in examples]
    if examples:
        base = measured(lm, examples, args.most, "threshold", 0)
        print(json.dumps({"canvas": "one for all", **base}), flush=True)
        for quantile in args.quantiles:
            line = measured(
                lm, examples, jd.length_prior(lm, prompts, quantile=quantile, most=args.most), "threshold", 1
            )
            print(
                json.dumps({"quantile": quantile, **line, "fewer": round(base["columns"] / line["columns"], 2)}),
                flush=True,
            )
    shuffles = make("shuffle", args.shuffles, "test", 0) if args.shuffles else []
    for weight in args.weights if shuffles else ():
        rules = jd.rules
        policy = jd.chain(rules.count_bonus(weight), rules.sample(), rules.select_top_k(args.forwards))
        print(json.dumps({"bonus": weight, **measured(lm, shuffles, 16, policy, 0)}), flush=True)


if __name__ == "__main__":
    main()
