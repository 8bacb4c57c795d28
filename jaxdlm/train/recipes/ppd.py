"""Prompt tokens of a target (PPD, arXiv 2405.18628), trained to say what it says some tokens later.

The target writes an answer. Behind a cut of it stand m prompt tokens; the j-th learns the target's distribution of the token j
further on, which the target gives with the j tokens before it written: Σ_j 0.8^(j-1) KL(target ‖ prompt token) / m. Nothing but
the m rows of embeddings is trained. Several cuts of a row share one forward; none sees another.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.drafters.ppd import FILE, RANKS
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.train.recipes._written import Texts, fitted, texts_of
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

DECAY = 0.8


def both(
    rows: Float[Array, "M D"], texts: Texts, cut: Int32[Array, "B C"], model: Model, params: PyTree
) -> tuple[Float32[Array, "B C M V"], Float32[Array, "B C M V"], Bool[Array, "B C M"]]:
    """(logits of the prompt tokens behind each cut, the target's there, where the text goes on so far)."""
    (batch, columns), (count, most) = texts.tokens.shape, (cut.shape[1], rows.shape[0])
    number = jnp.arange(most, dtype=jnp.int32)
    text = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], (batch, columns))
    place = (cut[:, :, None] + number[None, None, :]).reshape(batch, -1)  # j tokens behind the cut's last one
    token = jnp.broadcast_to(model.config.vocab_size + number, (batch, count, most)).reshape(batch, -1)
    owner = np.repeat(np.arange(count), most)
    mask = jnp.zeros((batch, columns + count * most, columns + count * most), bool).at[:, :columns, :columns].set(True)
    mask = mask.at[:, columns:, :columns].set(text[:, None, :] < jnp.repeat(cut, most, axis=1)[:, :, None])
    mask = mask.at[:, columns:, columns:].set(jnp.asarray(owner[:, None] == owner[None, :])[None])
    tokens, position = jnp.concatenate([texts.tokens, token], axis=1), jnp.concatenate([text, place], axis=1)
    prompted, weights = Prompted(model), Weights(params, rows)
    hidden = prompted.apply(weights, tokens, position, jnp.ones(tokens.shape, bool), mask=mask).hidden
    read = lambda hidden: mask_invalid(prompted.head(weights, hidden), model).reshape(batch, count, most, -1)  # noqa: E731
    theirs = jnp.take_along_axis(hidden[:, :columns], jnp.minimum(place, columns - 1)[:, :, None], axis=1)
    goes_on = place.reshape(batch, count, most) + 1 < texts.stop[:, None, None]
    return read(hidden[:, columns:]), jax.lax.stop_gradient(read(theirs)), goes_on


def loss(rows: Float[Array, "M D"], texts: Texts, cut: Array, model: Model, params: PyTree) -> Float32[Array, ""]:
    """Σ_j 0.8^(j-1) KL(target ‖ prompt token j), a mean over all that the texts go on for."""
    mine, theirs, goes_on = both(rows, texts, cut, model, params)
    logp, logq = jax.nn.log_softmax(theirs), jax.nn.log_softmax(mine)
    apart = jnp.sum(jnp.where(logp > -jnp.inf, jnp.exp(logp) * (logp - logq), 0), axis=-1)
    weight = goes_on.astype(jnp.float32) * (DECAY ** jnp.arange(rows.shape[0], dtype=jnp.float32))[None, None, :]
    return jnp.sum(apart * weight) / jnp.maximum(jnp.sum(weight), 1)


def cuts(texts: Texts, key: Array, count: int) -> Int32[Array, "B C"]:
    """Random columns of the answers: all before a cut is known."""
    span = jnp.maximum(texts.stop - texts.first, 1)
    u = jax.random.uniform(key, (texts.tokens.shape[0], count), jnp.float32)
    return texts.first[:, None] + jnp.floor(u * span[:, None]).astype(jnp.int32)


def fit(
    model: Model,
    params: PyTree,
    texts: Texts,
    held: Texts,
    *,
    distances: int,
    steps: int,
    batch: int,
    count: int,
    seed: int,
) -> tuple[Float32[Array, "M D"], list[dict[str, Any]]]:
    """(rows, curve): AdamW at 1e-2 with a cosine to zero, from embeddings of words of the texts."""
    words = jax.random.choice(jax.random.key(seed), texts.tokens.reshape(-1), (distances,))
    rows = jnp.asarray(params["embed"])[words].astype(jnp.float32)
    value = lambda rows, some, key: loss(rows, some, cuts(some, key, count), model, params)  # noqa: E731
    return fitted(value, rows, texts, held, steps=steps, batch=batch, seed=seed, rate=1e-2)


def accuracy(model: Model, params: PyTree, rows: Array, held: Texts, *, count: int = 8) -> np.ndarray:
    """float32[M, R]: how often the guess of rank k at distance j is the token that the target wrote."""
    cut = cuts(held, jax.random.key(1), count)
    mine, _, goes_on = jax.jit(functools.partial(both, model=model))(rows, held, cut, params=params)
    _, guess = jax.lax.top_k(mine, RANKS)
    column = cut[:, :, None] + 1 + jnp.arange(rows.shape[0], dtype=jnp.int32)[None, None, :]
    flat = jnp.minimum(column, held.tokens.shape[1] - 1).reshape(len(column), -1)
    truth = jnp.take_along_axis(held.tokens, flat, axis=1).reshape(column.shape)
    right = (guess == truth[..., None]) & goes_on[..., None]
    return np.asarray(right.sum((0, 1)) / np.maximum(np.asarray(goes_on.sum((0, 1)))[:, None], 1), np.float32)


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 480, canvas: int = 24, distances: int = 3,
    steps: int = 200, batch: int = 12, count: int = 4, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{ppd.safetensors, ppd.json, curve.jsonl}; returns the record.

    lm: the target. texts: None: the benchmark's training split, `rows` of it. distances: prompt tokens (3, paper). A tenth of
    the prompts is held out, by which `accuracy` is measured.
    """
    from jaxdlm.checkpoint.safetensors import write_safetensors

    folder.mkdir(parents=True, exist_ok=True)
    written, sides = texts_of(lm, texts, rows=rows, canvas=canvas, seed=seed)
    made, curve = fit(
        lm.model, lm.params, *sides, distances=distances, steps=steps, batch=batch, count=count, seed=seed
    )  # fmt: skip
    table = accuracy(lm.model, lm.params, made, sides[1])
    notes = {"format": "jaxdlm", "method": "ppd", "target": str(lm.name), "vocab_size": str(lm.config.vocab_size)}
    arrays = {"prompts": np.asarray(made, np.float32), "accuracy": table}
    write_safetensors(folder / FILE, arrays, notes | {"fingerprint": fingerprint(lm.params)})
    write_curve(folder / "curve.jsonl", curve)
    record = {
        "recipe": "ppd", "command": f"python scripts/train.py --recipe ppd --model {lm.name} --output DIR", "target": lm.name,
        "target_fingerprint": fingerprint(lm.params), "texts": written, "steps": steps, "seed": seed,
        "parameters": int(made.size), "held_out_loss": curve[-1]["held"],
        "accuracy": [[round(float(chance), 4) for chance in each[:3]] for each in table],
    }  # fmt: skip
    write_record(folder / "ppd.json", record)
    return record
