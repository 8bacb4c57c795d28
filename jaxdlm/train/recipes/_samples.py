"""Answers as samples of block diffusion: laid out in blocks, hidden at random, and the bound that they give."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm.models.config import ModelConfig
from jaxdlm.train.batches import order
from jaxdlm.train.losses import block_losses
from jaxdlm.typing import PyTree

DRAWS = 16  # masks per held-out text


class Pool(NamedTuple):
    """Samples of one shape, laid out as decoding does: blocks from position 0, pads on the left in whole blocks."""

    tokens: np.ndarray  # int32[N, P + G]: whole blocks of the prompt, then its tail, the answer, and ends
    pads: np.ndarray  # int32[N]
    open: np.ndarray  # bool[N, G]: the answer, and the ends that fill its last block
    length: np.ndarray  # int32[N]: tokens of the answer, its end included


def pool(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], config: ModelConfig, canvas: int) -> Pool:
    """Samples of (prompt, answer) pairs for a block-causal model, answers of at most `canvas` tokens. Columns behind the
    last open block belong to nobody."""
    block, end = config.block_size, config.tokens.eos[0]
    wide = max(block, max(len(p) // block * block for p, _ in pairs))
    columns = -(-(canvas + block - 1) // block) * block
    tokens = np.full((len(pairs), wide + columns), config.tokens.pad, np.int32)
    opened, pads = np.zeros((len(pairs), columns), bool), np.zeros(len(pairs), np.int32)
    for row, (before, answer) in enumerate(pairs):
        tail = len(before) % block
        pads[row] = wide + tail - len(before)
        stop = tail + len(answer)
        last = -(-stop // block) * block if answer[-1] in config.tokens.eos else stop
        tokens[row, pads[row] : wide + tail] = before
        tokens[row, wide + tail : wide + stop] = answer
        tokens[row, wide + stop : wide + last] = end
        opened[row, tail:last] = True
    return Pool(tokens, pads, opened, np.array([len(answer) for _, answer in pairs], np.int32))


class Hiding(NamedTuple):
    """Columns that one view hides, and per column how many of its block are hidden (l), and open (n)."""

    hidden: np.ndarray  # bool[B, G]
    number: np.ndarray  # int[B, G]
    among: np.ndarray  # int[B, G]


def hide(opened: np.ndarray, block: int, rng: np.random.Generator) -> Hiding:
    """Per row and block with n open columns: exactly l of them, l ~ U{1..n}, at random. The complement has n - l."""
    rows, columns = opened.shape
    inside = opened.reshape(rows, -1, block)
    among = inside.sum(-1, keepdims=True)
    count = 1 + np.floor(rng.random(among.shape) * among).astype(np.int64)
    rank = np.where(inside, rng.random(inside.shape), 2.0).argsort(-1).argsort(-1)
    hidden = inside & (rank < count)
    wide = lambda x: np.broadcast_to(x, inside.shape).reshape(rows, columns)  # noqa: E731
    return Hiding(hidden.reshape(rows, columns), wide(count), wide(among))


def batches(samples: Pool, rows: int, block: int) -> Any:
    """batch_at(seed, step), a pure function: `rows` samples at random, every open column with the same weight."""

    def batch_at(seed: int, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(0, len(samples.tokens), rows)
        opened = samples.open[chosen]
        weight = (opened / opened.sum()).astype(np.float32)
        hidden = hide(opened, block, rng).hidden
        return batch_of(samples, chosen, hidden, weight)

    return batch_at


def batch_of(samples: Pool, chosen: np.ndarray, hidden: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "tokens": samples.tokens[chosen], "pads": samples.pads[chosen], "open": samples.open[chosen], "hidden": hidden,
        "weight": weight.astype(np.float32),
    }  # fmt: skip


def bits_per_token(
    model: Any, params: PyTree, samples: Pool, *, draws: int = DRAWS, batch: int = 16, seed: int = 0
) -> dict[str, float]:
    """An upper bound on -log₂ p(answer | prompt) per token of the answer, and its Monte-Carlo standard error.

    Σ over blocks of E_l (n / l) Σ_hidden CE, earlier blocks clean (BD3-LM, arXiv 2503.09573), over `draws` masks. The ends
    that fill a last block are predicted, too: they add to the bound and not to the tokens.
    """
    block, count = model.config.block_size, len(samples.tokens)
    losses = jax.jit(functools.partial(block_losses, model))
    places = order(count, batch).reshape(-1)
    totals = np.zeros(draws)
    for draw in range(draws):
        hidden = hide(samples.open[places], block, np.random.default_rng([seed, draw]))
        weight = hidden.hidden * (hidden.among / hidden.number)
        for first in range(0, len(places), batch):
            part = slice(first, first + batch)
            rows = np.asarray(losses(params, batch_of(samples, places[part], hidden.hidden[part], weight[part])))
            totals[draw] += rows[: max(0, count - first)].astype(np.float64).sum()
    bits = totals / (math.log(2) * samples.length.sum())
    error = float(bits.std(ddof=1) / math.sqrt(draws)) if draws > 1 else math.nan
    return {"bits": round(float(bits.mean()), 4), "se": round(error, 4)}
