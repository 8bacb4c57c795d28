"""Rows of two trees side by side: which of them a step may change."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxdlm.typing import Array, Bool

Tree = TypeVar("Tree")


def select_rows(mask: Bool[Array, "B"], new: Tree, old: Tree) -> Tree:
    """`new` in the rows of `mask`, `old` in the others, leaf by leaf; leaves have a leading B and keep `old`'s bits.

    A leaf that is the same in both is handed on, not copied.
    """

    def select(a: Array, b: Array) -> Array:
        return a if a is b else jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, new, old)
