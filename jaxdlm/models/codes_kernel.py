"""A product with a weight of codes whose groups of rows share a scale: one Pallas kernel for TPUs.

XLA takes codes into a product with one scale per channel; with groups it writes the weight in 16 bits first, five times
the bytes of a plain one. The kernel reads codes and scales once, and makes the weight a block at a time on the chip.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdlm.models import blocks
from jaxdlm.quant import QuantizedLeaf
from jaxdlm.typing import Array, Float, Int32

ROWS, COLUMNS = (1024, 512, 256, 128), (1024, 512, 256, 128)  # of a block of codes, the first that fits
MOST, ROOM = 512, 4 << 20  # rows and bytes of x on the chip at once: beyond them codes are read again
LEAST = 16  # rows that x is filled up to, and that a tile of it comes in multiples of


def shape_of(weight: QuantizedLeaf) -> tuple[int, int] | None:
    """Rows and columns of a block: whole groups, scales in steps of eight; None: there is none."""
    rows, columns = weight.codes.shape[-2:]
    group = blocks.group_of(weight)
    whole = lambda size: rows % size == 0 and size % (8 * group) == 0  # noqa: E731
    tall = next((size for size in ROWS if whole(size)), rows if rows <= ROWS[0] and group % 8 == 0 else None)
    wide = next((size for size in COLUMNS if columns % size == 0), None)
    return None if tall is None or wide is None or rows % 128 else (tall, wide)


def refuses(weight: QuantizedLeaf) -> str | None:
    """Why the kernel does not take a weight; None: it does."""
    if weight.axes == (-1,):
        return "the last axis is summed over"
    rows, columns = weight.codes.shape[-2:]
    fits = shape_of(weight)
    return None if fits else f"{rows} × {columns} in groups of {blocks.group_of(weight)} are not cut into blocks"


def product(
    x: Float[Array, "M R"], weight: QuantizedLeaf, layer: Int32[Array, ""], *, interpret: bool = False
) -> Float[Array, "M C"]:
    """x · W of a layer, W as `weight.dequantize(x.dtype)` makes it, summed in float32 and rounded once.

    weight: the stack of all layers, codes [L, R, C]. interpret: run it without a TPU.
    """
    shape = shape_of(weight)
    assert shape is not None, "the caller asks `shape_of` first"
    count, dtype = x.shape[0], x.dtype
    (tall, wide), (high, columns) = shape, weight.codes.shape[-2:]
    fitting = max(ROOM // (high * dtype.itemsize * LEAST), 1) * LEAST
    rows = min(MOST, fitting, -(-count // LEAST) * LEAST)
    x = jnp.pad(x, ((0, -count % rows), (0, 0)))
    block = blocks.Block(weight, shape, lambda m, c, r, at, _: (at[0], r, c))
    size = int(blocks.bytes_of(weight) * high * columns)
    tiles = x.shape[0] // rows
    out = pl.pallas_call(
        functools.partial(_tile, block=block, steps=high // tall),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(tiles, columns // wide, high // tall),
            in_specs=[pl.BlockSpec((rows, high), lambda m, c, r, at, _: (m, 0)), *block.specs],
            out_specs=pl.BlockSpec((rows, wide), lambda m, c, r, at, _: (m, c)),
            scratch_shapes=[pltpu.VMEM((rows, wide), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], columns), dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * x.shape[0] * high * columns,
            transcendentals=0 if weight.root is None else 2 * tiles * high * columns,
            bytes_accessed=tiles * size + x.shape[0] * (high + columns) * dtype.itemsize,
        ),
        interpret=interpret,
    )(layer.reshape(1), blocks.roots([block], layer), x, *block.operands(interpret))
    return out[:count]


def _tile(at: Any, root: Any, x: Any, *refs: Any, block: blocks.Block, steps: int) -> None:
    """One block of the weight: its part of the sum."""
    del at
    *read, out, total = refs
    # bfloat16 products are exact in float32; those of float32 are not with one pass of the multiplier
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    weight = block.load(read, root[0], x.dtype)
    step, tall = pl.program_id(2), block.shape[0]
    part = x[:, pl.ds(pl.multiple_of(step * tall, 128), tall)]
    fresh = jax.lax.dot(part, weight, precision=exact, preferred_element_type=jnp.float32)
    total[...] = jnp.where(step == 0, 0.0, total[...]) + fresh

    @pl.when(step == steps - 1)
    def _finish() -> None:
        out[...] = total[...].astype(out.dtype)
