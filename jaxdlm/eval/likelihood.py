"""Log-likelihood of a continuation: exact for autoregressive models, a Monte-Carlo bound for masked ones.

A masked model bounds -log p(y | x), N = |y|, by E_l[(N / l) Σ_{masked} CE], l ~ U{1..N} answer tokens masked at random
(LLaDA, arXiv 2502.09992, its get_log_likelihood). The bound is what papers report as likelihood.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.layout import bucket_of
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

STRATA = 16  # draws that share one uniform start, spread evenly over 1..N


class Estimate(NamedTuple):
    """value: log-likelihood or its lower bound, nats. se: Monte-Carlo standard error, 0 where it is exact."""

    value: float
    se: float


def mask_counts(length: int, draws: int, start: int) -> np.ndarray:
    """l_i = ((round(start + i N / b) - 1) mod N) + 1, i < b: one draw of U{1..N} spread over b strata.

    Departure from the released estimator: halves round up. Rounding them to the even number makes some l likelier
    than others, and the estimate biased (N = 3, b = 16: by 3 %).
    """
    at = np.floor(start + np.arange(draws) * (length / draws) + 0.5).astype(np.int64)
    return (at - 1) % length + 1


class Draws(NamedTuple):
    """Masked copies of one answer: which tokens are hidden, the weight N / l, and the stratum group of each."""

    hidden: np.ndarray  # bool[S, N]
    weight: np.ndarray  # float[S]
    group: np.ndarray  # int[S]


def draw(length: int, count: int, seed: int) -> Draws:
    """`count` draws in groups of `STRATA`; an answer of one token needs one."""
    if length == 1:
        return Draws(np.ones((1, 1), bool), np.ones(1), np.zeros(1, np.int64))
    rng = np.random.default_rng(seed)
    sizes = [min(STRATA, count - first) for first in range(0, count, STRATA)]
    masked = np.concatenate([mask_counts(length, size, int(rng.integers(1, length + 1))) for size in sizes])
    order = rng.random((count, length)).argsort(1).argsort(1)
    return Draws(order < masked[:, None], length / masked, np.repeat(np.arange(len(sizes)), sizes))


def combine(losses: np.ndarray, draws: Draws) -> Estimate:
    """Minus the mean weighted loss; the error from the spread of the groups, whose draws are not independent."""
    weighed = losses.astype(np.float64) * draws.weight
    groups = np.bincount(draws.group)
    means = np.bincount(draws.group, weighed) / groups
    value = float((means * groups).sum() / groups.sum())
    if len(means) > 1:
        return Estimate(-value, float(means.std(ddof=1) / np.sqrt(len(means))))
    exact = len(weighed) == 1 and bool(draws.hidden.all())
    return Estimate(-value, 0.0 if exact else float("nan"))


class Pair(NamedTuple):
    """Token ids of what is given and of what is scored."""

    context: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def number(self) -> int:
        """32 bits of its content: what its randomness is keyed by, so that neither order nor batch matters."""
        ids = np.asarray([len(self.context), *self.context, *self.answer], np.int64)
        return int.from_bytes(hashlib.sha256(ids.tobytes()).digest()[:4], "big")


def score(
    lm: Any, pairs: Sequence[Pair], *, draws: int = 128, seed: int = 0, batch: int = 16, cfg: float = 0.0
) -> list[Estimate]:
    """Estimates of log p(answer | context), in the order of the pairs.

    draws: Monte-Carlo samples per pair (LLaDA: 128; one for answers of one token). cfg: strength of classifier-free
    guidance, logits u + (cfg + 1)(c - u) with u from a masked context, as LLaDA's evaluation; doubles the rows.
    A pair's value depends on its own tokens and the seed, not on batch or order. Raises InputError for an empty
    answer or context, or one longer than the model reads.
    """
    for index, pair in enumerate(pairs):
        if not pair.context or not pair.answer:
            raise InputError(f"pair {index}: context and answer need at least one token each")
        if len(pair.context) + len(pair.answer) > lm.config.max_position:
            raise InputError(f"pair {index} is longer than the {lm.config.max_position} positions of {lm.name}")
        if not 0 <= min(*pair.context, *pair.answer) <= max(*pair.context, *pair.answer) < lm.config.vocab_size:
            raise InputError(f"pair {index} holds a token id outside the vocabulary 0..{lm.config.vocab_size - 1}")
    if lm.config.masked_canvas:
        raise InputError(
            f"{lm.name} reads masks in blocks behind a causal prefix, so score it from left to right: load it with "
            f"family='nemotron_ld_ar'"
        )
    exact = lm.config.tokens.mask is None
    drawn = [_exact(pair) if exact else draw(len(pair.answer), draws, _seed(seed, pair)) for pair in pairs]
    jobs = [(index, number) for index, each in enumerate(drawn) for number in range(len(each.weight))]
    jobs.sort(key=lambda job: (_bucket(pairs[job[0]]), job))
    losses = [np.zeros(len(each.weight)) for each in drawn]
    for part in _batches(jobs, [_bucket(pairs[index]) for index, _ in jobs], batch):
        rows = [_row(lm, pairs[index], drawn[index].hidden[number]) for index, number in part]
        for (index, number), loss in zip(part, _losses(lm, rows, batch, cfg)):
            losses[index][number] = loss
    return [combine(loss, each) for loss, each in zip(losses, drawn)]


def _batches(jobs: Sequence[Any], buckets: Sequence[int], size: int) -> Iterator[Sequence[Any]]:
    """At most `size` at a time, all of one bucket: a pair's columns are its own."""
    for _, group in itertools.groupby(zip(jobs, buckets, strict=True), key=lambda each: each[1]):
        own = [job for job, _ in group]
        yield from (own[first : first + size] for first in range(0, len(own), size))


