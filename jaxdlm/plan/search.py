"""Which mesh a job needs, and how many rows fit: as few compilations as an almost linear need for memory allows."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jax.sharding import Mesh

from jaxdlm.errors import InputError
from jaxdlm.plan.aot import Compiled, DoesNotFit, Job, compile_decode, slice_mesh, weights_per_chip
from jaxdlm.plan.chips import device_count
from jaxdlm.sharding import make_mesh

ROWS = 8  # per group of chips that share the weights, where the user names no batch
AXES = ("data", "tensor", "expert")
ROOM = 0.95  # of the memory: weights that leave less are not worth a compilation
PROBES = 5

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mesh, the job on it, and its program or the reason why there is none."""

    job: Job
    mesh: Mesh
    outcome: Compiled | DoesNotFit

    @property
    def fits(self) -> bool:
        return isinstance(self.outcome, Compiled)


def groups(mesh: Mesh) -> int:
    """Groups of chips with rows of their own, as many copies of the weights."""
    return mesh.shape["data"]


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
    chips, fixed = device_count(topology), math.prod(size for size in axes.values() if size != -1)
    whole = fixed > 0 and chips % fixed == 0 and (list(axes.values()).count(-1) == 1 or fixed == chips)
    if not whole or list(axes.values()).count(-1) > 1:
        raise InputError(f"--mesh {words!r} does not divide the {chips} chips of {topology} without rest")
    return {"data": 1} | axes


def on_mesh(
    job: Job, mesh: Mesh, rows: int | None, limit: int, report: Report, *, each: int = ROWS, text: bool = True
) -> Trial:
    """The job compiled for a mesh of chips with `limit` bytes each; `rows`: the user's batch, default `each` per group.

    Where the weights alone do not fit, nothing is compiled. text: whether the program is kept to be read. Raises
    InputError for rows that do not divide.
    """
    count = groups(mesh)
    batch = each * count if rows is None else rows
    if batch % count:
        near = batch // count * count or count
        raise InputError(
            f"--batch {batch} does not divide among {count} groups of rows (mesh {named(mesh)}): try {near}"
        )
    job = dataclasses.replace(job, batch=batch)
    if weights_per_chip(job, mesh) > limit:
        return Trial(job, mesh, DoesNotFit(None, limit))
    report(f"compiling {job.lm.name} for {mesh.size} chips, {named(mesh)}, {batch} rows")
    try:
        compiled = compile_decode(job, mesh, text=text)
    except DoesNotFit as error:
        return Trial(job, mesh, error)
    need = compiled.memory.total  # a compiler that knows no limit refuses nothing
    return Trial(job, mesh, compiled if need <= limit else DoesNotFit(need, limit))


def choose(job: Job, meshes: Iterable[Mesh], rows: int | None, limit: int, report: Report, **more: Any) -> Trial:
    """The first mesh that fits; `more` goes to `on_mesh`. Where none fits, the last one.

    One whose weights leave less than a twentieth of the memory is passed over without compiling.
    """
    meshes = list(meshes)
    for mesh in meshes:
        if weights_per_chip(job, mesh) > ROOM * limit and mesh is not meshes[-1]:
            continue
        fit = on_mesh(job, mesh, rows, limit, report, **more)
        if fit.fits:
            break
    return fit


def meshes(topology: str, rows: int | None) -> Iterator[Mesh]:
    """Ways to divide a slice, the fewest chips per copy of the weights first (fewer chips mean fewer collectives), all
    others along the rows, as far as the rows divide."""
    chips = device_count(topology)
    for tensor in _divisors(chips):
        if rows is None or rows % (chips // tensor) == 0:
            yield slice_mesh(topology, {"data": chips // tensor, "tensor": tensor})


def fitting(job: Job, devices: list[Any], each: int, report: Report) -> Mesh:
    """The mesh of devices that are here with the fewest of them per copy of the weights that fits, `each` rows per copy.

    Nothing is compiled for one device, nor where the memory is not known (a CPU): then every device has a
    copy. Raises InputError where no mesh fits.
    """
    ways = [{"data": len(devices) // tensor, "tensor": tensor, "expert": 1} for tensor in _divisors(len(devices))]
    options = [make_mesh(way, devices) for way in ways]
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if len(devices) == 1 or not limit:
        return options[0]
    best = choose(job, options, None, limit, report, each=each, text=False)
    if not best.fits:
        raise InputError(
            f"{job.lm.name} with {each} rows of {sum(job.columns[:1]) + job.max_new} columns does not fit {len(devices)} "
            f"devices of {limit / 2**30:.2f} GiB: lower --slots or --max-new, or take more devices per host"
        )
    return best.mesh


def _divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]


def named(mesh: Mesh) -> str:
    """ "data 2 × tensor 4" """
    return " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that was compiled and fits, the smallest that did not, and the number of compilations."""

    fits: int | None
    fails: int | None
    compilations: int


def largest_batch(best: Trial, limit: int, report: Report) -> Largest:
    """Rows that fit into `limit` bytes per chip: a secant on (batch, bytes), each guess compiled, at most `PROBES`.

    Guesses are rounded down to an eighth of a power of two groups, so the answer may be up to an eighth too small.
    """
    unit = groups(best.mesh)
    if weights_per_chip(best.job, best.mesh) > limit:
        return Largest(None, None, 0)
    base = weights_per_chip(best.job, best.mesh)
    good, bad = (best.job.batch, None) if best.fits else (None, best.job.batch)
    points = {0: float(base), best.job.batch: float(_needed(best.outcome, limit))}
    probes = 0
    while probes < PROBES:
        guess = next_batch(points, limit, unit, good, bad)
        if guess is None:
            break
        probes += 1
        tried = on_mesh(best.job, best.mesh, guess, limit, report)
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
