"""A model that reads a canvas behind a causal prefix, read from left to right alone: the same weights, its other mode."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxdlm.core.model import Model, ModelOutput, Past, Tiling
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

if TYPE_CHECKING:
    from jaxdlm.models.config import ModelConfig


@runtime_checkable
class TwoModes(Model, Protocol):
    """A model with two passes over one set of weights."""

    def prefix(
        self, params: PyTree, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"], valid: Bool[Array, "B T"],
        past: Past | None = None, *, mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:  # fmt: skip
        """The causal pass."""
        ...

    def canvas(
        self, params: PyTree, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"], valid: Bool[Array, "B T"],
        past: Past | None = None, *, mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:  # fmt: skip
        """Tokens that see each other and the past, as far as the mask allows it."""
        ...


@dataclass(frozen=True)
class Causal:
    """The model whose every pass is the causal one; ids that it bans stay banned."""

    model: TwoModes

    @property
    def config(self) -> "ModelConfig":
        return dataclasses.replace(self.model.config, attention="causal", prediction="next", noise="none", block_size=0)

    @property
    def tiling(self) -> Tiling:
        return self.model.tiling

    def apply(
        self, params: PyTree, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"], valid: Bool[Array, "B T"],
        past: Past | None = None, *, mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:  # fmt: skip
        """See `Model.apply`."""
        return self.model.prefix(params, tokens, position, valid, past, mask=mask)

    def head(
        self, params: PyTree, hidden: Float[Array, "... D"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """See `Model.head`."""
        return self.model.head(params, hidden, first)
