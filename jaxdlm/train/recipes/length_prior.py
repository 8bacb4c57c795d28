"""The counting head of a model (CPPD, arXiv 2307.12270): how many columns its own answers take, from the prompt's hidden states.

Labels are the lengths of the answers that the model itself writes, so that any prompts do. Cross-entropy over lengths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdlm import _decode
from jaxdlm.layout import encode
from jaxdlm.lengths import KIND, CountingHead, canvas_of, features, length_logits, quantile_columns
from jaxdlm.models.params import fingerprint
from jaxdlm.train import prompts as sources
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Float32, Int32

WIDTH, RATE, DECAY, EVERY = 64, 3e-3, 1e-2, 50


def lengths(lm: Any, texts: Sequence[Any], columns: int, batch: int = 64) -> Int32[np.ndarray, "N"]:
    """Columns of each answer with its end of text; `columns` + 1 where it does not end within so many."""
    out = _decode.decode(lm, texts, max_new=columns, save="none", rows_per_program=batch)
    ended = np.isin(out.tokens, out.ends)
    return np.where(ended.any(1), ended.argmax(1) + 1, columns + 1).astype(np.int32)


def start(x: np.ndarray, classes: int, seed: int) -> CountingHead:
    """A head that knows the mean and the spread of what it reads, and nothing else."""
    keys = jax.random.split(jax.random.key(seed), 2)
    draw = lambda key, *shape: jax.random.normal(key, shape) / np.sqrt(np.float32(shape[0]))  # noqa: E731
    w1, w2 = draw(keys[0], x.shape[1], WIDTH), draw(keys[1], WIDTH, classes)
    return CountingHead(
        jnp.asarray(x.mean(0)), jnp.asarray(x.std(0) + 1e-4), w1, jnp.zeros(WIDTH), w2, jnp.zeros(classes)
    )


def loss(head: CountingHead, x: Float32[Array, "N 2D"], label: Int32[Array, "N"]) -> Float32[Array, ""]:
    """Mean cross-entropy of the lengths, nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(length_logits(head, x), label - 1))


def fit(
    x: np.ndarray, label: np.ndarray, held: tuple[np.ndarray, np.ndarray], *, classes: int, steps: int, seed: int
) -> tuple[CountingHead, list[dict[str, Any]]]:
    """(the head that is best on the held-out prompts, the curve): AdamW on all prompts at once."""
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    freeze = lambda grads: grads._replace(  # noqa: E731
        mean=jnp.zeros_like(grads.mean), spread=jnp.zeros_like(grads.spread)
    )

    @jax.jit
    def some(head: CountingHead, opt: Any, x: Array, label: Array) -> Any:
        def one(carry: Any, _: None) -> Any:
            head, opt = carry
            value, grads = jax.value_and_grad(loss)(head, x, label)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, opt = optimizer.update(freeze(grads), opt, head)
            return (optax.apply_updates(head, freeze(updates)), opt), value

        (head, opt), values = jax.lax.scan(one, (head, opt), None, length=EVERY)
        return head, opt, values[-1]

    head = best = start(x, classes, seed)
    opt = optimizer.init(head)
    curve: list[dict[str, Any]] = []
    for step in range(EVERY, steps + 1, EVERY):
        head, opt, value = some(head, opt, jnp.asarray(x), jnp.asarray(label))
        there = float(loss(head, *map(jnp.asarray, held)))
        if not curve or there < min(row["validation"] for row in curve):
            best = head
        curve.append({"step": step, "loss": round(float(value), 5), "validation": round(there, 5)})
    return best, curve


def figures(head: CountingHead, x: np.ndarray, label: np.ndarray, quantile: float) -> dict[str, float]:
    """On prompts that were not trained on: how many answers fit, and the mean canvas beside the mean answer."""
    columns = quantile_columns(np.asarray(length_logits(head, jnp.asarray(x))), quantile)
    canvas = np.array([canvas_of(int(each)) for each in columns])
    return {
        "fit": round(float((label <= canvas).mean()), 4), "canvas": round(float(canvas.mean()), 2),
        "answer": round(float(label.mean()), 2),
    }  # fmt: skip


def save(head: CountingHead, path: Path, lm: Any) -> None:
    from safetensors.numpy import save_file

    named = {"format": "jaxdlm", "method": KIND, "model": str(lm.name), "fingerprint": fingerprint(lm.params)}
    save_file({name: np.asarray(leaf, np.float32) for name, leaf in head._asdict().items()}, str(path), metadata=named)


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 512, canvas: int = 64, steps: int = 500,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{length_prior.safetensors, length_prior.json, curve.jsonl}; returns the record.

    texts: prompts; None: the benchmark's training split. canvas: columns that they are answered on. A tenth is held out for the
    choice of the step, another for the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if texts is None:
        texts = [example.prompt for example in sources.benchmark(rows, seed, canvas=canvas)]
    texts = list(texts)[:rows]
    x = features(lm, [encode(lm, text, index, 1, False) for index, text in enumerate(texts)])
    label = lengths(lm, texts, canvas)
    order = np.random.default_rng(seed).permutation(len(texts))
    tenth = max(1, len(texts) // 10)
    test, held, train = np.split(order, [tenth, 2 * tenth])
    head, curve = fit(x[train], label[train], (x[held], label[held]), classes=canvas + 1, steps=steps, seed=seed)
    save(head, folder / f"{KIND}.safetensors", lm)
    write_curve(folder / "curve.jsonl", curve)
    record = {
        "recipe": KIND, "command": f"python scripts/train.py --recipe {KIND} --output DIR", "model": lm.name,
        "fingerprint": fingerprint(lm.params), "prompts": len(texts), "canvas": canvas, "steps": steps, "seed": seed,
        "parameters": int(sum(leaf.size for leaf in head)), "validation": min(curve, key=lambda row: row["validation"]),
        "test": {str(q): figures(head, x[test], label[test], q) for q in (0.9, 0.99, 0.999)},
    }  # fmt: skip
    write_record(folder / f"{KIND}.json", record)
    return record
