"""What weight-only quantisation costs a model, against the same model in bfloat16.

    python -m benchmarks.quantise --model tiny --problems 50

Error per tensor, divergence of the logits and agreement of the arg max on random token ids; for the embedded models also
the accuracy on held-out problems. One JSON object per line; `--tensors` adds every tensor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import LEARNABLE, TASKS, make
from jaxdlm.quant import quantize_params

SETTINGS = ((8, None, "uniform"), (8, None, "power"), (4, 64, "uniform"), (4, 64, "power"))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def accuracy(lm: jd.LM, problems: int) -> float:
    """Share of right answers over all tasks of the mixture, threshold 0.9; tasks of one canvas run as one batch."""
    canvases: dict[int, list[str]] = {}
    for name in LEARNABLE:
        canvases.setdefault(max(16, TASKS[name].canvas), []).append(name)
    right = []
    for columns, names in canvases.items():
        examples = [example for name in names for example in make(name, problems, "test", 0)]
        out = jd.decode(lm, [x.prompt for x in examples], policy="threshold", max_new=columns, block=columns)
        checked = zip(examples, out.tokens, strict=True)
        right += [TASKS[example.task].check(example, row.tolist()).correct for example, row in checked]
    return float(np.mean(right))


def models(lm: jd.LM) -> Iterator[tuple[dict[str, Any], jd.LM, list[Any]]]:
    """(setting, model, reports per tensor); the first is the model as it is."""
    yield {"bits": 16, "group": None, "kind": lm.config.param_dtype}, lm, []
    for bits, group, kind in SETTINGS:
        params, reports = quantize_params(lm.params, bits, kind=kind, group=group)
        yield {"bits": bits, "group": group, "kind": kind}, dataclasses.replace(lm, params=params), reports


def main() -> None:
    """Quantise, compare, print."""
    parser = argparse.ArgumentParser(description="Cost of weight-only quantisation.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--problems", type=int, default=0, help="held-out problems per task (embedded models)")
    parser.add_argument("--tensors", action="store_true", help="one line per tensor as well")
    args = parser.parse_args()
    lm = jd.load(args.model, dtype="bfloat16")
    ids = np.random.default_rng(0).integers(0, lm.config.vocab_size, (args.rows, args.length)).astype(np.int32)
    exact = log_softmax(np.asarray(lm.logits(ids)))
    for setting, model, reports in models(lm):
        ours = log_softmax(np.asarray(model.logits(ids)))
        for report in reports if args.tensors else ():
            print(json.dumps(report._asdict()))
        found = {
            "worst_tensor_error": round(max((report.relative_error for report in reports), default=0.0), 4),
            "kl": round(float(np.mean(np.sum(np.exp(exact) * (exact - ours), -1))), 5),
            "argmax_equal": round(float(np.mean(exact.argmax(-1) == ours.argmax(-1))), 4),
        }
        if reports:
            found["bytes"] = round(sum(r.bytes_after for r in reports) / sum(r.bytes_before for r in reports), 3)
        if args.problems:
            found["accuracy"] = round(accuracy(model, args.problems), 4)
        print(json.dumps(setting | found), flush=True)


if __name__ == "__main__":
    main()
