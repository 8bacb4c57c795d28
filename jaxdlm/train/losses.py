"""Losses on the answer columns, as one weighted cross-entropy whose weights say which columns count.

Masked diffusion (LLaDA, arXiv 2502.09992, with exact counts): l ~ U{1..G}, exactly l answer columns hidden, loss =
mean cross-entropy over them, averaged over rows; equal in expectation to the 1/t form with less variance.
Autoregressive: mean cross-entropy over the answer up to its first end-of-text token.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.core.model import Model
from jaxdlm.typing import Array, Float32, PyTree


def answer_loss(model: Model, params: PyTree, batch: dict[str, Any]) -> Float32[Array, ""]:
    """Σ weight · CE(target) over the last G columns.

    batch: tokens int32[B, P+G] as the model sees them, target int32[B, G], weight float32[B, G] (sums to 1 or less).
    Models that predict the next token are read one row earlier.
    """
    tokens, target, weight = batch["tokens"], batch["target"], batch["weight"]
    rows, length = tokens.shape
    canvas = target.shape[1]
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
    hidden = model.apply(params, tokens, position, jnp.ones((rows, length), bool)).hidden
    first = length - canvas - (model.config.prediction == "next")
    logits = model.head(params, hidden[:, first : first + canvas])
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
    return -jnp.sum(weight * picked)
