"""The feed-forwards of chosen experts on their own rows: one Pallas kernel for TPUs.

XLA's ragged product takes one layer's experts as an array, and a loop over layers writes that array first. The kernel takes
the stack of all layers and a layer's number; of an expert that some token chose it reads gate, up and down once, and what lies
between the three products never leaves the chip.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdlm.models import blocks
from jaxdlm.models.blocks import Block
from jaxdlm.typing import Array, Float, Int32

ROOM = (
    48 << 20
)  # bytes of on-chip memory for weights, two blocks of each: the least that v5e, v5p and v6e have is 64 MiB
MOST = 128  # rows of a tile: those that a product of a TPU takes at once


class Tiles(NamedTuple):
    """Rows of the experts side by side, each expert's filled up to whole tiles.

    source: of each row the token that it is of (of those that fill up, the first token); place: of each (token, choice) its
    row; expert: of each tile; count: tiles that are not empty, which come first.
    """

    source: Int32[Array, "R"]
    place: Int32[Array, "M k"]
    expert: Int32[Array, "tiles"]
    count: Int32[Array, ""]


def rows_of(pairs: int, experts: int, itemsize: int) -> int:
    """Rows of a tile, from shapes alone: at most half of what an expert has on average, so that few only fill up, between
    what a register holds and what a product takes at once."""
    rows = 32 // itemsize
    while rows < MOST and 4 * rows * experts <= pairs:
        rows *= 2
    return rows


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """Tiles that no choice exceeds: each expert that is chosen leaves at most one unfilled."""
    return (pairs + min(experts, pairs) * (rows - 1)) // rows


def tiled(chosen: Int32[Array, "M k"], experts: int, rows: int) -> Tiles:
    """The tiles of a choice; rows of an expert in the order of their tokens. A choice of no expert, `experts`, has no row, and
    its place is some other's."""
    pairs = chosen.reshape(-1)
    count = pairs.shape[0]
    sizes = jnp.bincount(pairs, length=experts).astype(jnp.int32)
    tiles = -(-sizes // rows)
    first, start = jnp.cumsum(tiles) - tiles, jnp.cumsum(sizes) - sizes
    order = jnp.argsort(pairs, stable=True).astype(jnp.int32)
    inside = jnp.arange(count, dtype=jnp.int32) - start[pairs[order]]
    place = jnp.where(pairs < experts, (first[pairs[order]] * rows + inside)[jnp.argsort(order)], 0)
    expert = jnp.repeat(
        jnp.arange(experts, dtype=jnp.int32), tiles, total_repeat_length=most_tiles(count, experts, rows)
    )
    number = jnp.arange(expert.shape[0], dtype=jnp.int32) - first[expert]
    inside = number[:, None] * rows + jnp.arange(rows, dtype=jnp.int32)[None]
    pair = order[jnp.clip(start[expert][:, None] + inside, 0, count - 1)]
    source = jnp.where(inside < sizes[expert][:, None], pair // chosen.shape[1], 0).reshape(-1)
    return Tiles(source, place.reshape(chosen.shape), expert, jnp.sum(tiles))


def grouped(
    x: Float[Array, "M D"], chosen: Int32[Array, "M k"], weights: tuple[Any, Any, Any], layer: Int32[Array, ""],
    act: Callable[[Array], Array], *, interpret: bool = False,
) -> Float[Array, "M k D"]:  # fmt: skip
    """(act(x·gate) ⊙ (x·up))·down of each chosen expert; weights: the stacks [L, E, D, F] twice and [L, E, F, D].

    Sums in float32, each product rounded to x's dtype, as the plain form does. A row meets the weights in a tile of its
    own size whoever is beside it, so that its bits know no other row. interpret: run it without a TPU.
    """
    hidden, dtype = x.shape[1], x.dtype
    experts, wide = weights[2].shape[1:3]
    rows = rows_of(chosen.size, experts, dtype.itemsize)
    tiles = tiled(chosen, experts, rows)
    part = slice_of(hidden, wide, blocks.bytes_of(weights[0]))
    assert part is not None, "the caller asks `refuses` first"
    slices = wide // part
    up = [blocks.Block(one, (hidden, part), lambda i, j, of, at, _: (at[0], of[i], 0, j)) for one in weights[:2]]
    down = blocks.Block(weights[2], (part, hidden), lambda i, j, of, at, _: (at[0], of[i], j, 0))
    every = [*up, down]
    own = pl.BlockSpec((rows, hidden), lambda i, j, of, at, _: (i, 0))
    out = pl.pallas_call(
        functools.partial(_tile, every=every, act=act, slices=slices),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(tiles.count, slices),
            in_specs=[own, *(spec for one in every for spec in one.specs)],
            out_specs=own,
            scratch_shapes=[pltpu.VMEM((rows, hidden), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((tiles.source.shape[0], hidden), dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=ROOM + (8 << 20)
        ),
        cost_estimate=pl.CostEstimate(*counted(chosen.shape, weights, rows)),
        interpret=interpret,
    )(
        tiles.expert, layer.reshape(1), blocks.roots(every, layer), x[tiles.source],
        *(part for one in every for part in one.operands(interpret)),
    )  # fmt: skip
    return out[tiles.place]


def _tile(
    of: Any, at: Any, root: Any, x: Any, *refs: Any, every: list[Block], act: Callable[[Array], Array],
    slices: int,
) -> None:  # fmt: skip
    """One tile of rows against a part of its expert's width: down's sum over the parts is in float32."""
    del of, at
    *read, out, total = refs
    dtype, weights = x.dtype, []
    for number, block in enumerate(every):
        count = len(block.arrays)
        weights.append(block.load(read[:count], root[number], dtype))
        read = read[count:]
    gate, up, down = weights
    # bfloat16 products are exact in float32; those of float32 are not with one pass of the multiplier
    exact = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    product = functools.partial(jax.lax.dot, precision=exact, preferred_element_type=jnp.float32)
    rounded = lambda y: y.astype(dtype).astype(jnp.float32)  # noqa: E731
    wide = rounded(act(rounded(product(x[...], gate)))) * rounded(product(x[...], up))
    fresh = product(wide.astype(dtype), down)
    if slices == 1:
        out[...] = fresh.astype(dtype)
        return
    part = pl.program_id(1)
    total[...] = jnp.where(part == 0, 0.0, total[...]) + fresh

    @pl.when(part == slices - 1)
    def _finish() -> None:
        out[...] = total[...].astype(dtype)


def slice_of(hidden: int, wide: int, size: float) -> int | None:
    """Columns of gate and up, and rows of down, that the chip holds at once, two blocks of each; None: it holds none."""
    for parts in range(1, wide // 128 + 1):
        part = wide // parts
        if wide % parts == 0 and part % 128 == 0 and 2 * 3 * hidden * part * size <= ROOM:
            return part
    return None


def touched(tokens: int, choices: int, experts: int) -> float:
    """Experts that at least one of the tokens chooses, under an even router: E · (1 - (1 - k/E)^t)."""
    return experts * (1 - (1 - choices / experts) ** tokens)


def counted(chosen: tuple[int, int], weights: tuple[Any, Any, Any], rows: int) -> tuple[int, int, int]:
    """(operations, exponentials, bytes) of a call under an even router: tiles with the rows that fill them up, weights of
    the experts that are chosen, rows in and out."""
    experts, wide, hidden = weights[2].shape[1:]
    used = touched(*chosen, experts)
    tiles = max(used, chosen[0] * chosen[1] / rows + used * (rows - 1) / (2 * rows))
    size = sum(blocks.bytes_of(one) for one in weights) * hidden * wide
    moved = used * size + 2 * tiles * rows * hidden * weights[2].dtype.itemsize
    return int(tiles * rows * 6 * hidden * wide), int(tiles * rows * wide), int(moved)
