"""Published figures of one chip of each TPU generation, and the slices that can be planned for."""

import dataclasses

from jaxdlm.errors import InputError

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip, as the vendor's system-architecture pages state them (cloud.google.com/tpu/docs).

    hbm: bytes that the compiler lets a program use (libtpu 0.0.52 names them when a program does not fit); the page says
    16, 95 and 32 GB. bandwidth: HBM bytes/s. flops: dense bfloat16 per second. link: bytes/s of one link in one
    direction (the page's figure per chip over its 4 or 6 links and both directions).
    """

    generation: str
    hbm: int
    bandwidth: float
    flops: float
    link: float


CHIPS = {
    chip.generation: chip
    for chip in (
        Chip("v5e", int(15.75 * GIB), 819 * GB, 197e12, 50 * GB),
        Chip("v5p", int(95.73 * GIB), 2765 * GB, 459e12, 100 * GB),
        Chip("v6e", int(31.24 * GIB), 1638 * GB, 918e12, 100 * GB),
    )
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
SLICES = {"v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}
TOPOLOGIES = tuple(f"{generation}:{shape}" for generation, shapes in SLICES.items() for shape in shapes)


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:2x4". Raises InputError with the list of those known."""
    if topology not in TOPOLOGIES:
        known = "; ".join(f"{generation}:{{{','.join(shapes)}}}" for generation, shapes in SLICES.items())
        raise InputError(f"unknown topology {topology!r}: one of {known}")
    return CHIPS[topology.split(":")[0]]


def host_chips(topology: str) -> int:
    """Chips of one host of a slice: four, but for v5e and v6e slices of up to eight, which are one host."""
    most = 8 if SLICES[topology.split(":")[0]] == _FLAT and chip_count(topology) <= 8 else 4
    return min(most, chip_count(topology))


def chip_count(topology: str) -> int:
    """Chips of a slice."""
    count = 1
    for side in topology.split(":")[1].split("x"):
        count *= int(side)
    return count
