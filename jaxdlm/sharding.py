"""Where each dimension of a parameter lives on a mesh: logical axis names -> mesh axes, one table."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.apart import Place
from jaxdlm.models.attention import Spread
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import ParamSpec, map_specs
from jaxdlm.quant import QuantizedLeaf
from jaxdlm.typing import PyTree

# logical axis (ParamSpec.axes) -> mesh axis. A mesh that lacks the axis keeps that dimension whole.
RULES: dict[str, str] = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "experts": "expert",
    "embed": "fsdp",
}
BATCH = ("data", "fsdp")
# leaves whose axes a TPU reads in another order than they are declared in, slowest first: a head's columns together. In the
# order of their axes each program would copy the stack first (benchmarks/weight_layouts.py)
ORDERS: dict[str, tuple[int, ...]] = dict.fromkeys(("wq", "wk", "wv"), (0, 2, 1, 3))
REORDERS = ("tpu",)  # platforms of which that is true
WHOLE = 2**30  # bytes of float32 logits that a GPU may hold at once


def make_mesh(axes: Mapping[str, int], devices: Any = None) -> Mesh:
    """A mesh with these axis sizes (one may be -1), `AxisType.Auto` throughout, so that jit places the collectives.

    Usual axes: data (rows of a batch), tensor (heads, feed-forward, vocabulary), fsdp (hidden size), expert.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes, open_axes = dict(axes), [name for name, size in axes.items() if size == -1]
    fixed = 1
    for size in sizes.values():
        fixed *= 1 if size == -1 else size
    if len(open_axes) > 1 or fixed < 1 or len(devices) < fixed:
        raise InputError(f"mesh {dict(axes)} needs {fixed} devices and at most one -1; there are {len(devices)}")
    if open_axes:
        sizes[open_axes[0]] = len(devices) // fixed
        fixed *= sizes[open_axes[0]]
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices[:fixed]
    )


def partition(spec: ParamSpec, mesh: Mesh, rules: Mapping[str, str] = RULES) -> PartitionSpec:
    """The PartitionSpec of a leaf. A dimension that the mesh axis does not divide stays whole, as does the second
    dimension that would claim the same mesh axis."""
    claimed: set[str] = set()
    entries: list[str | None] = []
    for size, axis in zip(spec.shape, spec.axes, strict=True):
        target = rules.get(axis) if axis is not None else None
        fits = target in mesh.shape and target not in claimed and size % mesh.shape[target] == 0
        entries.append(target if fits else None)
        if fits and target is not None:
            claimed.add(target)
    return PartitionSpec(*entries)


def param_shardings(config: ModelConfig, mesh: Mesh, rules: Mapping[str, str] = RULES) -> PyTree:
    """NamedSharding for every leaf of the parameter tree."""
    return map_specs(lambda _, spec: NamedSharding(mesh, partition(spec, mesh, rules)), config)


def laid(path: str, place: Any) -> Any:
    """Where a leaf lies and in which order of its axes: a `Format` for one that a TPU reads in an order of its own, else the
    sharding as it is. Shape, values and files know nothing of it."""
    order = ORDERS.get(path.rsplit("/", 1)[-1])
    platforms = {device.platform for device in place.device_set}
    if order is None or not platforms or not platforms <= set(REORDERS):
        return place
    return Format(Layout(order), place)


def relaid(path: str, leaf: Any) -> Any:
    """A leaf that lies on its devices, in the order in which they read it; the given one is gone where that is another."""
    if not isinstance(leaf, jax.Array):
        return leaf  # codes
    place = laid(path, leaf.sharding)
    return jax.device_put(leaf, place, donate=True) if isinstance(place, Format) else leaf


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(tuple(axis for axis in BATCH if axis in mesh.shape) or None))


