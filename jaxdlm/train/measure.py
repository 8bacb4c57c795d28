"""Held-out accuracy of an embedded model, by a decoder plain enough to be a reference for the library's own.

Masked models: one token per forward, the surest masked column of the current block, greedy. Causal models: greedy.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.eval.task import LEARNABLE, TASKS, make
from jaxdlm.eval.tasks import vocab
from jaxdlm.train.data import prompt_ids
from jaxdlm.typing import Array, Int32, PyTree


def _logits(model: Model, params: PyTree, tokens: Array, first: int, count: int) -> Array:
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden = model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden
    return model.head(params, jax.lax.dynamic_slice_in_dim(hidden, first, count, axis=1))


@partial(jax.jit, static_argnums=(0, 3, 4))
def decode_masked(model: Model, params: PyTree, prompt: Int32[Array, "B P"], canvas: int, block: int) -> Array:
    """int32[B, G]: low-confidence decoding in blocks, one token per forward and row (LLaDA, arXiv 2502.09992)."""
    rows, width = prompt.shape
    column = jnp.arange(canvas, dtype=jnp.int32)

    def step(i: Array, answer: Array) -> Array:
        logits = _logits(model, params, jnp.concatenate([prompt, answer], axis=1), width, canvas)
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        sure = jnp.max(jax.nn.log_softmax(logits), axis=-1)
        open_ = (answer == vocab.MASK) & (column // block == i // block)[None]
        chosen = jnp.argmax(jnp.where(open_, sure, -jnp.inf), axis=1)[:, None] == column[None]
        return jnp.where(chosen, best, answer)

    blank = jnp.full((rows, canvas), vocab.MASK, jnp.int32)
    return jax.lax.fori_loop(0, canvas, step, blank)


@partial(jax.jit, static_argnums=(0, 3))
def decode_causal(model: Model, params: PyTree, prompt: Int32[Array, "B P"], canvas: int) -> Array:
    """int32[B, G]: greedy, without a cache."""
    rows, width = prompt.shape

    def step(i: Array, answer: Array) -> Array:
        logits = _logits(model, params, jnp.concatenate([prompt, answer], axis=1), width - 1 + i, 1)
        best = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
        return jax.lax.dynamic_update_slice_in_dim(answer, best[:, None], i, axis=1)

    return jax.lax.fori_loop(0, canvas, step, jnp.full((rows, canvas), vocab.PAD, jnp.int32))


def _after_end(tokens: np.ndarray) -> np.ndarray:
    """End-of-text everywhere after the first one: what a causal model says there counts for nothing."""
    return np.where(np.cumsum(tokens == vocab.EOS, axis=1) > 0, vocab.EOS, tokens)


def accuracy(
    model: Model,
    params: PyTree,
    names: list[str] | None = None,
    *,
    n: int = 200,
    canvas: int | None = None,
    block: int = 32,
    split: str = "test",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Per task: share of correct and valid answers among n examples, over all templates and for each.

    canvas None: the task's own, rounded up to 16. Prompts of one padded length run as one batch.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in names or list(TASKS):
        task = TASKS[name]
        columns = canvas or max(16, task.canvas)
        if columns < task.canvas:
            continue
        batches: dict[int, list[tuple[Any, list[int]]]] = {}
        for example in make(name, n, split, seed):
            ids = prompt_ids(tuple(vocab.words(example.prompt)))
            batches.setdefault(len(ids), []).append((example, ids))
        scores: list[tuple[int, bool, bool]] = []
        for rows in batches.values():
            prompt = jnp.asarray([ids for _, ids in rows], jnp.int32)
            if model.config.noise == "mask":
                out = np.asarray(decode_masked(model, params, prompt, columns, min(block, columns)))
            else:
                out = _after_end(np.asarray(decode_causal(model, params, prompt, columns)))
            for (example, _), ids in zip(rows, out, strict=True):
                score = task.check(example, ids.tolist())
                scores.append((example.template, score.correct, score.valid))
        table[name] = _summary(scores)
    return table


def _summary(scores: list[tuple[int, bool, bool]]) -> dict[str, Any]:
    def mean(values: list[bool]) -> float:
        return round(sum(values) / max(1, len(values)), 4)

    return {
        "n": len(scores),
        "correct": mean([correct for _, correct, _ in scores]),
        "valid": mean([valid for _, _, valid in scores]),
        "templates": [mean([correct for t, correct, _ in scores if t == template]) for template in range(3)],
    }


SETTINGS = {"canvas16_block16": (16, 16), "canvas32_block32": (32, 32), "canvas128_block32": (128, 32)}


def tables(model: Model, params: PyTree, n: int) -> dict[str, dict[str, dict[str, Any]]]:
    """`accuracy` for each setting of (canvas, block); a causal model has one setting, its own canvas.

    Long canvases cost several times more: they are measured on a third of the examples.
    """
    if model.config.noise != "mask":
        return {"own": accuracy(model, params, list(LEARNABLE), n=n)}
    return {
        label: accuracy(
            model, params, list(LEARNABLE), n=n if canvas < 64 else max(1, n // 3), canvas=canvas, block=block
        )
        for label, (canvas, block) in SETTINGS.items()
    }


def gates(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, bool]:
    """Task -> whether it reached its gate in every setting; tasks that no mixture holds have not."""
    reached = dict.fromkeys(TASKS, False)
    for name in TASKS:
        counts = [setting[name]["correct"] for setting in table.values() if name in setting]
        reached[name] = bool(counts) and min(counts) >= TASKS[name].gate
    return reached
