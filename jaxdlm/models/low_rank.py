"""Weights with low-rank updates of their projections added."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.models.params import path_name
from jaxdlm.typing import Array, PyTree

Updates = Mapping[str, Mapping[str, Array]]  # path with dots -> {"a": [R, in..., rank], "b": [R, rank, out...]}


def merge(params: PyTree, updates: Updates, scale: float) -> PyTree:
    """W + scale · A B for every projection that has a pair; scale is alpha / rank."""

    def one(path: tuple[Any, ...], leaf: Array) -> Array:
        pair = updates.get(path_name(path).replace("/", "."))
        if pair is None:
            return leaf
        layers, rank = pair["b"].shape[:2]
        a, b = pair["a"].reshape(layers, -1, rank), pair["b"].reshape(layers, rank, -1)
        delta = jnp.einsum("lir,lro->lio", a, b).reshape(leaf.shape)
        return leaf + (scale * delta).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)
