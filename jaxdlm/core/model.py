"""What decoding needs from a model: two pure functions over a parameter tree, and the shape of their results."""

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

if TYPE_CHECKING:
    from jaxdlm.models.config import ModelConfig


class KV(NamedTuple):
    """Keys (rotary embedding already applied) and values, shaped like `params["segments"]`.

    Each is a tuple over segments of a tuple over the positions in the segment's period; a leaf is [R, B, S, K, H]:
    repeats of the segment, rows, columns, key/value heads, head size.
    """

    k: PyTree
    v: PyTree


class Past(NamedTuple):
    """Cached columns that the queries may attend to, besides the tokens of the call itself."""

    kv: KV
    position: Int32[Array, "B S"]
    valid: Bool[Array, "B S"]


class ModelOutput(NamedTuple):
    """`hidden` is what the head reads (after the final norm), one row per token, unshifted; `kv` of these tokens."""

    hidden: Float[Array, "B T D"]
    kv: KV


@runtime_checkable
class Model(Protocol):
    """A frozen, hashable object (a static argument of jit); all weights live in `params`."""

    @property
    def config(self) -> "ModelConfig": ...

    def apply(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """Runs the stack over T tokens.

        `valid` says which of them may be attended to. Keys are ordered past first, then the T tokens. `mask`
        [B, T, S + T] is ANDed onto the family's own mask, which is built from positions.
        """
        ...

    def head(self, params: PyTree, hidden: Float[Array, "... D"]) -> Float32[Array, "... V"]:
        """Logits of the given rows, always float32."""
        ...
