"""Mixture of experts without capacity and without dropped tokens: the router, the experts that it chose, their mean."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.expert_ways import Routing, experts
from jaxdlm.models.layers import mlp, product, read, rms_norm
from jaxdlm.typing import Array, Bool, Float, Float32, Int32

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


def mixture(
    leaves: Mapping[str, Any], x: Float[Array, "B T D"], routed_on: Float[Array, "B T D"], config: ModelConfig,
    blocks: Blocks | None = None,
) -> Float[Array, "B T D"]:  # fmt: skip
    """Σ_j w_j · expert_{i_j}(x), plus the shared expert; `routed_on` is what the router sees."""
    flat = rearrange(x, "B T D -> (B T) D")
    routing = Routing(*route(leaves, rearrange(routed_on, "B T D -> (B T) D"), config, blocks))
    y = experts(flat, routing, (leaves["e_gate"], leaves["e_up"], leaves["e_down"]), config).astype(x.dtype)
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
