"""What the columns of a window attend to: the attention of a model's last layers, read out of a forward over all columns."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxdlm.typing import Array, Float, Float32, Int32


class Attended(NamedTuple):
    """Of a batch: attention as in `Attention`, by columns of the bucket, and the hidden rows that tell of all columns."""

    hidden: Float[Array, "B L D"]  # row i holds the logits of column i
    weight: Float32[Array, "B W L"]
    mean: Float32[Array, "B L"]


class Attention(NamedTuple):
    """Of one row, by true position: A averaged over the heads of some layers, then over the layers."""

    weight: Float32[Array, "W L"]  # A[i, j], how much window column i attends to position j
    mean: Float32[Array, "L"]  # mean of A[i, j] over all columns i of the row
    top: Float32[Array, "L"]  # log of the highest probability at j, by the row of the model that predicts j


def by_position(weight: Array, mean: Array, top: Array, pads: Int32[Array, ""]) -> Attention:
    """One row's, from bucket columns to true positions, as `Text` has them."""
    return Attention(jnp.roll(weight, -pads, axis=1), jnp.roll(mean, -pads), jnp.roll(top, -pads))
