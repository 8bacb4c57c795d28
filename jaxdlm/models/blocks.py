"""Blocks of a weight that a kernel for TPUs reads out of the stack of all layers: plain, or as codes and scales.

The kernel is handed the whole stack and the layer's number: XLA would write a slice of it before a kernel could read it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdlm.levels import top_of
from jaxdlm.quant import QuantizedLeaf, power_of
from jaxdlm.typing import Array, Float, Float32, Int32


class Block(NamedTuple):
    """`shape` (rows, columns) of a weight [..., rows, columns]; `place`: the grid's position to the block's, all axes."""

    weight: Any
    shape: tuple[int, int]
    place: Callable[..., tuple[Any, ...]]

    @property
    def arrays(self) -> tuple[Array, ...]:
        weight = self.weight
        return (weight.codes, weight.scale) if isinstance(weight, QuantizedLeaf) else (weight,)

    def operands(self, interpret: bool) -> tuple[Array, ...]:
        """The arrays where they lie: XLA would fetch a whole stack of scales onto the chip, for one layer's sake."""
        where = lambda one: one if interpret else pltpu.with_memory_space_constraint(one, pltpu.HBM)  # noqa: E731
        return tuple(map(where, self.arrays))

    @property
    def specs(self) -> tuple[pl.BlockSpec, ...]:
        lead = (None,) * (self.arrays[0].ndim - 2)
        whole = pl.BlockSpec((*lead, *self.shape), self.place)
        if not isinstance(self.weight, QuantizedLeaf):
            return (whole,)
        if self.weight.scale.shape[-2] == 1:  # of the channel, whichever rows
            index = lambda *at: (*(found := self.place(*at))[:-2], 0, found[-1])  # noqa: E731
            return whole, pl.BlockSpec((*lead, 1, self.shape[1]), index)
        return whole, pl.BlockSpec((*lead, self.shape[0] // group_of(self.weight), self.shape[1]), self.place)

    def load(self, refs: Sequence[Any], root: Float32[Array, ""], dtype: Any) -> Float[Array, "rows columns"]:
        """The block out of its references, in `dtype`: of codes what `QuantizedLeaf.dequantize` makes of them."""
        if not isinstance(self.weight, QuantizedLeaf):
            return refs[0][...].astype(dtype)
        level = refs[0][...].astype(jnp.float32) * (1 / top_of(self.weight.bits))
        level = level if self.weight.root is None else power_of(level, root)
        scale = refs[1][...]
        grouped = level.reshape(scale.shape[0], -1, level.shape[1]) * scale[:, None, :]
        return grouped.reshape(level.shape).astype(dtype)


def group_of(weight: QuantizedLeaf) -> int:
    """Rows that share a scale."""
    return weight.codes.shape[-2] // weight.scale.shape[-2]


def bytes_of(weight: Any) -> float:
    """Of one element in memory, scales included."""
    if not isinstance(weight, QuantizedLeaf):
        return weight.dtype.itemsize
    return weight.bits / 8 + weight.scale.dtype.itemsize / group_of(weight)


def roots(every: Sequence[Block], layer: Int32[Array, ""]) -> Float32[Array, "blocks"]:
    """1/a of each weight at a layer; 1 of those that have none."""
    found = [block.weight.root if isinstance(block.weight, QuantizedLeaf) else None for block in every]
    one = jnp.float32(1)
    return jnp.stack([one if root is None else jax.lax.dynamic_index_in_dim(root, layer, 0, False) for root in found])
