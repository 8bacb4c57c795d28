"""The search for the largest batch, on memories that are known functions of the batch; and the choice of a mesh."""

import math

import jax
import pytest

from jaxdlm.errors import InputError
from jaxdlm.plan import search
from jaxdlm.plan.aot import Compiled, DoesNotFit, Job, Memory
from jaxdlm.sharding import make_mesh

JOB = Job("llada-8b", 8, 256, 256, 32)
GIB = 2**30
WEIGHTS = 16_030_111_744  # of llada-8b on one chip, without its layout; only as a start of the line


@pytest.fixture
def compiler(monkeypatch):
    """Replaces the TPU compiler by bytes(rows per group); returns the batches that were tried."""
    tried = []

    def install(need, limit, *, says=True):
        def compile_decode(job, mesh, text=True):
            tried.append((dict(mesh.shape), job.batch))
            total = int(need(job.batch / search.groups(mesh)) + WEIGHTS / mesh.shape.get("tensor", 1))
            if total > limit:
                raise DoesNotFit(total if says else None, limit)
            return Compiled(Memory(WEIGHTS, 0, 0, total - WEIGHTS, 0), "", 0.0)

        monkeypatch.setattr(search, "compile_decode", compile_decode)
        return tried

    return install


def quiet(line):
    pass


@pytest.mark.parametrize(
    "need",
    [
        lambda b: 0.11 * GIB * b,
        lambda b: 3 * GIB + 0.5 * GIB * b,
        lambda b: 0.3 * GIB * b + 0.001 * GIB * b * b,
        lambda b: 2 * GIB * math.ceil(b / 16),
    ],
    ids=["line", "offset", "curve", "stairs"],
)
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("start", [2, 16, 4096])
def test_largest_batch(compiler, need, says, start):
    limit = WEIGHTS + 40 * GIB
    compiler(need, limit, says=says)
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    found = search.on_mesh(JOB, mesh, start, limit, quiet)
    largest = search.largest_batch(found, limit, quiet)
    assert largest.compilations <= search.PROBES
    assert largest.fits is None or need(largest.fits / 2) <= limit - WEIGHTS
    assert largest.fails is None or need(largest.fails / 2) > limit - WEIGHTS
    if says:
        best = max(rows for rows in range(2, 4096, 2) if need(rows / 2) <= limit - WEIGHTS)
        assert largest.fits is not None and largest.fits >= 0.7 * best


def test_weights_that_do_not_fit_are_not_compiled(compiler):
    tried = compiler(lambda b: 0, 1)
    found = search.on_mesh(JOB, make_mesh({"data": 1}, jax.devices()[:1]), 4, GIB, quiet)
    assert not found.fits and not tried
    assert search.largest_batch(found, GIB, quiet) == search.Largest(None, None, 0)


def four(rows=4):
    ways = [{"data": 4 // size, "tensor": size} for size in (1, 2, 4) if rows % (4 // size) == 0]
    return [make_mesh(way, jax.devices()[:4]) for way in ways]


def test_the_mesh_has_as_few_chips_per_copy_as_fit(compiler):
    limit = int(15.75 * GIB)
    tried = compiler(lambda b: GIB / 2, limit)
    found = search.choose(JOB, four(), None, limit, quiet)
    assert dict(found.mesh.shape) == {"data": 4, "tensor": 1} and found.fits
    tried.clear()
    compiler(lambda b: 2 * GIB, limit)
    found = search.choose(JOB, four(), None, limit, quiet)
    assert dict(found.mesh.shape) == {"data": 2, "tensor": 2} and found.job.batch == 16
    assert tried == [({"data": 4, "tensor": 1}, 32), ({"data": 2, "tensor": 2}, 16)]
    found = search.choose(JOB, four(1), 1, limit, quiet)
    assert dict(found.mesh.shape) == {"data": 1, "tensor": 4}, "one row: no second group"


def test_a_compiler_that_refuses_nothing_is_held_to_the_limit(compiler):
    compiler(lambda b: 8 * GIB, 10**15)
    assert not search.on_mesh(JOB, four()[0], None, 20 * GIB, quiet).fits


class Device:
    """A device of some memory, for what asks it nothing else."""

    def __init__(self, memory):
        self.memory = memory

    def memory_stats(self):
        return self.memory and {"bytes_limit": self.memory}


FITS = [(4, None, 1, 0), (1, 10 * GIB, 1, 0), (4, 15.75 * GIB, 2, 2), (4, 40 * GIB, 1, 1)]


@pytest.mark.parametrize(("count", "memory", "tensor", "compilations"), FITS)
def test_a_batch_takes_the_mesh_that_fits_its_devices(compiler, monkeypatch, count, memory, tensor, compilations):
    """None of a CPU's or of a single device's programs is compiled for it."""
    monkeypatch.setattr(search, "make_mesh", lambda axes, devices: make_mesh(axes, jax.devices()[: len(devices)]))
    tried = compiler(lambda b: 2 * GIB, memory or 0)
    mesh = search.fitting(JOB, [Device(memory)] * count, 16, quiet)
    assert dict(mesh.shape) == {"data": count // tensor, "tensor": tensor, "expert": 1}
    assert len(tried) == compilations and all(rows == 16 * axes["data"] for axes, rows in tried)


def test_a_batch_that_fits_nowhere_is_refused(compiler, monkeypatch):
    monkeypatch.setattr(search, "make_mesh", lambda axes, devices: make_mesh(axes, jax.devices()[: len(devices)]))
    compiler(lambda b: 9 * GIB, 8 * GIB)
    with pytest.raises(InputError, match=r"llada-8b with 16 rows of 512 columns does not fit 4 devices of 8.00 GiB"):
        search.fitting(JOB, [Device(8 * GIB)] * 4, 16, quiet)


def test_rounding_keeps_four_bits():
    assert [search.rounded(x, 1) for x in (1, 15, 16, 31, 33, 100, 1000)] == [1, 15, 16, 30, 32, 96, 960]
    assert search.rounded(1000, 64) == 960


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data=2", "does not divide the 8 chips"),
        ("data=3,tensor=2", "does not divide"),
        ("data=-1,tensor=-1", "does not divide"),
        ("data=0,tensor=-1", "does not divide"),
        ("rows=8", "unknown axis 'rows'"),
        ("fsdp=8", "unknown axis 'fsdp'"),
        ("8", "write it as data=2,tensor=4"),
    ],
)
def test_bad_mesh(words, message):
    with pytest.raises(InputError, match=message):
        search.read_mesh(words, "v5e:2x4")


def test_mesh():
    assert search.read_mesh("data=-1, tensor=4", "v5e:2x4") == {"data": -1, "tensor": 4}
    assert search.read_mesh("tensor=8", "v5e:2x4") == {"data": 1, "tensor": 8}


def test_rows_that_do_not_divide():
    with pytest.raises(InputError, match=r"--batch 7 does not divide among 2 groups .* try 6"):
        search.on_mesh(JOB, make_mesh({"data": 2}, jax.devices()[:2]), 7, 64 * GIB, quiet)
