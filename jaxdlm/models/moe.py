"""Mixture of experts without capacity and without dropped tokens: sort by expert, three ragged matmuls, unsort.

On a CUDA GPU, where XLA writes a ragged matmul as masked copies of all rows for every expert, each expert runs on each
token instead and the chosen outputs are picked.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import ACTIVATE, mlp, product, read, rms_norm
from jaxdlm.typing import Array, Bool, Float, Float32, Int32

CHUNK = 256  # tokens that all experts of a GPU read at once
ROWS = 64  # from which on XLA's CPU products of float32 keep one order of sums


class Blocks(NamedTuple):
    """Which tokens choose their experts together: those of a number, which `valid` ones nominate."""

    number: Int32[Array, "M"]
    valid: Bool[Array, "M"]


def routing_blocks(config: ModelConfig, position: Int32[Array, "B T"], valid: Bool[Array, "B T"]) -> Blocks | None:
    """The blocks of every row, numbered through all of them; None where each token chooses for itself.

    Positions that a call leaves out are no part of their block: only calls of whole blocks route as the model does.
    """
    if not config.expert_capacity:
        return None
    rows, columns = position.shape
    block = position // config.routing_block
    inside = jnp.clip(block - jnp.min(block, axis=1, keepdims=True), 0, columns - 1)
    return Blocks((inside + columns * jnp.arange(rows, dtype=jnp.int32)[:, None]).reshape(-1), valid.reshape(-1))


def experts(
    leaves: Mapping[str, Any], x: Float[Array, "B T D"], routed_on: Float[Array, "B T D"], config: ModelConfig,
    blocks: Blocks | None = None,
) -> Float[Array, "B T D"]:  # fmt: skip
    """Σ_j w_j · expert_{i_j}(x), plus the shared expert; `routed_on` is what the router sees."""
    flat = rearrange(x, "B T D -> (B T) D")
    weights, chosen = route(leaves, rearrange(routed_on, "B T D -> (B T) D"), config, blocks)
    y = _combine(_expert_outputs(leaves, flat, chosen, config), weights, config).astype(x.dtype)
    if config.shared_size:
        y = y + mlp(leaves, flat, config, "s_")
    return y.reshape(x.shape)


def route(
    leaves: Mapping[str, Any], x: Float[Array, "M D"], config: ModelConfig, blocks: Blocks | None = None
) -> tuple[Float32[Array, "M k"], Int32[Array, "M k"]]:
    """Weight and number of the top_k experts of each token.

    Selection sees score + bias within the topk_group best groups (a group counts as the sum of its two best); the
    weight is the score alone, renormalised if norm_topk, times routed_scale (and per_expert_scale). With expert_capacity C
    instead of groups: within the C experts whose best score + bias among the tokens of the block is largest.
    """
    if "router_scale" in leaves:
        x = rms_norm(x, None, config) * leaves["router_scale"].astype(x.dtype)[None, :] * (x.shape[-1] ** -0.5)
    dtype = jnp.float32 if config.router_in_f32 else x.dtype
    logits = _router(x.astype(dtype), read(leaves["router"], dtype), x.dtype)
    score = jax.nn.softmax(logits, axis=-1) if config.router_score == "softmax" else jax.nn.sigmoid(logits)
    select = score + leaves["router_bias"].astype(jnp.float32)[None, :] if config.router_bias else score
    if config.expert_capacity:
        select = _shared(select, config, blocks)
    elif config.n_group > 1:
        select = _best_groups(select, config)
    chosen = jax.lax.top_k(select, config.top_k)[1]
    weights = jnp.take_along_axis(score, chosen, axis=-1)
    if config.norm_topk:
        tiny = 1e-20 if config.router_score == "sigmoid" else 0.0
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + tiny)
    weights = weights * config.routed_scale
    if "per_expert_scale" in leaves:
        weights = weights * leaves["per_expert_scale"].astype(jnp.float32)[chosen]
    return weights, chosen


def _router(x: Float[Array, "M D"], weight: Array, dtype: Any) -> Float32[Array, "M E"]:
    """x · weight. A float32 router of a 16-bit model reads at least `ROWS` rows: fewer are summed in another order on a
    CPU, and the weight of an expert is rounded to 16 bits, so that what depends on its last bit is seen."""
    rows = x.shape[0]
    if dtype.itemsize > 2 or x.dtype.itemsize <= 2:
        return product("md,de->me", x, weight).astype(jnp.float32)
    return product("md,de->me", jnp.pad(x, ((0, max(ROWS - rows, 0)), (0, 0))), weight)[:rows]


def _shared(select: Float32[Array, "M E"], config: ModelConfig, blocks: Blocks | None) -> Float32[Array, "M E"]:
    """-inf for experts that the token's block does not share. Raises ConfigUnsupported where it is not known."""
    if blocks is None or blocks.number.shape[0] != select.shape[0]:
        raise ConfigUnsupported(
            f"family {config.family} routes whole blocks of tokens: read them whole, with cache='none'"
        )
    nominated = jnp.where(blocks.valid[:, None], select, -jnp.inf)
    best = jax.ops.segment_max(nominated, blocks.number, select.shape[0])
    pool = jax.lax.top_k(best, config.expert_capacity)[1]
    member = jnp.any(jax.nn.one_hot(pool, config.num_experts, dtype=bool), axis=1)
    return jnp.where(member[blocks.number], select, -jnp.inf)


