"""Losses on the answer columns.

Masked diffusion (LLaDA, arXiv 2502.09992, with exact counts): l ~ U{1..G}, exactly l answer columns hidden, loss =
mean cross-entropy over them, averaged over rows; equal in expectation to the 1/t form with less variance.
Autoregressive: mean cross-entropy over the answer up to its first end-of-text token.
Certainty forcing (dParallel, arXiv 2509.26488): cross-entropy and the entropy of what is right already.
Block diffusion (Fast-dLLM v2, arXiv 2509.26328): weighted cross-entropy of hidden columns, each in a block whose earlier
blocks are clean.
Calibration (arXiv 2504.19044): minus the correlation of the log-likelihoods of several answers with their qualities.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange

from jaxdlm.core.model import Layer, Layered, LayerHook, Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.models.block import layer
from jaxdlm.models.segments import segments
from jaxdlm.typing import Array, Bool, Float, Float32, PyTree


def answer_logits(model: Model, params: PyTree, batch: dict[str, Any]) -> Float32[Array, "B G V"]:
    """Logits of the last G columns; models that predict the next token are read one row earlier.

    batch: tokens int32[B, P+G] as the model sees them, target int32[B, G], and, where rows are padded on the left,
    pads int32[B].
    """
    tokens, canvas = batch["tokens"], batch["target"].shape[1]
    column = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    position = column - batch["pads"][:, None] if "pads" in batch else column
    hidden = model.apply(params, tokens, position, position >= 0).hidden
    first = tokens.shape[1] - canvas - (model.config.prediction == "next")
    return model.head(params, hidden[:, first : first + canvas])


def answer_loss(model: Model, params: PyTree, batch: dict[str, Any]) -> Float32[Array, ""]:
    """Σ weight · CE(target) over the last G columns.

    batch: that of `answer_logits`, and weight float32[B, G] (sums to 1 or less), which says which columns count.
    """
    log_p = jax.nn.log_softmax(answer_logits(model, params, batch))
    picked = jnp.take_along_axis(log_p, batch["target"][..., None], axis=-1)[..., 0]
    return -jnp.sum(batch["weight"] * picked)


def certainty_forcing(
    model: Model, params: PyTree, batch: dict[str, Any], *, temperature: float = 0.5, beta: float = 2.0
) -> Float32[Array, ""]:
    """Σ over two views of mean_m CE(z, y) + beta · mean_c H(softmax(z / temperature)).

    m: the masked columns of a view that are trained; c: those of m whose argmax is right (no gradient through c).
    An empty mean is 0. temperature 0.5 and beta 2 (LLaDA; the released code for Dream has 1) as in arXiv 2509.26488.
    batch: that of `answer_logits` with the views one after the other along the rows, and masked bool[2 B, G] (m).
    """
    logits, masked = answer_logits(model, params, batch), batch["masked"]
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["target"][..., None], axis=-1)[..., 0]
    right = masked & (jnp.argmax(logits, axis=-1) == batch["target"])
    sharp = jax.nn.log_softmax(logits / temperature)
    entropy = -jnp.sum(jnp.exp(sharp) * sharp, axis=-1)
    return jnp.sum(mean_of_views(-picked, masked) + beta * mean_of_views(entropy, right))


def mean_of_views(value: Float32[Array, "B G"], where: Bool[Array, "B G"]) -> Float32[Array, "2"]:
    """Per view (half of the rows): the mean of the marked columns, 0 where none is."""
    value, where = (rearrange(x, "(view row) column -> view (row column)", view=2) for x in (value, where))
    return jnp.sum(jnp.where(where, value, 0.0), axis=1) / jnp.maximum(1.0, jnp.sum(where, axis=1, dtype=jnp.float32))


def block_sees(prompt: int, canvas: int, block: int) -> Bool[np.ndarray, "T T"]:
    """Which of [clean P + G | view G | view G] may attend to which, whatever the family's mask allows besides.

    Clean columns to clean ones alone. A column of a view to the clean blocks before its own, and to its own block in its
    own view: never to the clean copy of what it has to tell.
    """
    part = np.repeat([0, 1, 2], [prompt + canvas, canvas, canvas])
    block_of = np.concatenate([np.arange(prompt + canvas), *[np.arange(prompt, prompt + canvas)] * 2]) // block
    q, k = (part[:, None], block_of[:, None]), (part[None], block_of[None])
    before = (q[0] > 0) & (k[0] == 0) & (k[1] < q[1])
    return ((q[0] == 0) & (k[0] == 0)) | before | ((q[0] == k[0]) & (q[1] == k[1]))


def block_hidden(model: Layered, params: PyTree, batch: dict[str, Any]) -> Float[Array, "B G D"]:
    """The hidden rows that the head reads for every canvas column, as decoding has them while that column is open.

    One pass over [clean P + G | view 1 | view 2]. View 1 hides `hidden`, view 2 the other open columns, so that each open
    column is hidden in one of them, and is read there. With `next` prediction the row before speaks: the same view's, or,
    for the first column of a block, the clean copy's, which is what decoding reads once the block before is final.

    batch: tokens int32[B, P+G], pads int32[B] (whole blocks, on the left), open bool[B, G], hidden bool[B, G], a part of
    open. P and the pads are multiples of the block. Layers are computed again in the backward pass: what is kept of each
    is its input.
    """
    config, tokens, hidden = model.config, batch["tokens"], batch["hidden"]
    canvas, block, mask = hidden.shape[1], config.block_size, config.tokens.mask
    prompt = tokens.shape[1] - canvas
    clean = tokens[:, prompt:]
    views = [jnp.where(gone, jnp.int32(mask), clean) for gone in (hidden, batch["open"] & ~hidden)]
    column = np.concatenate([np.arange(prompt + canvas), *[np.arange(prompt, prompt + canvas)] * 2]).astype(np.int32)
    position = jnp.asarray(column)[None] - batch["pads"][:, None]
    sees = jnp.asarray(block_sees(prompt, canvas, block))[None]

    def run(one: Layer, x: Array, side: Any, memory: Any) -> tuple[Array, Any, Any]:
        narrowed = one._replace(allow=one.allow & sees)
        return jax.checkpoint(lambda x: layer(narrowed, x, (), None)[0])(x), side, memory

    nothing = tuple((None,) * segment.period for segment in segments(config))
    whole = jnp.concatenate([tokens, *views], axis=1)
    out = model.apply_with_hook(params, whole, position, position >= 0, None, LayerHook(run, (), nothing)).hidden
    first, second = jnp.split(out[:, prompt + canvas :], 2, axis=1)
    if config.prediction == "same":
        return jnp.where(hidden[..., None], first, second)
    first, second = (jnp.roll(view, 1, axis=1) for view in (first, second))
    begins = jnp.asarray(np.arange(canvas) % block == 0)[None, :, None]
    return jnp.where(begins, out[:, prompt - 1 : prompt + canvas - 1], jnp.where(hidden[..., None], first, second))


def block_losses(model: Layered, params: PyTree, batch: dict[str, Any]) -> Float32[Array, "B"]:
    """Per row, Σ weight · CE(token) over the open columns; the mask token and ids beyond the tokenizer are no text.

    batch: that of `block_hidden`, and weight float32[B, G].
    """
    prompt = batch["tokens"].shape[1] - batch["hidden"].shape[1]
    logits = mask_invalid(model.head(params, block_hidden(model, params, batch)), model)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, prompt:])
    return jnp.sum(jnp.where(batch["open"], batch["weight"] * loss, 0.0), axis=1)


def block_diffusion(model: Layered, params: PyTree, batch: dict[str, Any]) -> Float32[Array, ""]:
    """Σ over rows of `block_losses`.

    Training weighs every open column alike (1 / their number in the batch): each is hidden in one of two complementary
    views. The bound on -log p of a text weighs a column hidden in view 1 by n / l, where l of its block's n open columns
    are, l ~ U{1..n}, and no other (BD3-LM, arXiv 2503.09573).
    """
    return jnp.sum(block_losses(model, params, batch))


def log_likelihood(model: Model, params: PyTree, batch: dict[str, Any]) -> Float32[Array, "R"]:
    """log p(answer | prompt) of each row by an autoregressive model, a sum over its marked tokens.

    batch: tokens int32[R, L], padded on the right, and scored bool[R, L], the answer with its end. Nothing else counts.
    """
    tokens = batch["tokens"]
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden = model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden[:, :-1]
    logp = jax.nn.log_softmax(mask_invalid(model.head(params, hidden), model))
    picked = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=2)[:, :, 0]
    return jnp.sum(jnp.where(batch["scored"][:, 1:], picked, 0.0), axis=1)


def standardised(x: Float32[Array, "G N"], valid: Bool[Array, "G N"]) -> Float32[Array, "G N"]:
    """(x - mean) / (std + 1e-6) over the valid ones of each row, std with N - 1; 0 elsewhere, and where all are equal."""
    count = jnp.sum(valid, axis=1, keepdims=True, dtype=jnp.float32)
    away = jnp.where(valid, x - jnp.sum(jnp.where(valid, x, 0.0), axis=1, keepdims=True) / jnp.maximum(count, 1), 0.0)
    variance = jnp.sum(away**2, axis=1, keepdims=True) / jnp.maximum(count - 1, 1)
    spread = variance > 0  # where there is none, no gradient of its root either
    return jnp.where(spread, away / (jnp.sqrt(jnp.where(spread, variance, 1.0)) + 1e-6), 0.0)


def correlation_loss(
    u: Float32[Array, "G N"], q: Float32[Array, "G N"], valid: Bool[Array, "G N"] | None = None
) -> Float32[Array, "G"]:
    """-mean_i z(u)_i z(q)_i = -(N - 1) / N · Pearson(u, q) of each group; gradients flow through mean and std of u."""
    valid = jnp.ones(u.shape, bool) if valid is None else valid
    count = jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.float32), 1)
    return -jnp.sum(standardised(u, valid) * standardised(q, valid), axis=1) / count


def calibration(
    model: Model, params: PyTree, batch: dict[str, Any], *, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.0,
    normalize: bool = False,
) -> Float32[Array, ""]:  # fmt: skip
    """Mean over groups of alpha · NLL of the best answer per token + beta · `correlation_loss` + gamma · CPO.

    CPO = -log sigmoid(0.1 (l_best - l_worst)). normalize: correlate l / |y| in the place of l. Weights as in the release.
    batch: tokens int32[G, N, L], scored bool[G, N, L], quality float32[G, N]; best and worst are the first such.
    """
    groups, size, columns = batch["tokens"].shape
    flat = {name: batch[name].reshape(groups * size, columns) for name in ("tokens", "scored")}
    total = log_likelihood(model, params, flat).reshape(groups, size)
    mean = total / jnp.sum(batch["scored"], axis=2, dtype=jnp.float32)
    quality = jnp.clip(batch["quality"], 0.0, 1.0)
    of = lambda x, at: jnp.take_along_axis(x, at[:, None], axis=1)[:, 0]  # noqa: E731
    best, worst = jnp.argmax(quality, axis=1), jnp.argmin(quality, axis=1)
    loss = -alpha * of(mean, best) + beta * correlation_loss(mean if normalize else total, quality)
    if gamma:
        loss = loss - gamma * jax.nn.log_sigmoid(0.1 * (of(total, best) - of(total, worst)))
    return jnp.mean(loss)
