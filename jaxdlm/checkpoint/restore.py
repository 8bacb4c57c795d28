"""Leaves onto devices, straight from safetensors or from a converted checkpoint: one leaf at a time, never two copies."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdlm import quant
from jaxdlm.checkpoint import room, store
from jaxdlm.checkpoint.leaf import STORED, LeafSpec, contiguous, unflatten
from jaxdlm.checkpoint.placement import shardings, stacked_zeros
from jaxdlm.checkpoint.quantised import CODES, ROOT, SCALE, Dequantised, Layout, weight_dtype
from jaxdlm.checkpoint.source import Checkpoint, leaf_dtype, open_folder
from jaxdlm.checkpoint.spec import Spec, StoredLeaf, itemsize, read_spec
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.params import named_specs
from jaxdlm.sharding import laid, relaid

Progress = Callable[[str, int], None]  # (leaf, bytes just loaded)


def load_params(
    source: Checkpoint | str | Path,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Any:
    """The parameter tree of an opened folder (or of a path), on the default device or sharded over a mesh.

    dtype: "float32", "bfloat16", "float16" or None (as stored; of a GGUF file with quantised tensors bfloat16); small
    float32 leaves (norms, routers) stay float32 where the file has them so. Reads each device's part only; the most that
    is held on the host is one device's part of one leaf. What is read of a converted checkpoint is compared with its
    checksums. Raises CheckpointError, and InputError where a device has no room for its part.
    """
    opened = source if isinstance(source, Checkpoint) else open_folder(source)
    places: Mapping[str, Any] = (
        dict.fromkeys((leaf.path for leaf in opened.leaves), SingleDeviceSharding(jax.devices()[0]))
        if mesh is None
        else shardings(opened.config, mesh)
    )
    room.check(str(opened.folder), [_held(opened, leaf, dtype) for leaf in opened.leaves], places)
    if opened.kind == "converted":
        return _load_converted(opened, places, dtype, progress)
    leaves = {}
    for leaf in opened.leaves:
        target = leaf.astype(leaf_dtype(opened.config, leaf.path, leaf.dtype, dtype or opened.dtype))
        leaves[leaf.path] = relaid(leaf.path, _place(target, places[leaf.path]))
        if progress:
            progress(leaf.path, target.nbytes)
    return unflatten(leaves)


def _held(opened: Checkpoint, leaf: LeafSpec, dtype: str | None) -> room.Leaf:
    """What a leaf takes on its devices."""
    if isinstance(leaf.tensors, Dequantised):  # codes, and a scale per group of rows
        how = leaf.tensors.layout.how
        return leaf.path, leaf.shape, how.bits / 8 + 4 / how.group
    kind = leaf_dtype(opened.config, leaf.path, leaf.dtype, dtype or opened.dtype)
    return leaf.path, leaf.shape, kind.itemsize


def _place(leaf: LeafSpec, sharding: Any) -> jax.Array:
    array = jax.make_array_from_callback(leaf.shape, sharding, lambda index: contiguous(leaf.read(index)))
    return jax.block_until_ready(array)


def _load_converted(opened: Checkpoint, places: Mapping[str, Any], dtype: str | None, progress: Progress | None) -> Any:
    spec = read_spec(opened.folder)
    layouts = {
        leaf.path: leaf.tensors.layout for leaf in opened.leaves if isinstance(leaf.tensors, Dequantised)
    }  # fmt: skip
    places = _with_arrays(places, layouts, opened.config)
    done: dict[str, Any] = {}
    roots: dict[str, list[np.ndarray]] = {}
    for members in by_group(spec).values():
        for leaf, number in members:  # one by one: the host never holds more than one part
            (path, _, array), stored = leaf.path.rpartition("/"), leaf.stored(opened.folder, number)
            store.check_seal(stored, leaf.sums[number])
            if path in layouts and array == ROOT:
                roots.setdefault(path, []).append(store.read_rows(stored))  # one number per layer
                continue
            value = store.read_array(stored, _target(opened, leaf, places[leaf.path], dtype))
            columns = layouts[path].flat.columns if leaf.dtype == "uint8" else None  # of codes, two to a byte
            if leaf.split:
                place = laid(leaf.path, places[leaf.path])
                done[leaf.path] = _insert(done.get(leaf.path), value, number, leaf.shape[0], place, columns)
            else:
                value = value if columns is None else _unpacker(columns, places[leaf.path])(value)
                done[leaf.path] = relaid(leaf.path, value)
            if progress:
                progress(leaf.path, math.prod(leaf.part_shape) * itemsize(leaf.dtype))
    for path, layout in layouts.items():
        codes, scale = (done.pop(f"{path}/{name}") for name in (CODES, SCALE))
        kind = str(leaf_dtype(opened.config, path, weight_dtype(layout.how), dtype))
        done[path] = layout.assemble(codes, scale, _exponents(roots.get(path)), kind, places[path])
    return unflatten({leaf.path: done[leaf.path] for leaf in opened.leaves})


def _exponents(roots: list[np.ndarray] | None) -> np.ndarray | None:
    return None if roots is None else np.concatenate([root.reshape(-1) for root in roots])


def _with_arrays(places: Mapping[str, Any], layouts: Mapping[str, Layout], config: ModelConfig) -> Mapping[str, Any]:
    """Places by path, those of the arrays of quantised leaves among them."""
    merged, specs = dict(places), dict(named_specs(config))
    for path, layout in layouts.items():
        where = places[path]
        spread = isinstance(where, NamedSharding)
        arrays = layout.places(specs[path], where.mesh) if spread else dict.fromkeys(layout.arrays, where)
        merged |= {f"{path}/{name}": place for name, place in arrays.items()}
    return merged


def by_group(spec: Spec) -> dict[int, list[tuple[StoredLeaf, int]]]:
    """Group number -> (leaf, part number) of everything in it."""
    groups: dict[int, list[tuple[StoredLeaf, int]]] = {}
    for leaf in spec.leaves:
        for number, group in enumerate(leaf.groups):
            groups.setdefault(group, []).append((leaf, number))
    return dict(sorted(groups.items()))


def _target(opened: Checkpoint, leaf: StoredLeaf, sharding: Any, dtype: str | None) -> jax.ShapeDtypeStruct:
    kind, where = STORED[leaf.dtype], _of_part(leaf, sharding)
    if leaf.path in (spec.path for spec in opened.leaves):
        kind = leaf_dtype(opened.config, leaf.path, kind, dtype)
    if leaf.dtype == "uint8":
        where = _of_bytes(where, leaf.part_shape)
    return jax.ShapeDtypeStruct(leaf.part_shape, kind, sharding=where)


def _of_part(leaf: StoredLeaf, sharding: Any) -> Any:
    """The sharding of one layer of a leaf that is stored so, else of the leaf."""
    if leaf.split and isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


def _of_bytes(sharding: Any, shape: tuple[int, ...]) -> Any:
    """The sharding of codes for the bytes that hold two each: the same, unless a byte would lie on two devices."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    *lead, last = sharding.spec
    fits = last is None or shape[-1] % sharding.mesh.shape[last] == 0
    return NamedSharding(sharding.mesh, PartitionSpec(*lead, last if fits else None))


@functools.lru_cache(maxsize=64)
def _unpacker(columns: int, sharding: Any) -> Callable[[jax.Array], jax.Array]:
    """int4 codes from bytes, on the devices that hold them."""
    return jax.jit(lambda packed: quant.unpack(packed, columns), out_shardings=sharding)


def _insert(
    stacked: jax.Array | None, part: jax.Array, number: int, count: int, sharding: Any, columns: int | None
) -> jax.Array:
    """Write one layer into the stacked leaf in place (the buffer is donated, so it exists once); columns: of packed codes."""
    if stacked is None:
        shape, kind = (part.shape, part.dtype) if columns is None else ((*part.shape[:-1], columns), jnp.int4)
        stacked = stacked_zeros((count, *shape), kind, sharding)
    return jax.block_until_ready(_write(sharding, columns)(stacked, part, np.int32(number)))


@functools.lru_cache(maxsize=64)
def _write(sharding: Any, columns: int | None) -> Callable[..., jax.Array]:
    def write(stacked: jax.Array, part: jax.Array, number: jax.Array) -> jax.Array:
        part = part if columns is None else quant.unpack(part, columns)
        return jax.lax.dynamic_update_index_in_dim(stacked, part, number, 0)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
