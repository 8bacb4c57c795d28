"""Texts that a target writes itself, and weights of a drafter that learn from them while the target rests."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

from jaxdlm import _decode, layout
from jaxdlm.errors import InputError
from jaxdlm.methods.autoregressive import autoregressive
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.heads import Trained, write_trained
from jaxdlm.train import prompts as sources
from jaxdlm.train.batches import filled
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Float32, Int32

Weights = TypeVar("Weights")
Sample = TypeVar("Sample")  # of texts: a tree of arrays [N, ...]


class Texts(NamedTuple):
    """Prompts with the target's greedy answers, padded on the right."""

    tokens: Int32[Array, "N L"]
    first: Int32[Array, "N"]  # where the answer begins
    stop: Int32[Array, "N"]  # where it ends


def check_autoregressive(lm: Any, recipe: str) -> None:
    """Raises InputError for a model that does not write from left to right."""
    config = lm.config
    if config.attention != "causal" or config.prediction != "next" or config.noise != "none":
        raise InputError(
            f"{lm.name} is a diffusion model: {recipe} takes an autoregressive one, --model tiny-ar for example"
        )


def answered(
    lm: Any, texts: Sequence[Any], policy: Any, *, canvas: int, batch: int, seed: int = 0,
    more: Callable[[Any], tuple[Any, ...]] = lambda rows: (),
) -> list[np.ndarray]:  # fmt: skip
    """Prompts with the target's answers, padded on the right [N, L]; where each answer begins; its forwards; and of the rows
    before their first forward whatever `more` makes [N, ...]."""
    parts = []
    for first, count, chunk in filled(texts, batch):
        fixed: dict[str, Any] = {"max_new": canvas, "seed": seed, "ids": range(first, first + batch)}
        out = _decode.decode(lm, chunk, policy, **fixed)
        rows, _ = layout.lay_out_rows(lm, chunk, raw=False, **fixed)
        tokens, start = np.array(rows.tokens), np.asarray(rows.start)
        for row, answer in enumerate(out.tokens):
            tokens[row, start[row] : start[row] + canvas] = answer
        parts.append([np.asarray(x)[:count] for x in (tokens, start, out.forwards, *more(rows))])
    wide = max(tokens.shape[1] for tokens, *_ in parts)
    padded = [np.pad(tokens, [(0, 0), (0, wide - tokens.shape[1])]) for tokens, *_ in parts]
    return [np.concatenate(padded), *(np.concatenate(side) for side in list(zip(*parts, strict=True))[1:])]


def write(lm: Any, texts: Sequence[Any], *, canvas: int, batch: int = 64) -> Texts:
    """The target's answers to all prompts."""
    tokens, first, forwards = answered(lm, texts, autoregressive(), canvas=canvas, batch=batch)
    return Texts(*map(jnp.asarray, (tokens, first, first + forwards)))


def apart(known: Texts) -> tuple[Texts, Texts]:
    """(nine in ten of the texts, the others, which are held out)."""
    held = np.arange(known.tokens.shape[0]) % 10 == 9
    mine, other = (jax.tree.map(lambda x, side=side: x[np.flatnonzero(side)], known) for side in (~held, held))
    return mine, other


def fitted(
    value: Callable[[Weights, Sample, Array], Float32[Array, ""]], weights: Weights, texts: Sample, held: Sample, *,
    steps: int, batch: int, seed: int, rate: float, clip: float | None = None,
) -> tuple[Weights, list[dict[str, Any]]]:  # fmt: skip
    """(weights of low value, curve): AdamW at `rate` with a cosine to zero, `batch` texts a step.

    value: of weights, texts and a key. clip: the norm that a step's gradient keeps to.
    """
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=0.0)
    optimizer = optimizer if clip is None else optax.chain(optax.clip_by_global_norm(clip), optimizer)
    every = max(1, steps // 20)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def some(weights: Weights, opt: Any, key: Array) -> tuple[Weights, Any, Array]:
        def one(carry: Any, key: Array) -> tuple[Any, Array]:
            weights, opt = carry
            pick, where = jax.random.split(key)
            part = jax.tree.map(lambda x: x[jax.random.randint(pick, (batch,), 0, x.shape[0])], texts)
            loss, grads = jax.value_and_grad(value)(weights, part, where)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, opt = optimizer.update(grads, opt, weights)
            return (optax.apply_updates(weights, updates), opt), loss

        (weights, opt), losses = jax.lax.scan(one, (weights, opt), jax.random.split(key, every))
        return weights, opt, jnp.mean(losses)

    measured = jax.jit(lambda weights: value(weights, held, jax.random.key(0)))
    opt, curve = optimizer.init(weights), []
    for step in range(every, steps + 1, every):
        weights, opt, loss = some(weights, opt, jax.random.fold_in(jax.random.key(seed), step))
        curve.append({"step": step, "loss": round(float(loss), 5), "held": round(float(measured(weights)), 5)})
    return weights, curve


def texts_of(
    lm: Any, texts: Sequence[Any] | None, *, rows: int, canvas: int, seed: int
) -> tuple[int, tuple[Texts, Texts]]:
    """(how many, `apart`) of the target's answers to these prompts; None: `rows` of the benchmark's training split."""
    if texts is None:
        texts = [example.prompt for example in sources.benchmark(rows, seed, canvas=canvas)]
    return len(texts), apart(write(lm, texts, canvas=canvas))


def stored(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """The weights as they are stored, in bfloat16."""
    return {leaf: value.astype(jnp.bfloat16).astype(jnp.float32) for leaf, value in leaves.items()}


def finish(
    lm: Any, folder: Path, kind: str, trained: Trained, curve: list[dict[str, Any]], *, method: str | None = None,
    **figures: Any,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{KIND.safetensors, KIND.json, KIND.jsonl}; returns the record. method: whose file it is, where not KIND's."""
    mark = fingerprint(lm.params)
    file = folder / f"{kind}.safetensors"
    write_trained(file, method or kind, trained._replace(made_for=mark), ml_dtypes.bfloat16, target=str(lm.name))
    write_curve(folder / f"{kind}.jsonl", curve)
    record = {
        "recipe": kind, "command": f"python scripts/train.py --recipe {kind} --model {lm.name} --output DIR",
        "target": str(lm.name), "target_fingerprint": mark,
        "parameters": int(sum(value.size for leaf, value in trained.leaves.items() if leaf != "ids")),
        "held_out_loss": curve[-1]["held"], **figures,
    }  # fmt: skip
    write_record(folder / f"{kind}.json", record)
    return record
