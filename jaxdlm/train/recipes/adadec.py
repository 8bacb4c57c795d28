"""The entropy from which a model is worth a second look (AdaDec, arXiv 2506.08980), fitted to solved problems.

The model reads prompts and right answers. P(its best token is the right one | entropy H) = sigmoid(w H + b) is fitted to as many
right tokens as wrong ones; p* is the bar on it that tells most of a fifth that is held out, and the threshold the entropy there.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.adadec import FILE, entropy
from jaxdlm.train import prompts as sources
from jaxdlm.train.records import write_record
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

HELD, SEED = 0.2, 42  # as released


class Fit(NamedTuple):
    """threshold: nats. slope, offset: w and b. bar: p*. right: share of the held-out tokens that the bar tells; always: that of
    always saying "right"."""

    threshold: float
    slope: float
    offset: float
    bar: float
    right: float
    always: float


@functools.partial(jax.jit, static_argnames=("model",))
def _read(
    tokens: Int32[Array, "B L"], model: Model, params: PyTree
) -> tuple[Float32[Array, "B L-1"], Bool[Array, "B L-1"]]:
    """(the entropy before each token but the first, whether the token is the best)."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :], tokens.shape)
    hidden = model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden[:, :-1]

    def one(row: tuple[Array, Array]) -> tuple[Array, Array]:  # the logits of one row at a time
        logits = mask_invalid(model.head(params, row[0][None]), model)[0]
        return entropy(jax.nn.log_softmax(logits, axis=1)), jnp.argmax(logits, axis=1).astype(jnp.int32) == row[1]

    return jax.lax.map(one, (hidden, tokens[:, 1:]))


def collect(
    lm: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """(entropy in nats, whether the model's best token is the right one) of every token of the answers."""
    entropies, best = [], []
    longest = bucket_of(max(len(prompt) + len(answer) for prompt, answer in pairs))
    for first in range(0, len(pairs), batch):
        part = list(pairs[first : first + batch])
        tokens = np.zeros((batch, longest), np.int32)
        for row, (prompt, answer) in enumerate(part):
            tokens[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        h, top = map(np.asarray, _read(jnp.asarray(tokens), lm.model, lm.params))
        for row, (prompt, answer) in enumerate(part):
            own = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            entropies.append(h[row, own])
            best.append(top[row, own])
    return np.concatenate(entropies), np.concatenate(best)


def fit(entropies: np.ndarray, best: np.ndarray, seed: int = SEED) -> Fit:
    """Logistic regression (L2, C = 1, intercept free) on a balanced part, and the bar that is right most often on the rest.

    Raises InputError where one of the two kinds is missing.
    """
    sound = np.isfinite(entropies)
    h, y = entropies[sound].astype(np.float64), best[sound].astype(np.float64)
    random = np.random.default_rng(seed)
    order = random.permutation(len(h))
    held, seen = np.split(order, [int(HELD * len(h))])
    kinds = [seen[y[seen] == kind] for kind in (0.0, 1.0)]
    fewest = min(map(len, kinds))
    if not fewest or not len(held):
        raise InputError(
            f"{len(h)} tokens, {int(y.sum())} of which the model says: a threshold needs some of both kinds, give more prompts"
        )
    balanced = np.concatenate([random.permutation(kind)[:fewest] for kind in kinds])
    slope, offset = logistic(h[balanced], y[balanced])
    chance = 1 / (1 + np.exp(-(slope * h[held] + offset)))
    bars = np.arange(1, 100) / 100
    right = np.array([np.mean((chance >= bar) == (y[held] == 1)) for bar in bars])
    bar = float(bars[right.argmax()])
    if slope >= 0:
        raise InputError("the model is not surer where it is right: no threshold tells the two apart")
    threshold = (np.log(bar / (1 - bar)) - offset) / slope
    return Fit(round(float(max(threshold, 0.0)), 6), slope, offset, bar, float(right.max()), float(y[held].mean()))


def logistic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """argmin_{w, b} 1/2 w^2 - sum y log p + (1 - y) log(1 - p), p = sigmoid(w x + b), by Newton steps."""
    w = b = 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-(w * x + b)))
        slopes = np.array([w + np.sum((p - y) * x), np.sum(p - y)])
        s = p * (1 - p)
        bends = np.array([[1 + np.sum(s * x * x), np.sum(s * x)], [np.sum(s * x), np.sum(s) + 1e-12]])
        step = np.linalg.solve(bends, slopes)
        w, b = w - step[0], b - step[1]
        if np.abs(step).max() < 1e-10:
            break
    return float(w), float(b)


def run(
    lm: Any,
    folder: Path,
    *,
    texts: Sequence[tuple[Any, str]] | None = None,
    rows: int = 960,
    canvas: int = 24,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes folder/adadec.json; returns what it holds.

    lm: the model. texts: (prompt, right answer) pairs; None: the benchmark's training split, `rows` of it.
    """
    if texts is None:
        texts = [(example.prompt, example.answer) for example in sources.benchmark(rows, seed, canvas=canvas)]
    ends = list(lm.config.tokens.eos[:1])
    pairs = [(lm.tokenizer.encode_prompt(prompt), [*lm.tokenizer.encode(answer), *ends]) for prompt, answer in texts]
    entropies, best = collect(lm, pairs)
    fitted = fit(entropies, best)
    record = {
        "recipe": "adadec", "command": f"python scripts/train.py --recipe adadec --model {lm.name} --output DIR",
        "target": lm.name, "target_fingerprint": fingerprint(lm.params), "texts": len(texts), "tokens": len(entropies),
        "wrong": int((~best).sum()), "seed": seed, **fitted._asdict(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / FILE, record)
    return record
