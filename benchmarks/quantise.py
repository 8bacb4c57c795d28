"""What weight-only quantisation costs a model: error per tensor, divergence of the logits, agreement of the arg max.

    python -m benchmarks.quantise --model tiny

Compared with the same model unquantised, on random token ids; one JSON object per line, `--tensors` adds every tensor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np

import jaxdlm as jd
from jaxdlm.quant import quantize_params

SETTINGS = ((8, None, "uniform"), (8, None, "power"), (4, 64, "uniform"), (4, 64, "power"))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def main() -> None:
    """Quantise, compare, print."""
    parser = argparse.ArgumentParser(description="Cost of weight-only quantisation.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--tensors", action="store_true", help="one line per tensor as well")
    args = parser.parse_args()
    lm = jd.load(args.model)
    ids = np.random.default_rng(0).integers(0, lm.config.vocab_size, (args.rows, args.length)).astype(np.int32)
    exact = log_softmax(np.asarray(lm.logits(ids)))
    for bits, group, kind in SETTINGS:
        params, reports = quantize_params(lm.params, bits, kind=kind, group=group)
        ours = log_softmax(np.asarray(dataclasses.replace(lm, params=params).logits(ids)))
        for report in reports if args.tensors else ():
            print(json.dumps(report._asdict()))
        print(
            json.dumps(
                {
                    "bits": bits,
                    "group": group,
                    "kind": kind,
                    "worst_tensor_error": round(max(report.relative_error for report in reports), 4),
                    "kl": float(np.mean(np.sum(np.exp(exact) * (exact - ours), -1))),
                    "argmax_equal": float(np.mean(exact.argmax(-1) == ours.argmax(-1))),
                    "bytes": sum(r.bytes_after for r in reports) / sum(r.bytes_before for r in reports),
                }
            )
        )


if __name__ == "__main__":
    main()
