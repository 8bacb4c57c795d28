"""Key steps of a model for `layer_reuse`: those without which its tokens change most (after Faster Diffusion, arXiv 2312.09608).

The paper chooses steps by looking at how fast an encoder's features change. Here the question is asked of the tokens: beginning
with step 0, the step that brings most columns back to what is written without a cache is added, until enough agree.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm import _decode
from jaxdlm.caches.layer_reuse import FILE, layer_reuse
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.train import prompts as sources
from jaxdlm.train.records import write_curve, write_record

ENOUGH = 0.99  # of the columns


def agreement(
    lm: Any, texts: Sequence[Any], keys: Sequence[int], depth: int, run: dict[str, Any], wanted: np.ndarray
) -> float:
    """Share of the columns that read as without a cache."""
    out = _decode.decode(lm, texts, "low_confidence", layer_reuse(depth, tuple(keys)), **run)
    return float((out.tokens == wanted).mean())


def learn(
    lm: Any, texts: Sequence[Any], *, canvas: int, block: int, depth: int, most: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """(the key steps, the curve): greedily, the lowest step on a tie."""
    run: dict[str, Any] = {"max_new": canvas, "block": block, "save": "none", "stop": False}
    wanted = _decode.decode(lm, texts, "low_confidence", **run).tokens
    steps, keys = range(1, min(block, canvas)), [0]
    full = lambda keys: sorted(keys) + [0] * (most + 1 - len(keys))  # noqa: E731  one program for all
    curve: list[dict[str, Any]] = [
        {"keys": [0], "agree": round(agreement(lm, texts, full(keys), depth, run, wanted), 4)}
    ]
    while len(keys) <= most and curve[-1]["agree"] < ENOUGH and len(keys) <= len(steps):
        tried = {
            step: agreement(lm, texts, full([*keys, step]), depth, run, wanted) for step in steps if step not in keys
        }
        best = max(tried, key=lambda step: (tried[step], -step))
        keys.append(best)
        curve.append({"keys": sorted(keys), "agree": round(tried[best], 4)})
    return sorted(keys), curve


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 48, canvas: int = 16, depth: int | None = None,
    steps: int = 4, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{layer_reuse.json, curve.jsonl}; returns the record.

    texts: prompts; None: the benchmark's training split. canvas: columns that they are answered on, in one block. depth: layers
    that are reused; None: all but the last. steps: key steps at most, besides 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layers = lm.config.num_layers
    depth = layers - 1 if depth is None else depth
    if not 1 <= depth < layers:
        raise InputError(f"depth={depth}: {lm.name} has {layers} layers, reuse from 1 to {layers - 1}")
    texts = (
        [example.prompt for example in sources.benchmark(rows, seed, canvas=canvas)]
        if texts is None
        else list(texts)[:rows]
    )
    keys, curve = learn(lm, texts, canvas=canvas, block=canvas, depth=depth, most=steps)
    write_curve(folder / "curve.jsonl", curve)
    record = {
        "recipe": "layer_reuse", "command": "python scripts/train.py --recipe layer_reuse --output DIR", "model": lm.name,
        "fingerprint": fingerprint(lm.params), "prompts": len(texts), "canvas": canvas, "seed": seed, "depth": depth,
        "keys": keys, "agree": curve[-1]["agree"], "without": curve[0]["agree"],
    }  # fmt: skip
    write_record(folder / FILE, record)
    return record
