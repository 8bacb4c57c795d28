"""A target tuned to say lexical units at once (LUD, arXiv 2405.15208), on text that it wrote itself.

A token whose probability by the target is at least alpha goes on the unit of the one before it, up to k + 1 tokens. Of a unit
[s..e] the token s is learned behind the text before it, and the token s + j at the j-th of e - s pads behind that text:
Σ_t CE(y_t) + Σ CE at pads, each a mean. All units of a text share one forward: a pad for each token that is not a unit's
first, behind the whole text, of which it sees what stands before its unit and the pads before it in that.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.train import lora
from jaxdlm.train.batches import order
from jaxdlm.train.recipes._written import Texts, fitted, texts_of
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

FILE = "lud.safetensors"


class UnitTexts(NamedTuple):
    """Texts, and for each column where its unit begins; outside answers each is its own."""

    tokens: Int32[Array, "N L"]
    first: Int32[Array, "N"]
    stop: Int32[Array, "N"]
    begin: Int32[Array, "N L"]


class Tuning(NamedTuple):
    """What learns: the pad's row, and updates of the projections."""

    pad: Float32[Array, "1 D"]
    update: Mapping[str, Mapping[str, Array]]


def units(sure: np.ndarray, first: np.ndarray, stop: np.ndarray, alpha: float, most: int) -> np.ndarray:
    """int32[N, L]: where the unit of each column begins; from each row's `first` column on to its `stop`.

    sure: probabilities of the tokens. most: tokens of a unit.
    """
    begin = np.broadcast_to(np.arange(sure.shape[1], dtype=np.int32), sure.shape).copy()
    for column in range(1, sure.shape[1]):
        before = begin[:, column - 1]
        joins = (sure[:, column] >= alpha) & (column - before < most) & (column > first) & (column < stop)
        begin[:, column] = np.where(joins, before, column)
    return begin


def probabilities(model: Model, params: PyTree, texts: Texts, batch: int = 64) -> np.ndarray:
    """float32[N, L]: p(token | all before it) by the target; of a row's first token 0."""

    @jax.jit
    def some(tokens: Array) -> Array:
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
        hidden = model.apply(params, tokens, position, position >= 0).hidden
        law = jax.nn.softmax(mask_invalid(model.head(params, hidden), model)[:, :-1], axis=2)
        picked = jnp.take_along_axis(law, tokens[:, 1:, None], axis=2)[:, :, 0]
        return jnp.pad(picked, [(0, 0), (1, 0)])

    tokens = np.asarray(texts.tokens)
    parts = [some(jnp.asarray(tokens[part])) for part in order(len(tokens), batch)]
    return np.concatenate([np.asarray(part) for part in parts])[: len(tokens)]


def marked(model: Model, params: PyTree, texts: Texts, alpha: float, most: int) -> UnitTexts:
    """The texts with the units that the target is sure of."""
    sure = probabilities(model, params, texts)
    begin = units(sure, np.asarray(texts.first), np.asarray(texts.stop), alpha, most)
    return UnitTexts(*texts, jnp.asarray(begin))


class Said(NamedTuple):
    """[B, L] each: log p of the tokens behind the text and at pads, whether a pad's likeliest is the token, what is learned of
    either."""

    text: Float32[Array, "B L"]
    pads: Float32[Array, "B L"]
    right: Bool[Array, "B L"]
    learns_text: Bool[Array, "B L"]
    learns_pads: Bool[Array, "B L"]


def said(tuning: Tuning, texts: UnitTexts, model: Model, params: PyTree) -> Said:
    """Of the token in each column: what the text before it says of it, and what its pad does."""
    (rows, columns), begin = texts.tokens.shape, texts.begin
    column = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], (rows, columns))
    pads = jnp.full_like(texts.tokens, model.config.vocab_size)
    mask = jnp.zeros((rows, 2 * columns, 2 * columns), bool).at[:, :columns, :columns].set(True)
    mask = mask.at[:, columns:, :columns].set(column[:, None, :] < begin[:, :, None])
    inside = (begin[:, :, None] == begin[:, None, :]) & (column > begin)[:, None, :]
    mask = mask.at[:, columns:, columns:].set(inside & (column[:, None, :] <= column[:, :, None]))
    tuned = Weights(merge(params, tuning.update, 1.0), tuning.pad)
    target = Prompted(model)
    position = jnp.concatenate([column, jnp.maximum(column - 1, 0)], axis=1)  # a pad reads what stands before its token
    tokens = jnp.concatenate([texts.tokens, pads], axis=1)
    hidden = target.apply(tuned, tokens, position, jnp.ones(tokens.shape, bool), mask=mask).hidden
    before = jnp.concatenate([hidden[:, :1], hidden[:, : columns - 1]], axis=1)
    logits = [mask_invalid(target.head(tuned, each), model) for each in (before, hidden[:, columns:])]
    text, own = (_picked(jax.nn.log_softmax(each), texts.tokens) for each in logits)
    answers = (column >= texts.first[:, None]) & (column < texts.stop[:, None])
    return Said(text, own, jnp.argmax(logits[1], axis=2) == texts.tokens, answers, answers & (column > begin))


def _picked(logp: Array, tokens: Array) -> Array:
    return jnp.take_along_axis(logp, tokens[:, :, None], axis=2)[:, :, 0]


