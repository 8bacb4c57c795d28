"""Published figures of each TPU generation, and the slices that can be planned for."""

import dataclasses
import math

from jaxdlm.errors import InputError

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of what JAX calls a device, as the vendor's system-architecture pages state them
    (cloud.google.com/tpu/docs): a chip, but on TPU7x one of its two cores, with half of the chip's figures.

    hbm: bytes that the compiler lets a program use (libtpu 0.0.52 names them when a program does not fit); the pages say
    16, 95, 32 and 192 / 2 GB. bandwidth: HBM bytes/s. flops: dense bfloat16 per second. link: bytes/s of one link of the
    chip in one direction (the page's figure per chip over its 4 or 6 links and both directions). devices: per chip.
    """

    generation: str
    hbm: int
    bandwidth: float
    flops: float
    link: float
    devices: int = 1


CHIPS = {
    chip.generation: chip
    for chip in (
        Chip("v5e", int(15.75 * GIB), 819 * GB, 197e12, 50 * GB),
        Chip("v5p", int(95.73 * GIB), 2765 * GB, 459e12, 100 * GB),
        Chip("v6e", int(31.24 * GIB), 1638 * GB, 918e12, 100 * GB),
        Chip("tpu7x", int(94.74 * GIB), 7380 * GB / 2, 2307e12 / 2, 100 * GB, devices=2),
    )
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
SLICES = {"v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT, "tpu7x": _CUBES}
TOPOLOGIES = tuple(f"{generation}:{shape}" for generation, shapes in SLICES.items() for shape in shapes)


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:2x4". Raises InputError with the list of those known."""
    if topology not in TOPOLOGIES:
        known = "; ".join(f"{generation}:{{{','.join(shapes)}}}" for generation, shapes in SLICES.items())
        raise InputError(f"unknown topology {topology!r}: one of {known}")
    return CHIPS[topology.split(":")[0]]


def host_devices(topology: str) -> int:
    """Devices of one host of a slice: of four chips, but v5e and v6e slices of up to eight are one host."""
    flat = SLICES[topology.split(":")[0]] == _FLAT
    most = 8 if flat and device_count(topology) <= 8 else 4 * chip_of(topology).devices
    return min(most, device_count(topology))


def device_count(topology: str) -> int:
    """Devices of a slice."""
    return chip_of(topology).devices * math.prod(map(int, topology.split(":")[1].split("x")))
