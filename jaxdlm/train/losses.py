"""Losses on the answer columns.

Masked diffusion (LLaDA, arXiv 2502.09992, with exact counts): l ~ U{1..G}, exactly l answer columns hidden, loss =
mean cross-entropy over them, averaged over rows; equal in expectation to the 1/t form with less variance.
Autoregressive: mean cross-entropy over the answer up to its first end-of-text token.
Certainty forcing (dParallel, arXiv 2509.26488): cross-entropy and the entropy of what is right already.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.core.model import Model
from jaxdlm.typing import Array, Bool, Float32, PyTree


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