def _seed(seed: int, pair: Pair) -> int:
    return (seed << 32) + pair.number


def _exact(pair: Pair) -> Draws:
    """An autoregressive model scores every token of the answer in one forward, nothing hidden."""
    return Draws(np.ones((1, len(pair.answer)), bool), np.ones(1), np.zeros(1, np.int64))


def _bucket(pair: Pair) -> int:
    return bucket_of(len(pair.context) + len(pair.answer))


class _Row(NamedTuple):
    tokens: np.ndarray  # as the model sees them
    target: np.ndarray
    scored: np.ndarray
    context: int


def _row(lm: Any, pair: Pair, hidden: np.ndarray) -> _Row:
    target = np.asarray([*pair.context, *pair.answer], np.int32)
    scored = np.concatenate([np.zeros(len(pair.context), bool), hidden])
    mask = lm.config.tokens.mask
    return _Row(target if mask is None else np.where(scored, mask, target), target, scored, len(pair.context))


def _losses(lm: Any, rows: Sequence[_Row], batch: int, cfg: float) -> np.ndarray:
    """Σ of cross-entropy over the scored tokens of each row; rows are padded to a bucket and to the batch."""
    width = bucket_of(max(len(row.tokens) for row in rows))
    tokens = np.full((batch, width), lm.config.tokens.pad, np.int32)
    target, scored, valid = np.zeros_like(tokens), np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    context = np.zeros(tokens.shape, bool)
    valid[:, 0] = True  # of rows that only fill the batch
    for index, row in enumerate(rows):
        size = len(row.tokens)
        tokens[index, :size], target[index, :size] = row.tokens, row.target
        scored[index, :size], valid[index, :size] = row.scored, True
        context[index, : row.context] = True
    guided = None if cfg == 0 or lm.config.tokens.mask is None else jnp.float32(cfg)
    arrays = (tokens, target, scored, valid, context)
    return np.asarray(_cross_entropy(lm.model, lm.params, *arrays, guided))[: len(rows)]


@compiled(static_argnums=0)
def _cross_entropy(
    model: Model, params: PyTree, tokens: Int32[Array, "B L"], target: Int32[Array, "B L"],
    scored: Bool[Array, "B L"], valid: Bool[Array, "B L"], context: Bool[Array, "B L"], cfg: Array | None,
) -> Float32[Array, "B"]:  # fmt: skip
    logits = _rows(model, params, tokens, valid)
    if cfg is not None:
        blank = _rows(model, params, jnp.where(context, jnp.int32(model.config.tokens.mask or 0), tokens), valid)
        logits = blank + (cfg + 1.0) * (logits - blank)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, :, None], axis=2)[:, :, 0]
    return -jnp.sum(jnp.where(scored, chosen, 0.0), axis=1)


def _rows(model: Model, params: PyTree, tokens: Array, valid: Array) -> Array:
    """Logits that predict column i in row i; with `next` prediction the model's row i - 1 does."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden = model.apply(params, tokens, position, valid).hidden
    if model.config.prediction == "next":
        hidden = jnp.roll(hidden, 1, axis=1)
    return model.head(params, hidden)


def rolling(lm: Any, ids: Sequence[int], prefix: int, max_length: int, **options: Any) -> Estimate:
    """log p of a whole text: disjoint windows of `max_length` tokens, each after `prefix` alone, summed."""
    size = max_length - 1
    windows = [Pair((prefix,), tuple(ids[first : first + size])) for first in range(0, len(ids), size)]
    estimates = score(lm, windows, **options)
    return Estimate(sum(x.value for x in estimates), float(np.sqrt(sum(x.se**2 for x in estimates))))
