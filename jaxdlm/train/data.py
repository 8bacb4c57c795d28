"""Rows of the embedded benchmark as training batches: fixed-length prompts, answers filled up with end-of-text."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxdlm.eval.task import TASKS
from jaxdlm.eval.tasks import vocab

PROMPT_LENGTHS = (32, 48, 64)


@dataclass(frozen=True)
class Bucket:
    """Batches of one shape: `rows` rows of `prompt` + `canvas` columns; `share` of the steps use it.

    tasks: name -> share of rows. Only prompts whose own padded length is `prompt` are used.
    """

    prompt: int
    canvas: int
    rows: int
    share: float
    tasks: Mapping[str, float]


def prompt_ids(tokens: tuple[str, ...]) -> list[int]:
    """`<bos> <user> prompt <asst>`, filled up with pads (visible ones) to the smallest listed length that fits."""
    ids = [vocab.BOS, vocab.USER, *vocab.encode(tokens), vocab.ASST]
    length = next((n for n in PROMPT_LENGTHS if n >= len(ids)), len(ids))
    return ids + [vocab.PAD] * (length - len(ids))


def clean_rows(bucket: Bucket, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """(prompt int32[B, P], answer int32[B, G] with end-of-text fill) of the training split."""
    names, shares = list(bucket.tasks), list(bucket.tasks.values())
    prompts, answers = [], []
    for name in rng.choices(names, shares, k=bucket.rows):
        while True:
            prompt, answer = TASKS[name].tokens(rng, "train", rng.randrange(3))
            ids = prompt_ids(prompt)
            if len(ids) == bucket.prompt and len(answer) < bucket.canvas:
                break
        prompts.append(ids)
        answers.append(vocab.encode(answer) + [vocab.EOS] * (bucket.canvas - len(answer)))
    return np.asarray(prompts, np.int32), np.asarray(answers, np.int32)


def hide(answer: np.ndarray, rng: np.random.Generator, blocks: bool) -> np.ndarray:
    """bool[B, G]: which columns are hidden.

    Exactly l of G, l stratified over the rows. With `blocks`, half of the rows look like a block-by-block decode:
    for K in {8, 16, 32} and a block b, all before b visible, all after it hidden, l of K hidden inside.
    """
    rows, canvas = answer.shape
    order = rng.random((rows, canvas)).argsort(axis=1).argsort(axis=1)
    count = 1 + (rng.permutation(rows) + rng.random(rows)) * canvas // rows
    hidden = order < count[:, None]
    if not blocks:
        return hidden
    column = np.arange(canvas)
    for row in range(0, rows, 2):
        size = int(rng.choice([k for k in (8, 16, 32) if k < canvas]))
        # the early blocks hold the answer: three quarters of these rows work on one of the first two
        block = int(rng.integers(2 if rng.random() < 0.75 else canvas // size))
        inside = column // size == block
        l = int(rng.integers(1, size + 1))
        chosen = rng.choice(np.flatnonzero(inside), l, replace=False)
        hidden[row] = (column // size > block) | np.isin(column, chosen)
    return hidden


def masked_batch(bucket: Bucket, seed: int, step: int) -> dict[str, np.ndarray]:
    """Batch of the masked-diffusion loss; a pure function of (seed, step), so a resumed run sees the same rows."""
    prompt, answer = clean_rows(bucket, random.Random(f"{seed}:{step}"))
    rng = np.random.default_rng([seed, step])
    hidden = hide(answer, rng, blocks=bucket.canvas > 16)
    # the fill far behind the answer is trivial: on long canvases it must not drown the answer
    behind = np.cumsum(answer == vocab.EOS, axis=1) > (16 if bucket.canvas <= 32 else 4)
    weight = hidden * np.where(behind, 0.1, 1.0)
    weight = (weight / weight.sum(axis=1, keepdims=True) / len(answer)).astype(np.float32)
    tokens = np.concatenate([prompt, np.where(hidden, vocab.MASK, answer)], axis=1)
    return {"tokens": tokens.astype(np.int32), "target": answer, "weight": weight}


def causal_batch(bucket: Bucket, seed: int, step: int) -> dict[str, np.ndarray]:
    """Batch of the autoregressive loss; a pure function of (seed, step)."""
    prompt, answer = clean_rows(bucket, random.Random(f"{seed}:{step}"))
    counted = np.cumsum(answer == vocab.EOS, axis=1) <= 1
    weight = (counted / counted.sum()).astype(np.float32)
    return {"tokens": np.concatenate([prompt, answer], axis=1), "target": answer, "weight": weight}
