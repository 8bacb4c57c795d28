"""The exact denoiser: a model whose conditionals are those of a stated distribution over answers, without any training.

Policies are tested on it against closed forms. p(column j = v | revealed) = Σ_r w_r [table[r, j] = v] over the rows r
that agree with every revealed column, normalised; where no row agrees (the decode has already failed), over all rows.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import KV, ModelOutput, Past, Tiling
from jaxdlm.errors import InputError
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

# log of zero probability: finite, so that sums and differences of logits stay numbers
LOG_ZERO = -1e9


@dataclass(frozen=True)
class TableDenoiser:
    """Implements `jaxdlm.core.model.Model`.

    params: table int32[R, G], the answers; weight float32[R], their probabilities up to a factor; start int32[], the
    position of the first answer column. Hidden rows are log-probabilities and the head is the identity. Cached keys
    are the tokens themselves, so a cache sees exactly the tokens that it stored. Other columns get uniform rows.
    """

    config: ModelConfig

    def apply(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """Conditionals on all revealed columns among past and tokens; `mask` is not supported (InputError)."""
        if mask is not None:
            raise InputError("the exact denoiser has no attention to mask: call it without mask")
        seen, where, counts = tokens, position, valid
        if past is not None:
            stored = past.kv.k[0][0][0, :, :, 0, 0].astype(jnp.int32)
            seen = jnp.concatenate([stored, tokens], axis=1)
            where = jnp.concatenate([past.position, position], axis=1)
            counts = jnp.concatenate([past.valid, valid], axis=1)
        distribution = self._distribution(params, seen, where, counts)  # [B, G, V]
        width = params["table"].shape[1]
        column = position - params["start"]
        inside = (column >= 0) & (column < width)
        rows = jnp.take_along_axis(distribution, jnp.clip(column, 0, width - 1)[..., None], axis=1)
        uniform = jnp.float32(-np.log(self.config.vocab_size))
        hidden = jnp.where(inside[..., None], rows, uniform)
        # [R=1, B, T, K=1, H=2], the shape that the config promises
        stored = jnp.broadcast_to(tokens.astype(jnp.float32)[None, :, :, None, None], (1, *tokens.shape, 1, 2))
        return ModelOutput(hidden, KV(((stored,),), ((stored,),)))

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.config.vocab_size)

    def head(
        self, params: PyTree, hidden: Float[Array, "... D"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """The rows themselves."""
        return hidden if first is None else jnp.take(hidden, self.tiling.ids(first), axis=-1)

    def _distribution(self, params: PyTree, tokens: Array, position: Array, valid: Array) -> Float32[Array, "B G V"]:
        table, weight = params["table"], params["weight"]
        width = table.shape[1]
        column = position - params["start"]
        told = valid & (tokens != self.config.tokens.mask) & (column >= 0) & (column < width)
        theirs = table[:, jnp.clip(column, 0, width - 1)]  # [R, B, S]
        agree = jnp.all(~told[None] | (theirs == tokens[None]), axis=2).T  # [B, R]
        agree = agree | ~jnp.any(agree, axis=1, keepdims=True)
        mass = jnp.where(agree, weight[None], jnp.float32(0))
        mass = mass / jnp.sum(mass, axis=1, keepdims=True)
        answers = jax.nn.one_hot(table, self.config.vocab_size, dtype=jnp.float32)
        distribution = jnp.einsum("br,rgv->bgv", mass, answers, precision=jax.lax.Precision.HIGHEST)
        return jnp.where(
            distribution > 0, jnp.log(jnp.where(distribution > 0, distribution, jnp.float32(1))), jnp.float32(LOG_ZERO)
        )


def table_denoiser(
    answers: Any,
    weights: Any = None,
    *,
    vocab_size: int,
    mask: int,
    eos: int = -1,
    start: int = 1,
) -> tuple[TableDenoiser, PyTree]:
    """(model, params) of a distribution over answers int[R, G], equally likely unless weights float[R] are given.

    start: position of the first answer column, the length of the prompt. Raises InputError for ids outside the
    vocabulary, an answer that holds the mask, or weights that are not positive.
    """
    table = np.asarray(answers, np.int32)
    weight = np.ones(len(table), np.float32) if weights is None else np.asarray(weights, np.float32)
    if table.ndim != 2 or not table.size:
        raise InputError(f"answers must be [R, G] and not empty, got shape {table.shape}")
    if table.min() < 0 or table.max() >= vocab_size or (table == mask).any():
        raise InputError(f"answers must hold ids in 0..{vocab_size - 1} other than the mask {mask}")
    if weight.shape != (len(table),) or not (np.isfinite(weight).all() and (weight > 0).all()):
        raise InputError(f"weights must be {len(table)} positive numbers")
    config = ModelConfig(
        family="table",
        vocab_size=vocab_size,
        num_layers=1,
        hidden_size=vocab_size,
        num_heads=1,
        num_kv_heads=1,
        head_dim=2,
        intermediate_size=1,
        max_position=1 << 20,
        norm_eps=1e-6,
        rope=RopeConfig(theta=10000.0),
        attention="full",
        prediction="same",
        noise="mask",
        tokens=TokenIds(mask=mask, pad=0, eos=() if eos < 0 else (eos,)),
        param_dtype="float32",
    )
    params = jax.device_put({"table": table, "weight": weight, "start": np.int32(start)})
    return TableDenoiser(config), params
