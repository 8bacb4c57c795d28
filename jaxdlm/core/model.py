"""The protocol of models: two pure functions over a parameter tree, and the shape of their results."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

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
    """Cached columns that the queries may attend to, besides the tokens of the call itself.

    place: columns in which the call's own keys stand while they are read, so that sums over keys go by these columns, however
    many tokens came with the call; a layer's cache is copied for it. None: they stand behind the cached ones.
    """

    kv: KV
    position: Int32[Array, "B S"]
    valid: Bool[Array, "B S"]
    place: Int32[Array, "B T"] | None = None


class ModelOutput(NamedTuple):
    """`hidden` is what the head reads (after the final norm), one row per token, unshifted; `kv` of these tokens."""

    hidden: Float[Array, "B T D"]
    kv: KV


@dataclass(frozen=True)
class Tiling:
    """How the vocabulary is read in parts of about `width` ids.

    stripes: equal runs of ids that lie on different devices (the tensor axis); a tile takes `run` ids out of each, so
    that every device has its share of every tile. A vocabulary that they do not divide is one stripe.
    """

    vocab: int
    width: int = 8192
    stripes: int = 1

    @property
    def span(self) -> int:
        """Ids per stripe."""
        return self.vocab // self.stripes

    @property
    def run(self) -> int:
        """Ids of one stripe in a tile: tiles of about equal length, in whole lanes (128) unless they are shorter."""
        count = max(1, round(self.vocab / self.width))
        lanes = min(128, max(1, self.width // self.stripes))
        return min(self.span, -(-self.span // (count * lanes)) * lanes)

    @property
    def count(self) -> int:
        """Tiles."""
        return -(-self.span // self.run)

    @property
    def overlaps(self) -> bool:
        """Whether the last tile begins inside the one before it."""
        return self.span % self.run != 0

    def first(self, begin: Int32[Array, ""]) -> Int32[Array, ""]:
        """Where the tile from `begin` on lies in its stripe: earlier, where it would reach past the end."""
        return jnp.minimum(begin, self.span - self.run)

    def ids(self, first: Int32[Array, ""]) -> Int32[Array, "T"]:
        """The ids of a tile, ascending."""
        stripe = jnp.arange(self.stripes, dtype=jnp.int32)[:, None] * self.span
        return (stripe + first + jnp.arange(self.run, dtype=jnp.int32)[None]).reshape(-1)


def take_tile(x: Array, axis: int, first: Int32[Array, ""], tiling: Tiling) -> Array:
    """The ids of a tile out of an array that has the whole vocabulary on this axis."""
    if tiling.stripes == 1:  # no reshape: it could be a copy where a stripe is no whole number of lanes
        return jax.lax.dynamic_slice_in_dim(x, first, tiling.run, axis)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    stripes = x.reshape(*before, tiling.stripes, tiling.span, *after)
    return jax.lax.dynamic_slice_in_dim(stripes, first, tiling.run, axis + 1).reshape(*before, -1, *after)


def gather(x: Float[Array, "B T ..."], index: Int32[Array, "B M"]) -> Float[Array, "B M ..."]:
    """Columns of each row; an index past the end reads the last."""
    index = jnp.minimum(index, x.shape[1] - 1)
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)


@runtime_checkable
class Model(Protocol):
    """A frozen, hashable dataclass with a field `config` (a static argument of jit); all weights live in `params`."""

    @property
    def config(self) -> "ModelConfig": ...

    @property
    def tiling(self) -> Tiling: ...

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

    def head(
        self, params: PyTree, hidden: Float[Array, "... D"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """Logits of these hidden rows, always float32; with `first` those of `tiling.ids(first)` only.

        A `tiling` of one tile is never asked for a part.
        """
        ...


def with_config(model: Model, config: "ModelConfig") -> Model:
    """The model under another configuration, for the same weights."""
    # a dataclass, which the protocol does not say: an instance check would then ask wrappers for its fields
    return dataclasses.replace(model, config=config)  # type: ignore[type-var]


@runtime_checkable
class SupportsApplyAt(Model, Protocol):
    """A model that computes the hidden rows of some columns without finishing the others."""

    def apply_at(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        at: Int32[Array, "B W"],
    ) -> Float[Array, "B W D"]:
        """`apply(...).hidden` at the columns `at` [B, W], for a caller that wants nothing else."""
        ...


@runtime_checkable
class Embeds(Model, Protocol):
    """A model that tells the rows that its first layer reads."""

    def embed(self, params: PyTree, tokens: Int32[Array, "..."]) -> Float[Array, "... D"]:
        """The embeddings of ids, scaled where the family scales them; ids past the end read the last."""
        ...


@runtime_checkable
class LooksUp(Protocol):
    """A table of embeddings that is no array: it gives the rows of ids itself."""

    def rows(self, tokens: Array, dtype: Any) -> Array: ...


class Layer(NamedTuple):
    """One layer taken apart, for a cache that keeps features: h = x + mix(project(x)), then h + feed(h).

    project(x, at): queries [B, M, N, H], keys and values [B, M, K, H] of M of the call's tokens; `at` int32[B, M] says
    which ones, None: all T. mix(q, keys, values, allow): what attention adds. feed(h): what the feed-forward adds.
    """

    number: Int32[Array, ""]
    allow: Bool[Array, "B T S_T"]  # the family's mask: past first, then the T tokens
    project: Callable[[Array, Array | None], tuple[Array, Array, Array]]
    mix: Callable[[Array, Array, Array, Array], Array]
    feed: Callable[[Array], Array]


class LayerHook(NamedTuple):
    """A function in place of each layer: `run(layer, x, side, memory) -> (x, side, memory)`.

    `side` goes from layer to layer beside the hidden states. `memory` is each layer's own, shaped like the parts of a
    `KV`: a tuple over segments of a tuple over positions of a tree with leaves [R, ...]. `last` runs in place of the
    stack's last layer and may return fewer columns; then nothing of its segment is remembered.
    """

    run: Callable[[Layer, Array, PyTree, PyTree], tuple[Array, PyTree, PyTree]]
    side: PyTree
    memory: PyTree
    last: Callable[[Layer, Array, PyTree, PyTree], tuple[Array, PyTree, PyTree]] | None = None


class Features(NamedTuple):
    """`hidden` as in `ModelOutput`; `side` and `memory` as a `LayerHook` left them."""

    hidden: Float[Array, "B T D"]
    side: PyTree
    memory: PyTree


@runtime_checkable
class Layered(Model, Protocol):
    """A model that runs a hook in place of each layer."""

    def apply_with_hook(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None,
        hook: LayerHook,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> Features:
        """The stack over T tokens with `hook` in place of each layer; `past` serves the masks alone, `mask` as in `apply`."""
        ...
