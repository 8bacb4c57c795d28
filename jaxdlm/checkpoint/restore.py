"""Leaves onto devices, straight from safetensors or from a converted checkpoint: one leaf at a time, never two copies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdlm.checkpoint import store
from jaxdlm.checkpoint.leaf import LeafSpec, contiguous, unflatten
from jaxdlm.checkpoint.placement import shardings, stacked_zeros
from jaxdlm.checkpoint.source import Source, leaf_dtype, open_folder
from jaxdlm.checkpoint.spec import Spec, StoredLeaf, read_spec

Progress = Callable[[str, int], None]  # (leaf, bytes just loaded)


def load_params(
    source: Source | str | Path, mesh: Mesh | None = None, dtype: str | None = None, progress: Progress | None = None
) -> Any:
    """The parameter tree of an opened folder (or of a path), on the default device or sharded over a mesh.

    dtype: "float32", "bfloat16", "float16" or None (as stored); small float32 leaves (norms, routers) stay float32
    where the file has them so. Reads each device's part only; the most that is held on the host is one device's part
    of one leaf. What is read of a converted checkpoint is compared with its checksums. Raises CheckpointError.
    """
    opened = source if isinstance(source, Source) else open_folder(source)
    places: Mapping[str, Any] = (
        dict.fromkeys((leaf.path for leaf in opened.leaves), SingleDeviceSharding(jax.devices()[0]))
        if mesh is None
        else shardings(opened.config, mesh)
    )
    if opened.kind == "converted":
        return _load_converted(opened, places, dtype, progress)
    leaves = {}
    for leaf in opened.leaves:
        target = leaf.astype(leaf_dtype(opened.config, leaf.path, leaf.dtype, dtype))
        leaves[leaf.path] = _place(target, places[leaf.path])
        if progress:
            progress(leaf.path, target.nbytes)
    return unflatten(leaves)


def _place(leaf: LeafSpec, sharding: Any) -> jax.Array:
    array = jax.make_array_from_callback(leaf.shape, sharding, lambda index: contiguous(leaf.read(index)))
    return jax.block_until_ready(array)


def _load_converted(opened: Source, places: Mapping[str, Any], dtype: str | None, progress: Progress | None) -> Any:
    spec = read_spec(opened.folder)
    done: dict[str, jax.Array] = {}
    for group, members in by_group(spec).items():
        folder = store.group_folder(opened.folder, group)
        for leaf, number in members:  # one by one: the host never holds more than one part
            name = leaf.name(number)
            store.check_seal(leaf.stored(opened.folder, number), leaf.sums[number])
            value = store.read_array(folder, name, _target(opened, leaf, places[leaf.path], dtype))
            if leaf.split:
                value = _insert(done.get(leaf.path), value, number, leaf, places[leaf.path])
            done[leaf.path] = value
            if progress:
                progress(leaf.path, int(np.prod(leaf.part_shape, dtype=np.int64)) * value.dtype.itemsize)
    return unflatten({leaf.path: done[leaf.path] for leaf in spec.leaves})


def by_group(spec: Spec) -> dict[int, list[tuple[StoredLeaf, int]]]:
    """Group number -> (leaf, part number) of everything in it."""
    groups: dict[int, list[tuple[StoredLeaf, int]]] = {}
    for leaf in spec.leaves:
        for number, group in enumerate(leaf.groups):
            groups.setdefault(group, []).append((leaf, number))
    return dict(sorted(groups.items()))


def _target(opened: Source, leaf: StoredLeaf, sharding: Any, dtype: str | None) -> jax.ShapeDtypeStruct:
    stored = next(spec.dtype for spec in opened.leaves if spec.path == leaf.path)
    kind = leaf_dtype(opened.config, leaf.path, stored, dtype)
    if leaf.split and isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return jax.ShapeDtypeStruct(leaf.part_shape, kind, sharding=sharding)


def _insert(stacked: jax.Array | None, part: jax.Array, number: int, leaf: StoredLeaf, sharding: Any) -> jax.Array:
    """Write one layer into the stacked leaf in place (the buffer is donated, so it exists once)."""
    if stacked is None:
        stacked = stacked_zeros(leaf.shape, part.dtype, sharding)
    return jax.block_until_ready(_write(sharding)(stacked, part, np.int32(number)))


@functools.lru_cache(maxsize=64)
def _write(sharding: Any) -> Callable[..., jax.Array]:
    return jax.jit(
        lambda stacked, part, number: jax.lax.dynamic_update_index_in_dim(stacked, part, number, 0),
        donate_argnums=0,
        out_shardings=sharding,
    )