def _best_groups(select: Float32[Array, "M E"], config: ModelConfig) -> Float32[Array, "M E"]:
    grouped = rearrange(select, "M (G e) -> M G e", G=config.n_group)
    strength = jnp.sum(jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0], axis=-1)
    groups = jax.lax.top_k(strength, config.topk_group)[1]
    keep = jnp.any(jax.nn.one_hot(groups, config.n_group, dtype=bool), axis=1)
    # -inf, not 0: a bias can make every kept selection score negative
    return rearrange(jnp.where(keep[:, :, None], grouped, -jnp.inf), "M G e -> M (G e)")


def _expert_outputs(
    leaves: Mapping[str, Any], x: Float[Array, "M D"], chosen: Int32[Array, "M k"], config: ModelConfig
) -> Float[Array, "M k D"]:
    """Output of each chosen expert."""
    ragged = lambda x, chosen: _ragged(leaves, x, chosen, config)  # noqa: E731
    if jax.default_backend() != "gpu":
        return ragged(x, chosen)
    every = lambda x, chosen: _every(leaves, x, chosen, config)  # noqa: E731
    return jax.lax.platform_dependent(x, chosen, cuda=every, default=ragged)


def _every(
    leaves: Mapping[str, Any], x: Float[Array, "M D"], chosen: Int32[Array, "M k"], config: ModelConfig,
    chunk: int = CHUNK,
) -> Float[Array, "M k D"]:  # fmt: skip
    """All experts on all tokens, a chunk of tokens at a time; the chosen outputs are picked."""
    tokens = x.shape[0]
    if tokens > chunk:
        padded = -(-tokens // chunk) * chunk - tokens
        x, chosen = (jnp.pad(a, ((0, padded), (0, 0))).reshape(-1, chunk, a.shape[1]) for a in (x, chosen))
        out = jax.lax.map(lambda piece: _every(leaves, piece[0], piece[1], config, chunk), (x, chosen))
        return rearrange(out, "n M k D -> (n M) k D")[:tokens]
    # a copy of the tokens per expert: otherwise the products may become one, and the weights be transposed for it
    rows = jax.lax.optimization_barrier(jnp.broadcast_to(x[None], (config.num_experts, *x.shape)))
    times = lambda rows, name: jnp.einsum("emi,eio->emo", rows, read(leaves[name], x.dtype))  # noqa: E731
    wide = ACTIVATE[config.activation](times(rows, "e_gate")) * times(rows, "e_up")
    return times(wide, "e_down")[chosen, jnp.arange(tokens)[:, None]]


def _ragged(
    leaves: Mapping[str, Any], x: Float[Array, "M D"], chosen: Int32[Array, "M k"], config: ModelConfig
) -> Float[Array, "M k D"]:
    """The rows are sorted by expert (stably) and brought back afterwards."""
    pairs = chosen.reshape(-1)
    order = jnp.argsort(pairs, stable=True)
    sizes = jnp.bincount(pairs, length=config.num_experts).astype(jnp.int32)
    rows = x[order // config.top_k]
    single = rows.shape[0] == 1
    rows = jnp.pad(rows, ((0, 1), (0, 0))) if single else rows  # see `product`

    def times(rows: Array, name: str) -> Array:
        out = jax.lax.ragged_dot(rows, read(leaves[name], x.dtype), sizes, preferred_element_type=jnp.float32)
        return out.astype(x.dtype)

    wide = ACTIVATE[config.activation](times(rows, "e_gate")) * times(rows, "e_up")
    out = times(wide, "e_down")[:1] if single else times(wide, "e_down")
    back = jnp.argsort(order)
    return out[back].reshape(*chosen.shape, x.shape[-1])


def _combine(outputs: Float[Array, "M k D"], weights: Float32[Array, "M k"], config: ModelConfig) -> Array:
    """Σ over k in float32; the product is in the activation dtype unless the family keeps its weights in float32."""
    if config.router_in_f32 or config.moe_parallel_dense:
        return jnp.sum(outputs.astype(jnp.float32) * weights[:, :, None], axis=1)
    product = outputs * weights.astype(outputs.dtype)[:, :, None]
    return jnp.sum(product.astype(jnp.float32), axis=1)
