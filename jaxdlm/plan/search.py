"""Which mesh a job needs, and how many rows fit: as few compilations as an almost linear need for memory allows."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from jaxdlm.errors import InputError
from jaxdlm.models.params import abstract_params
from jaxdlm.plan.aot import Compiled, DoesNotFit, Job, bytes_per_chip, compile_decode, placed, slice_mesh
from jaxdlm.plan.chips import chip_count, chip_of
from jaxdlm.sharding import BATCH, param_shardings

ROWS = 8  # per group of chips that share the weights, where the user names no batch
AXES = ("data", "fsdp", "tensor", "expert")
PROBES = 5

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Found:
    """A mesh, the job on it, and its program or the reason why there is none."""

    job: Job
    mesh: Mesh
    outcome: Compiled | DoesNotFit

    @property
    def fits(self) -> bool:
        return isinstance(self.outcome, Compiled)


def groups(mesh: Mesh) -> int:
    """Groups of chips with rows of their own."""
    return math.prod(mesh.shape[axis] for axis in BATCH if axis in mesh.shape)


def read_mesh(words: str, topology: str) -> dict[str, int]:
    """ "data=2,tensor=4" to axis sizes that use every chip; one may be -1. Raises InputError otherwise."""
    axes: dict[str, int] = {}
    for part in words.split(","):
        name, _, size = part.partition("=")
        try:
            axes[name.strip()] = int(size)
        except ValueError:
            raise InputError(f"--mesh {words!r}: write it as data=2,tensor=4") from None
    wrong = [name for name in axes if name not in AXES]
    if wrong:
        raise InputError(f"--mesh {words!r}: unknown axis {wrong[0]!r}, one of {', '.join(AXES)}")
    chips, fixed = chip_count(topology), math.prod(size for size in axes.values() if size != -1)
    whole = fixed > 0 and chips % fixed == 0 and (list(axes.values()).count(-1) == 1 or fixed == chips)
    if not whole or list(axes.values()).count(-1) > 1:
        raise InputError(f"--mesh {words!r} does not divide the {chips} chips of {topology} without rest")
    return axes


def on_mesh(job: Job, mesh: Mesh, rows: int | None, limit: int, report: Report) -> Found:
    """The job compiled for a mesh of chips with `limit` bytes each; `rows`: the user's batch, default 8 per group.

    Where the weights alone do not fit, nothing is compiled. Raises InputError for rows that do not divide.
    """
    count = groups(mesh)
    batch = ROWS * count if rows is None else rows
    if batch % count:
        near = batch // count * count or count
        raise InputError(
            f"--batch {batch} does not divide among {count} groups of rows (mesh {named(mesh)}): try {near}"
        )
    job = dataclasses.replace(job, batch=batch)
    if weights_per_chip(job, mesh) > limit:
        return Found(job, mesh, DoesNotFit(None, limit))
    report(f"compiling {job.model} for {mesh.size} chips, {named(mesh)}, {batch} rows")
    try:
        return Found(job, mesh, compile_decode(job, mesh))
    except DoesNotFit as error:
        return Found(job, mesh, error)


def choose(job: Job, topology: str, rows: int | None, report: Report) -> Found:
    """The mesh with the fewest chips per copy of the weights that fits, everything else along the rows.

    Fewer chips per copy means fewer collectives. A mesh whose weights leave less than a twentieth of the memory is passed
    over without compiling. Where no mesh fits, the one with all chips per copy.
    """
    limit = chip_of(topology).hbm
    for mesh in _meshes(topology, rows):
        if weights_per_chip(job, mesh) > 0.95 * limit and mesh.shape["data"] > 1:
            continue
        found = on_mesh(job, mesh, rows, limit, report)
        if found.fits:
            break
    return found


def _meshes(topology: str, rows: int | None) -> Iterator[Mesh]:
    chips = chip_count(topology)
    for tensor in (size for size in range(1, chips + 1) if chips % size == 0):
        if rows is None or rows % (chips // tensor) == 0:
            yield slice_mesh(topology, {"data": chips // tensor, "tensor": tensor})


def weights_per_chip(job: Job, mesh: Mesh) -> int:
    """Bytes of the weights that one chip holds; nothing is compiled."""
    import jax

    return bytes_per_chip(jax.tree.map(placed, abstract_params(job.config), param_shardings(job.config, mesh)))


def named(mesh: Mesh) -> str:
    """ "data 2 × tensor 4" """
    return " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that was compiled and fits, the smallest that did not, and the number of compilations."""

    fits: int | None
    fails: int | None
    compilations: int


def largest_batch(found: Found, limit: int, report: Report) -> Largest:
    """Rows that fit into `limit` bytes per chip: a secant on (batch, bytes), each guess compiled, at most `PROBES`.

    Guesses are rounded down to an eighth of a power of two groups, so the answer may be up to an eighth too small.
    """
    unit = groups(found.mesh)
    if weights_per_chip(found.job, found.mesh) > limit:
        return Largest(None, None, 0)
    base = weights_per_chip(found.job, found.mesh)
    good, bad = (found.job.batch, None) if found.fits else (None, found.job.batch)
    points = {0: float(base), found.job.batch: float(_needed(found.outcome, limit))}
    probes = 0
    while probes < PROBES:
        guess = next_batch(points, limit, unit, good, bad)
        if guess is None:
            break
        probes += 1
        tried = on_mesh(found.job, found.mesh, guess, limit, report)
        points[guess] = float(_needed(tried.outcome, limit))
        good, bad = (guess, bad) if tried.fits else (good, guess)
    return Largest(good, bad, probes)


def next_batch(points: dict[int, float], limit: float, unit: int, good: int | None, bad: int | None) -> int | None:
    """The batch to try next, or None where nothing between what fits and what does not is worth a compilation."""
    (x0, y0), (x1, y1) = sorted(points.items(), key=lambda point: abs(limit - point[1]))[:2]
    slope = (y1 - y0) / (x1 - x0)
    low, high = good or 0, math.inf if bad is None else bad
    guess = x0 + (limit - y0) / slope if slope > 0 else math.inf
    guess = min(guess, 16 * max(low, unit))  # a straight line is not trusted further than that
    if guess >= high:
        guess = (low + high) / 2
    guess = max(rounded(guess, unit), 0 if low else unit)
    return guess if low < guess < high else None


def rounded(batch: float, unit: int) -> int:
    """Down to a multiple of the unit with at most four significant bits."""
    grain = _grain(batch, unit)
    return int(batch // grain) * grain


def _grain(batch: float, unit: int) -> int:
    return unit * 2 ** max(0, int(math.log2(max(batch / unit, 1))) - 3)


def _needed(outcome: Any, limit: int) -> int:
    if isinstance(outcome, Compiled):
        return outcome.memory.total
    return outcome.needed or 2 * limit
