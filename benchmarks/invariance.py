"""How many rows differ when other rows stand beside them, or when a lossless draft writes them: none should.

    python benchmarks/invariance.py                      # SmolLM2 (`jaxdlm.load("smollm2")`), bfloat16 and float32
    python benchmarks/invariance.py --model DIR --dtype bfloat16 --policies threshold --each 8

Each prompt of `jaxdlm eval`'s own set is decoded in one batch with all others (by their columns), and then alone, by
fours with other neighbours, and in programs of eight rows (`rows_per_program`); greedy answers of an autoregressive model
by `lookup`, too. Prints a JSON object per type of the weights: rows that were compared, rows whose tokens differ, and rows
whose scores do.
"""

import argparse
import json
from typing import Any


def rows_of(lm: Any, asked: list[Any], which: Any, policy: str, **run: Any) -> dict[int, tuple[Any, Any]]:
    import jaxdlm as jd

    out = jd.decode(lm, [asked[row] for row in which], policy, ids=[int(row) for row in which], **run)
    return {int(row): (out.tokens[at].tolist(), out.score[at].tobytes()) for at, row in enumerate(which)}


def compared(lm: Any, asked: list[Any], policy: str, draft: str | None, alone: int, **run: Any) -> dict[str, Any]:
    import numpy as np

    random, count, found = np.random.default_rng(0), len(asked), {}
    whole = rows_of(lm, asked, range(count), policy, **run)
    parts = {"alone": [[row] for row in range(min(alone, count))],
             "fours": [list(four) for four in np.array_split(random.permutation(count), max(1, count // 4))]}  # fmt: skip
    for name, groups in parts.items():
        found[name] = {
            key: value for group in groups for key, value in rows_of(lm, asked, group, policy, **run).items()
        }
    found["programs of eight"] = rows_of(lm, asked, range(count), policy, rows_per_program=8, **run)
    if draft is not None:
        found[draft] = rows_of(lm, asked, range(count), draft, **run)
    return {
        name: {
            "rows": len(rows), "tokens differ": sum(whole[row][0] != rows[row][0] for row in rows),
            "scores differ": sum(whole[row] != rows[row] for row in rows),
        }
        for name, rows in found.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows that depend on what is decoded beside them.")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--policies", nargs="+", default=["autoregressive", "autoregressive,temperature=1.0"])
    parser.add_argument("--draft", default="lookup,k=8", help="lossless: of greedy policies")
    parser.add_argument("--each", type=int, default=4, help="prompts of each of the ten kinds")
    parser.add_argument("--alone", type=int, default=24, help="rows that are decoded alone as well")
    parser.add_argument("--max-new", type=int, default=24)
    args = parser.parse_args()
    import jaxdlm as jd
    from jaxdlm.eval.prompts import of_each

    asked = [list(each.messages) for each in of_each(args.each)]
    for dtype in args.dtype:
        lm = jd.load(args.model, dtype=dtype)
        for policy in args.policies:
            greedy = lm.config.tokens.mask is None and "temperature" not in policy
            line = compared(
                lm, asked, policy, args.draft if greedy else None, args.alone, max_new=args.max_new, stop=False
            )
            print(json.dumps({"dtype": dtype, "policy": policy, **line}), flush=True)


if __name__ == "__main__":
    main()
