"""Held-out accuracy of an embedded model: `python scripts/accuracy.py [--model tiny] [--n 200]` prints a table.

Every task that the model was trained on: share of right answers at one token per forward (with its 95 % Wilson
interval) and with the threshold policy, and how many forwards the latter saves. A task below its gate is "not learned".
"""

import argparse
import math

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import LEARNABLE, TASKS, make


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def score(lm: jd.LM, name: str, policy: str, n: int, columns: int) -> tuple[list[bool], np.ndarray]:
    examples = make(name, n, "test", 0)
    out = jd.decode(lm, [example.prompt for example in examples], policy=policy, max_new=columns, block=columns)
    checked = zip(examples, out.tokens, strict=True)
    return [TASKS[name].check(example, row.tolist()).correct for example, row in checked], out.forwards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--n", type=int, default=200, help="held-out examples per task")
    args = parser.parse_args()
    lm = jd.load(args.model)
    print("| task | one token per forward | 95 % interval | gate | threshold 0.9 | forwards saved |")
    print("|---|--:|--:|--:|--:|--:|")
    learned = 0
    for name in LEARNABLE:
        columns = max(16, TASKS[name].canvas)
        slow, slow_forwards = score(lm, name, "low_confidence", args.n, columns)
        fast, fast_forwards = score(lm, name, "threshold", args.n, columns)
        low, high = wilson(sum(slow), args.n)
        reached = sum(slow) / args.n >= TASKS[name].gate
        learned += reached
        verdict = f"{100 * TASKS[name].gate:.0f}" + ("" if reached else ", not learned")
        saved = f"{slow_forwards.sum() / fast_forwards.sum():.1f} ×" if reached else "–"
        print(
            f"| `{name}` | {100 * sum(slow) / args.n:.1f} | {100 * low:.1f} – {100 * high:.1f} | {verdict} "
            f"| {100 * sum(fast) / args.n:.1f} | {saved} |",
            flush=True,
        )
    print(f"\n{learned} of {len(LEARNABLE)} tasks reach their gate.")


if __name__ == "__main__":
    main()
