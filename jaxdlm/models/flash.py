"""Attention with an online softmax, as a Pallas kernel for TPUs: scores live in on-chip memory, one tile at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdlm.typing import Array, Bool, Float

TILES = (512, 256, 128)  # queries or keys at once; lanes are 128
LANES = 128
LOWEST = float(jnp.finfo(jnp.float32).min)


def tile(columns: int) -> int | None:
    """The largest tile that divides the columns; None: the kernel does not take them."""
    return next((size for size in TILES if columns % size == 0), None)


def flash(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    allow: Bool[Array, "B T S"],
    scale: float,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """softmax(q·kᵀ · scale + mask) · v with float32 scores, T and S multiples of 128; not differentiable.

    The mask is data, so that rows may be padded and cut into blocks each in its own way. It is read once per head as
    int8, T S bytes, where scores written to memory would be several times 4 T S. A query that may see no key gets the
    mean of all values, as in `attend`. interpret: run it without a TPU.
    """
    batch, queries, heads, width = q.shape
    keys, groups = k.shape[1], heads // k.shape[2]
    rows, columns = tile(queries), tile(keys)
    assert rows is not None and columns is not None, "the caller asks `tile` first"
    q, k, v = (rearrange(x, "B T N H -> B N T H") for x in (q, k, v))
    own = pl.BlockSpec((1, 1, rows, width), lambda b, n, i, j: (b, n, i, 0))
    theirs = pl.BlockSpec((1, 1, columns, width), lambda b, n, i, j: (b, jax.lax.div(n, groups), j, 0))
    mixed = pl.pallas_call(
        functools.partial(_tile, scale=scale),
        grid=(batch, heads, queries // rows, keys // columns),
        in_specs=[own, theirs, theirs, pl.BlockSpec((1, rows, columns), lambda b, n, i, j: (b, i, j))],
        out_specs=own,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_shapes=[pltpu.VMEM((rows, size), jnp.float32) for size in (LANES, LANES, width)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        interpret=interpret,
    )(q, k, v, allow.astype(jnp.int8))
    return rearrange(mixed, "B N T H -> B T N H")


def _tile(q: Any, k: Any, v: Any, allow: Any, out: Any, top: Any, total: Any, mixed: Any, *, scale: float) -> None:
    """One tile of scores: m' = max(m, s), l' = e^(m - m') l + Σ e^(s - m'), o' = e^(m - m') o + e^(s - m') v."""
    at = pl.program_id(3)

    @pl.when(at == 0)
    def _start() -> None:
        top[...] = jnp.full(top.shape, LOWEST, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        mixed[...] = jnp.zeros(mixed.shape, jnp.float32)

    # bfloat16 products are exact in float32; those of float32 are not with one pass of the multiplier
    exact = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    product = functools.partial(jax.lax.dot_general, precision=exact, preferred_element_type=jnp.float32)
    scores = product(q[0, 0], k[0, 0], (((1,), (1,)), ((), ()))) * scale
    scores = jnp.where(allow[0].astype(jnp.int32) != 0, scores, LOWEST)
    before = top[:, :1]
    now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
    weights, shrink = jnp.exp(scores - now), jnp.exp(before - now)
    top[...] = jnp.broadcast_to(now, top.shape)
    total[...] = shrink * total[...] + jnp.sum(weights, axis=1, keepdims=True)
    fresh = product(weights.astype(v.dtype), v[0, 0], (((1,), (0,)), ((), ())))
    mixed[...] = shrink * mixed[...] + fresh

    @pl.when(at == pl.num_programs(3) - 1)
    def _finish() -> None:
        out[0, 0] = (mixed[...] / total[:, :1]).astype(out.dtype)
