"""Decisions of a model on labelled rows: accuracy, Brier score, calibration error with its interval and floor, reads.

    taskset -c 1 python benchmarks/quality.py                          # smollm2, the 200 rows of labelled.py
    taskset -c 1 python benchmarks/quality.py --plot reliability.svg   # extra plot

Every kind of question by several readers: labels as listed, pooled over orders, and with the contextual prior. Of scores also
the mean distance from the right level, and the ranked probability score, Σ over levels of (F - 1[level >= y])².
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.decisions import metrics

FILE = pathlib.Path(__file__).with_name("labelled.jsonl")
READERS: dict[str, dict[str, Any]] = {
    "as listed": {}, "all orders": {"orders": "cyclic"}, "orders, prior": {"orders": "cyclic", "prior": "contextual"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--plot", metavar="SVG", help="accuracy against stated probability, of the last reader")
    parser.add_argument("--readers", default=",".join(READERS))
    args = parser.parse_args()
    lm = jd.load(args.model)
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    kinds = list(dict.fromkeys(row["questions"][0]["name"] for row in rows))
    found: dict[str, Any] = {}
    for reader in args.readers.split(","):
        prompts, questions = [row["prompt"] for row in rows], [row["questions"] for row in rows]
        answers = jd.decide(lm, prompts, questions, ids=[row["id"] for row in rows], **READERS[reader])
        tops, rights = [], []
        for kind in sorted(kinds):
            own = [(answer[kind], row["answers"][kind]) for answer, row in zip(answers, rows) if kind in row["answers"]]
            p = np.array([list(decision.probabilities.values()) for decision, _ in own])
            y = np.array([list(decision.probabilities).index(label) for decision, label in own])
            quality = metrics.quality(p, y)._asdict()
            if own[0][0].type == "score":
                levels = np.arange(p.shape[1])
                passed = (levels[None, :] >= y[:, None]).astype(float)
                quality |= {"mean distance": float(np.abs(p @ levels - y).mean()),
                            "ranked probability score": float(((p.cumsum(1) - passed) ** 2).sum(1).mean())}  # fmt: skip
            told = {name: round(value, 3) for name, value in quality.items()}
            reads = sum(decision.forwards for decision, _ in own) / len(own)
            mass = float(np.mean([decision.label_mass for decision, _ in own]))
            found.setdefault(kind, {})[reader] = told | {"reads": round(reads, 1), "label mass": round(mass, 2)}
            tops, rights = [*tops, *p.max(1)], [*rights, *(p.argmax(1) == y)]
        if args.plot:
            from jaxdlm.eval import plots

            chart = plots.reliability(f"{lm.name}, {reader}", metrics.reliability(np.array(tops), np.array(rights)))
            pathlib.Path(args.plot).write_text(plots.svg(chart), encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