def beside(params: PyTree, rows: PyTree, whole: PyTree) -> tuple[PyTree, PyTree]:
    """Both on the devices of weights that several share: `rows` over the data axes where they divide, `whole` (a draft's
    weights) on each. With the weights on one device: as they are."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(where, NamedSharding) or len(where.device_set) == 1:
        return rows, whole
    everywhere, split = NamedSharding(where.mesh, PartitionSpec()), batch_sharding(where.mesh)
    groups = math.prod(where.mesh.shape[axis] for axis in BATCH if axis in where.mesh.shape)
    count = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    divided = all(number % groups == 0 for number in count)
    return jax.device_put(rows, split if divided else everywhere), jax.device_put(whole, everywhere)


def striped(model: Model, params: PyTree, columns: int = 0) -> Model:
    """The model as its weights lie. No `Backbone`: as it is.

    The head's vocabulary is in as many stripes as devices share it, so that each reads its own part of every tile
    (`core.model.Tiling`); `alone` where all lies on one device; `spread` says which rows and heads each of several has, `place`
    which of its experts.
    columns: those whose logits a forward computes, all rows together. On a GPU, where a tile is copied out of the
    head before its product, it is read whole if their logits take at most `WHOLE` bytes; 0: not known, in tiles.
    """
    if not isinstance(model, Backbone):
        return model
    tied = model.config.tie_embeddings
    leaf = params["embed" if tied else "lm_head"]
    quantised = isinstance(leaf, QuantizedLeaf)
    placed = getattr(leaf.codes if quantised else leaf, "sharding", None)
    alone = placed is not None and len(placed.device_set) == 1
    platform = "" if placed is None else next(iter(placed.device_set)).platform
    gpu = placed is not None and all(device.platform == "gpu" for device in placed.device_set)
    if gpu and 0 < 4 * columns * model.config.vocab_size <= WHOLE:
        model = dataclasses.replace(model, tile=model.config.vocab_size)
    if not isinstance(placed, NamedSharding):
        return dataclasses.replace(model, alone=alone, place=Place(platform) if alone else None)
    # the vocabulary is the first axis of an embedding, the last of a head and of its codes
    axis = 0 if tied and not quantised else 1
    names = placed.spec[axis] if axis < len(placed.spec) else None
    names = (names,) if isinstance(names, str) else names or ()
    stripes = math.prod(placed.mesh.shape[name] for name in names)
    return dataclasses.replace(
        model, stripes=stripes, alone=alone, spread=None if alone else spread(model.config, placed.mesh),
        place=Place(platform) if alone else place_on(model.config, placed.mesh, platform),
    )  # fmt: skip


def place_on(config: ModelConfig, mesh: Any, platform: str) -> Place | None:
    """How devices of a mesh share the experts; None where each has a part of the hidden axis."""
    if mesh.shape.get(RULES["embed"], 1) > 1:
        return None
    share = lambda axis, size: axis if mesh.shape.get(axis, 1) > 1 and size % mesh.shape[axis] == 0 else None  # noqa: E731
    rows = tuple(axis for axis in BATCH if axis in mesh.shape)
    return Place(
        platform, mesh, rows, share(RULES["ffn"], config.expert_size), share(RULES["experts"], config.num_experts)
    )


def spread(config: ModelConfig, mesh: Any) -> Spread | None:
    """Where rows and heads of a program on the mesh lie; None where devices share the query heads, but not the others."""
    rows = tuple(axis for axis in BATCH if axis in mesh.shape)
    axis, shapes = RULES["heads"], [config.attention_shape(kind) for kind in config.kinds]
    devices = mesh.shape.get(axis, 1)
    whole = [size % devices != 0 for size in (config.num_heads, *(kv for kv, _ in shapes))]
    if any(whole) and not all(whole):
        return None
    return Spread(mesh, rows, None if devices == 1 or any(whole) else axis)


def widens(params: PyTree) -> bool:
    """Whether the weights are of 16 bits and lie on a CPU, where a row's bits are kept by default."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    narrow = any(jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2 for leaf in leaves)
    return narrow and on_cpu(params)


def on_cpu(params: PyTree) -> bool:
    """Whether the weights lie on a CPU."""
    leaf = next((leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)), None)
    return leaf is not None and all(device.platform == "cpu" for device in leaf.devices())
