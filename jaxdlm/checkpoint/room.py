"""Whether weights fit the devices that shall hold them, asked before a byte of them is read."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxdlm.errors import InputError

Leaf = tuple[str, tuple[int, ...], float]  # path, shape, bytes per number

GB = 10**9


def per_device(leaves: Iterable[Leaf], places: Mapping[str, Any] | None = None) -> int:
    """Bytes of the weights that one device holds. places: sharding by path; None: one device holds everything."""

    def held(path: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape if places is None else places[path].shard_shape(shape))

    return math.ceil(sum(held(path, shape) * size for path, shape, size in leaves))


def check(name: str, leaves: Iterable[Leaf], places: Mapping[str, Any] | None = None) -> None:
    """Raises InputError with the numbers where a device has less memory free than its part of the weights takes.

    Devices that do not tell their memory (CPUs) are taken to have enough.
    """
    leaves = list(leaves)
    devices = sorted(_devices(places), key=lambda device: device.id)
    need = per_device(leaves, places)
    for device in devices:
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats and need > (free := stats["bytes_limit"] - stats.get("bytes_in_use", 0)):
            count = sum(math.prod(shape) for _, shape, _ in leaves)
            raise InputError(
                f"{name} has {count / GB:.2f} billion weights, {need / GB:.2f} GB of them for {device}, which has "
                f"{free / GB:.2f} GB free of {stats['bytes_limit'] / GB:.2f}: spread it over more devices (mesh), load it in a "
                f"narrower dtype, or convert it to int8 or int4 (docs/convert.md)"
            )


def _devices(places: Mapping[str, Any] | None) -> set[Any]:
    if not places:
        return {jax.local_devices()[0]}
    return set().union(*(place.addressable_devices for place in places.values()))