def loss(
    tuning: Tuning, texts: UnitTexts, key: Array, model: Model, params: PyTree, weight: float
) -> Float32[Array, ""]:
    """Mean CE of the answers' tokens, and `weight` times that at their pads."""
    one = said(tuning, texts, model, params)
    return -_mean(one.text, one.learns_text) - weight * _mean(one.pads, one.learns_pads)


def _mean(x: Array, where: Array) -> Float32[Array, ""]:
    return jnp.sum(jnp.where(where, x, 0)) / jnp.maximum(jnp.sum(where, dtype=jnp.float32), 1)


def accuracy(tuning: Tuning, texts: UnitTexts, model: Model, params: PyTree, k: int) -> list[float]:
    """How often the likeliest token at pad 1, 2, ..., k is the text's."""

    @jax.jit
    def counts(tuning: Tuning) -> tuple[Array, Array]:
        one = said(tuning, texts, model, params)
        number = jnp.arange(texts.tokens.shape[1], dtype=jnp.int32)[None] - texts.begin
        at = [one.learns_pads & (number == pad) for pad in range(1, k + 1)]
        return jnp.stack([jnp.sum(one.right & each) for each in at]), jnp.stack([jnp.sum(each) for each in at])

    right, every = counts(tuning)
    return [round(float(a) / max(1, int(b)), 4) for a, b in zip(right, every, strict=True)]


def cut(update: Mapping[str, Mapping[str, Array]], keep: int) -> dict[str, dict[str, Array]]:
    """The nearest updates of rank `keep`, in every layer."""
    made = {}
    for name, pair in update.items():
        a, b = np.asarray(pair["a"], np.float64), np.asarray(pair["b"], np.float64)
        (layers, *_, rank), wide = a.shape, b.reshape(*b.shape[:2], -1)
        left, size, right = np.linalg.svd(a.reshape(layers, -1, rank) @ wide, full_matrices=False)
        root = np.sqrt(size[:, :keep])
        sides = {"a": left[:, :, :keep] * root[:, None, :], "b": root[:, :, None] * right[:, :keep]}
        shapes = {"a": (*a.shape[:-1], -1), "b": (layers, -1, *b.shape[2:])}
        made[name] = {side: jnp.asarray(value.reshape(shapes[side]), jnp.float32) for side, value in sides.items()}
    return made


def untuned(lm: Any, rank: int, seed: int) -> Tuning:
    """The target as it is, with the mean of its embeddings for the pad."""
    pad = jnp.mean(jnp.asarray(lm.params["embed"], jnp.float32), axis=0, keepdims=True)
    return Tuning(pad, lora.init(lm.config, rank, jax.random.key(seed)))


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 1920, canvas: int = 24, steps: int = 1200,
    batch: int = 8, k: int = 3, alpha: float = 0.9, weight: float = 1.0, rank: int = 16, keep: int = 5,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{lud.safetensors, lud.json, lud.jsonl}; returns the record.

    lm: the target. texts: None: the benchmark's training split, `rows` of it. k: pads. alpha: probability from which a token
    goes on a unit. weight: of the loss at pads. rank: of the updates (the paper tunes all weights). keep: ranks that are stored,
    the largest of each projection. A tenth of the prompts is held out, by which the record says what was learned before that
    cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, sides = texts_of(lm, texts, rows=rows, canvas=canvas, seed=seed)
    mine, held = (marked(lm.model, lm.params, side, alpha, k + 1) for side in sides)
    value = functools.partial(loss, model=lm.model, params=lm.params, weight=weight)
    begin = untuned(lm, rank, seed)
    made, curve = fitted(value, begin, mine, held, steps=steps, batch=batch, seed=seed, rate=2e-3, clip=1.0)
    write(folder / FILE, stored := Tuning(made.pad, cut(made.update, keep)), lm, k)
    write_curve(folder / "lud.jsonl", curve)
    record = {
        "recipe": "lud",
        "command": f"python scripts/train.py --recipe lud --model {lm.name} --rows {count} --steps {steps} --output DIR",
        "target": str(lm.name), "target_fingerprint": fingerprint(lm.params), "texts": count, "steps": steps, "seed": seed,
        "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(stored))), "rank": rank, "kept": keep,
        "pads": k, "alpha": alpha,
        "held_out_loss": curve[-1]["held"], "accuracy": accuracy(made, held, lm.model, lm.params, k),
        "tokens_per_unit": [round(tokens_per_unit(side), 3) for side in (mine, held)],
    }  # fmt: skip
    write_record(folder / "lud.json", record)
    return record


def tokens_per_unit(texts: UnitTexts) -> float:
    column = np.arange(texts.tokens.shape[1])[None]
    inside = (column >= np.asarray(texts.first)[:, None]) & (column < np.asarray(texts.stop)[:, None])
    return float(inside.sum() / max(1, (inside & (np.asarray(texts.begin) == column)).sum()))


def write(file: Path, tuning: Tuning, lm: Any, k: int) -> None:
    """Writes what `drafters.lexical.read_tuned` reads, in bfloat16."""
    from jaxdlm.checkpoint.safetensors import write_safetensors

    sides = {f"{name}.{side}": value for name, pair in tuning.update.items() for side, value in pair.items()}
    arrays = {
        name: np.asarray(value).astype(ml_dtypes.bfloat16) for name, value in ({"pad": tuning.pad} | sides).items()
    }
    notes = {"vocab_size": str(lm.config.vocab_size), "pads": str(k), "fingerprint": fingerprint(lm.params)}
    write_safetensors(file, arrays, {"format": "jaxdlm", "method": "lud", "target": str(lm.name)} | notes)
