"""A stack of layers' weights that is read where it lies, one layer at a time.

A loop over layers takes each one's weights out of the stack by a dynamic slice, and XLA for CPUs writes that slice before
it multiplies by it: SmolLM2 spent two fifths of a token so. An array per layer needs no slice (`Apart`). It costs no
memory: it is a view of the stack's own. XLA for TPUs and GPUs reads a slice where it lies, but writes it for a kernel that is
not its own; such a kernel gets the stack and the layer's number (`Within`).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdlm import struct
from jaxdlm.quant import QuantizedLeaf
from jaxdlm.typing import Array, Float, Int32, PyTree

NAMES = ("wq", "wk", "wv", "wo", "gate", "up", "down")  # weights that nothing but `layers.product` reads
EXPERTS = ("e_gate", "e_up", "e_down")
# bytes of a layer, by bytes of a number: smaller ones stay in a core's cache on their way from the slice to the product, and a
# product for each layer takes as long to compile as a large one's; of 16 bits a product of what was sliced takes longer
LARGE = {2: 128 << 10, 4: 2 << 20}


@struct.dataclass
class Apart:
    """Weights [R, ...] of R layers: the stack, and the same memory as R arrays."""

    stack: Float[Array, "R ..."]
    layers: tuple[Array, ...]


class Chosen(NamedTuple):
    """One layer's weight of an `Apart`: the operand of a product."""

    apart: Apart
    layer: Int32[Array, ""]

    @property
    def dtype(self) -> Any:
        return self.apart.stack.dtype

    def product(self, product: Callable[..., Array], form: str, x: Array) -> Array:
        """`product(form, x, weight)`. The product is chosen, one for each layer: choosing the weight would copy it."""
        each = [functools.partial(_with, product, form, at) for at in range(len(self.apart.layers))]
        return jax.lax.switch(self.layer, each, x, self.apart.layers)


@dataclass(frozen=True)
class Place:
    """Where a model's weights lie: on one device of a platform, or on those of a mesh.

    rows: mesh axes over which rows of a batch are divided; wide, experts: those over which an expert's width and the experts
    are, None: each device has all of them.
    """

    platform: str
    mesh: Mesh | None = None
    rows: tuple[str, ...] = ()
    wide: str | None = None
    experts: str | None = None


@struct.dataclass
class Within:
    """One layer's weight for who reads it as an array (`own`), and the whole stack for who does not."""

    own: Any
    stack: Any
    layer: Int32[Array, ""]
    place: Place = struct.field(pytree_node=False)

    @property
    def dtype(self) -> Any:
        return self.own.dtype


def within(
    own: Mapping[str, Any], stacks: Mapping[str, Any], layer: Int32[Array, ""], place: Place | None
) -> dict[str, Any]:
    """A layer's leaves; with the stack that they lie in those that a kernel of the platform reads, or that several devices
    share in a way of their own."""

    if place is None or place.platform == "cpu":
        return dict(own)
    here = place.mesh is None

    def wraps(name: str, leaf: Any) -> bool:
        coded = isinstance(leaf, QuantizedLeaf)
        return (name in EXPERTS and (here or not coded)) or (place.platform == "tpu" and here and _grouped(leaf))

    return {name: Within(leaf, stacks[name], layer, place) if wraps(name, leaf) else leaf for name, leaf in own.items()}


def _grouped(leaf: Any) -> bool:
    """Codes whose rows share scales in groups."""
    return isinstance(leaf, QuantizedLeaf) and leaf.scale.shape[-2] > 1


def _with(product: Callable[..., Array], form: str, at: int, x: Array, layers: tuple[Array, ...]) -> Array:
    return product(form, x, layers[at])


def contracted(form: str) -> int:
    """The number of axes that a product sums over: the last of its first operand, the first of its second."""
    operands, result = form.split("->")
    return sum(letter not in result for letter in operands.split(",")[0].strip("."))


def apart(params: PyTree) -> PyTree:
    """`params` with large stacks of the one CPU that they lie on also as an array per layer, without a copy; and a tied head of
    32 bits as a matrix of its own, [D, V].

    As [V, D] a product of several rows turns it over anew for every token: of SmolLM2 a seventh of the token at one row. A copy
    once takes V · D numbers.
    """
    segments = params.get("segments", ()) if isinstance(params, Mapping) else ()
    if segments and "lm_head" not in params and _turns(table := params.get("embed")):
        params = {**params, "lm_head": jax.device_put(np.ascontiguousarray(np.asarray(table).T), *table.devices())}
    split = tuple(tuple({name: _views(name, leaf) for name, leaf in one.items()} for one in run) for run in segments)
    return {**params, "segments": split} if segments else params


def _views(name: str, leaf: Any) -> Any:
    if name not in NAMES or not isinstance(leaf, jax.Array) or len(leaf) == 1:
        return leaf
    if leaf.nbytes < LARGE.get(leaf.dtype.itemsize, 0) * len(leaf):
        return leaf
    if not _on_cpu(leaf):
        return leaf
    (device,) = leaf.devices()
    host = np.asarray(leaf)
    layers = tuple(jax.device_put(host[at], device) for at in range(len(host)))
    lies = leaf.unsafe_buffer_pointer()
    same = (layer.unsafe_buffer_pointer() == lies + at * host[at].nbytes for at, layer in enumerate(layers))
    return Apart(leaf, layers) if all(same) else leaf  # an odd size is copied, as views must begin at whole words


def _turns(table: Any) -> bool:
    """Whether a product with this [V, D] is worth a copy of it."""
    return _on_cpu(table) and table.dtype == np.float32 and table.nbytes >= LARGE.get(4, 0)


def _on_cpu(leaf: Any) -> bool:
    """Whether it lies whole on one CPU."""
    return isinstance(leaf, jax.Array) and [device.platform for device in leaf.devices()] == ["cpu"]


def stacked(leaves: PyTree) -> PyTree:
    """The stacks alone."""
    return jax.tree.map(lambda leaf: leaf.stack if isinstance(leaf, Apart) else leaf, leaves, is_leaf=_is_apart)


def scanned(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a layer's leaves that a loop over layers slices."""
    return {name: leaf for name, leaf in leaves.items() if not _is_apart(leaf)}


def chosen(leaves: Mapping[str, Any], layer: Int32[Array, ""]) -> dict[str, Any]:
    """The rest of them, at a layer."""
    return {name: Chosen(leaf, layer) for name, leaf in leaves.items() if _is_apart(leaf)}


def _is_apart(leaf: Any) -> bool:
    return isinstance(leaf, Apart)
