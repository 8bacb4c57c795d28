"""A target with words of its drafter's: ids from the vocabulary's end on are embedded by trained rows, and never said."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import LooksUp, Model, ModelOutput, Past, Tiling
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

if TYPE_CHECKING:
    from jaxdlm.models.config import ModelConfig


class Weights(NamedTuple):
    """Of such a target: its own, and a row for each further id."""

    params: PyTree
    rows: Float[Array, "M D"]


@struct.dataclass
class Extended:
    """A table of embeddings with further rows behind it, looked up as a quantised one is."""

    table: Any
    more: Float[Array, "M D"]

    @property
    def dtype(self) -> Any:
        return self.table.dtype

    def rows(self, tokens: Array, dtype: Any) -> Array:
        size = self.table.shape[0]
        known = jnp.minimum(tokens, size - 1)
        own = self.table.rows(known, dtype) if isinstance(self.table, LooksUp) else jnp.take(self.table, known, axis=0)
        more = jnp.take(self.more, jnp.clip(tokens - size, 0, self.more.shape[0] - 1), axis=0).astype(dtype)
        return jnp.where((tokens < size)[..., None], own, more)


@dataclass(frozen=True)
class Prompted:
    """The model, whose inputs may be ids of the further rows as well; its head is as it was."""

    model: Model

    @property
    def config(self) -> "ModelConfig":
        return self.model.config

    @property
    def tiling(self) -> Tiling:
        return self.model.tiling

    def apply(
        self,
        params: Weights,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """See `Model.apply`."""
        longer = dict(params.params, embed=Extended(params.params["embed"], params.rows))
        return self.model.apply(longer, tokens, position, valid, past, mask=mask)

    def head(
        self, params: Weights, hidden: Float[Array, "... D"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """See `Model.head`."""
        return self.model.head(params.params, hidden, first)
