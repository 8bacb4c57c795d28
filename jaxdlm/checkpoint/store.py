"""Orbax on disk: one small Orbax checkpoint per group of leaves. The only module that knows Orbax.

A group is written atomically by Orbax itself (temporary folder, then rename), so a killed conversion loses at most the
group in flight. An array is uncompressed zarr 3 (random bfloat16 weights barely compress) in chunks of at most 8 MiB, a
file each, so that a device reads only its shard. The codec `crc32c` ends every chunk with a checksum that TensorStore
compares on each read; `seal` condenses those of an array, so that whole chunks cannot be lost or swapped either.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint import files, strict_json
from jaxdlm.checkpoint.errors import ChecksumMismatch, HeaderInvalid
from jaxdlm.checkpoint.leaf import cast

CHUNK_BYTES = 8 * 2**20  # small enough that freed buffers are used again instead of going back to the system
IN_FLIGHT = 4  # chunks that are being written while the next one is read
PARAMS, METADATA = "params", "zarr.json"
AGAIN = "convert again with --force"
METADATA_BYTES = 2**20  # of an array's zarr.json, which has some 300
MOST_CHUNKS = 2**20  # of one array: 8 TiB
KEYS = ({"name": "default"}, {"name": "default", "configuration": {"separator": "/"}})
OTHERS = 1000  # files of Orbax beside a group's arrays, which are three or four
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Stored:
    """An array of a converted checkpoint: its group's folder, its name there, and what spec.json says about it."""

    folder: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def where(self) -> Path:
        return self.folder / self.name

    @property
    def root(self) -> Path:
        """The converted checkpoint."""
        return self.folder.parents[1]

    def wrong(self, problem: str, **more: Any) -> ChecksumMismatch:
        return ChecksumMismatch(problem, file=self.where, tensor=self.name, hint=AGAIN, **more)


@dataclass(frozen=True)
class Stream:
    """An array that is made chunk by chunk while it is written, so that it never exists as a whole.

    chunk: shape of one chunk; order: the axes, slowest first, along which the chunks are asked for; read: index -> values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    order: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def indices(self) -> Iterator[Index]:
        """One index per chunk, cut at the edges."""
        return cut(self.shape, self.chunk, self.order)


def cut(shape: Sequence[int], chunk: Sequence[int], order: Sequence[int]) -> Iterator[Index]:
    """One index per chunk of an array, cut at the edges; order: the axes, slowest first."""
    steps = _steps(shape, chunk)
    for starts in itertools.product(*(steps[axis] for axis in order)):
        at = dict(zip(order, starts))
        yield tuple(slice(at[axis], min(at[axis] + size, shape[axis])) for axis, size in enumerate(chunk))


def _steps(shape: Sequence[int], chunk: Sequence[int]) -> list[range]:
    """Where chunks begin, by axis."""
    return [range(0, size, step) for size, step in zip(shape, chunk)]


def chunk_of(
    shape: tuple[int, ...], itemsize: int, order: tuple[int, ...], limit: int = CHUNK_BYTES
) -> tuple[int, ...]:
    """The largest chunk of at most `limit` bytes that is one run of values where `order` lists the axes slowest first."""
    chunk, room = [1] * len(shape), max(1, limit // itemsize)
    for axis in reversed(order):
        count = -(-shape[axis] // room)  # pieces that this axis is cut into
        chunk[axis] = -(-shape[axis] // count)
        room = room // chunk[axis] if count == 1 else 1
    return tuple(chunk)


def group_folder(root: Path, number: int) -> Path:
    """Where group `number` of a converted checkpoint lies."""
    return root / PARAMS / f"{number:04d}"


def save_group(folder: Path, arrays: Mapping[str, Stream]) -> None:
    """Write named arrays as one Orbax checkpoint; the folder appears only when it is complete."""
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(dict(arrays)), force=True)


def read_array(stored: Stored, target: Any) -> Any:
    """One array of a group as a jax.Array, each device reading its own part. Damaged bytes are a ChecksumMismatch.

    target: a jax.ShapeDtypeStruct with a sharding. A part is read into memory that a device which is the host keeps.
    """
    import jax

    grid(stored)
    with _reading(stored) as array:
        read = functools.partial(_part, stored, array, np.dtype(target.dtype))
        return jax.block_until_ready(jax.make_array_from_callback(target.shape, target.sharding, read))


def _part(stored: Stored, array: Any, dtype: np.dtype, index: Index) -> np.ndarray:
    import tensorstore

    part = array[index]
    room = files.empty(part.shape, stored.dtype)
    tensorstore.array(room).write(part).result()
    return cast(room, dtype, stored.name)


def read_rows(stored: Stored, rows: tuple[int, int] | None = None) -> np.ndarray:
    """An array, or its rows [a, b); reads the chunks that hold them."""
    grid(stored)  # no number of a stranger's metadata reaches TensorStore before it is compared
    with _reading(stored) as array:
        return np.asarray((array if rows is None else array[rows[0] : rows[1]]).read().result())


def read_all(stored: Stored) -> None:
    """Every chunk, one after another, compared with its checksum; what is read is dropped."""
    chunk = grid(stored)
    with _reading(stored) as array:
        for index in cut(stored.shape, chunk, range(len(chunk))):
            array[index].read().result()


@contextlib.contextmanager
def _reading(stored: Stored) -> Iterator[Any]:
    import tensorstore

    try:
        yield tensorstore.open(_where(stored.where) | {"fill_missing_data_reads": False}, open=True).result()
    except ValueError as error:
        raise _unreadable(error, stored.folder, stored.name) from error


def grid(stored: Stored) -> tuple[int, ...]:
    """The shape of an array's chunks by its metadata, once these are what a conversion writes for such an array."""
    zarr = strict_json.parse(_metadata(stored), stored.where / METADATA)
    chunk = _at(zarr, "chunk_grid", "configuration", "chunk_shape")
    if not isinstance(chunk, list) or not all(type(size) is int and size > 0 for size in chunk):
        raise stored.wrong("has metadata without a chunk shape")
    expected = metadata(stored.shape, stored.dtype, chunk) | {"zarr_format": 3, "node_type": "array"}
    for key, value in expected.items():
        if _at(zarr, key) != value:
            raise stored.wrong(f"has metadata with another {key}", expected=value, got=str(_at(zarr, key))[:80])
    if _at(zarr, "chunk_key_encoding") not in KEYS or _at(zarr, "storage_transformers"):
        raise stored.wrong("has metadata that a conversion does not write")
    size, count = math.prod(chunk) * stored.dtype.itemsize, math.prod(map(len, _steps(stored.shape, chunk)))
    if len(chunk) != len(stored.shape) or size > CHUNK_BYTES or count > MOST_CHUNKS:
        raise stored.wrong("has chunks that no conversion makes", expected=f"{CHUNK_BYTES} bytes at most", got=size)
    return tuple(chunk)


def _metadata(stored: Stored) -> bytes:
    try:
        return files.read(stored.where / METADATA, stored.root, most=METADATA_BYTES)
    except HeaderInvalid as error:
        raise stored.wrong(f"cannot be read back: {METADATA}: {error.problem}") from error


def _at(value: Any, *keys: str) -> Any:
    """The value under nested keys; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def seal(stored: Stored) -> int:
    """CRC-32 over an array's metadata and the checksum that ends each of its chunks: what ties them together.

    Reads four bytes per chunk; the chunks themselves are compared with their checksums whenever they are read. Raises
    ChecksumMismatch where a file is missing or has another size, UnsafePath where one is a link out of the checkpoint,
    a pipe or a device.
    """
    chunk = grid(stored)
    total, whole = zlib.crc32(_metadata(stored)), math.prod(chunk) * stored.dtype.itemsize + 4
    counts = map(len, _steps(stored.shape, chunk))
    for at in itertools.product(*(sorted(map(str, range(count))) for count in counts)):
        key = ("c", *at)
        path = stored.where.joinpath(*key)
        try:
            with files.open_file(path, stored.root) as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - 4))
                total = zlib.crc32(f"{'/'.join(key)} {size} ".encode() + file.read(4), total)
        except (HeaderInvalid, OSError) as error:
            raise stored.wrong(f"cannot be read back: {'/'.join(key)} is missing or unreadable") from error
        if size != whole:
            raise stored.wrong(f"has a chunk {'/'.join(key)} of another size", expected=whole, got=size)
    return total


def check_seal(stored: Stored, expected: int) -> None:
    """ChecksumMismatch unless the array's files are those that were written. Nothing larger than a chunk is allocated."""
    _check_group(stored.folder, stored.root)
    actual = seal(stored)
    if actual != expected:
        raise stored.wrong(
            "has other files than were written (one is missing, cut, damaged or from elsewhere)",
            expected=f"crc32 {expected:08x}", got=f"{actual:08x}",
        )  # fmt: skip


def _check_group(folder: Path, root: Path) -> None:
    """What Orbax itself keeps beside the arrays of a group are a few small files, in the checkpoint."""
    arrays = {path.parent.name for path in folder.glob(f"*/{METADATA}")}
    seen = 0
    for where, names, entries in os.walk(folder):
        if Path(where) == folder:
            names[:] = [name for name in names if name not in arrays]
        seen += len(entries)
        if seen > OTHERS:
            raise ChecksumMismatch(f"has more than {OTHERS} files beside its arrays", file=folder, hint=AGAIN)
        for name in entries:
            if files.size_of(Path(where, name), root) > files.MAX_BYTES:
                raise ChecksumMismatch("is larger than anything that belongs here", file=Path(where, name), hint=AGAIN)


def _unreadable(error: BaseException, folder: Path, name: str) -> ChecksumMismatch:
    line = " ".join(str(error).split())[:300]
    return ChecksumMismatch(f"cannot be read back: {line}", file=folder, tensor=name, hint=AGAIN)


def _where(folder: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"}}


def metadata(shape: Sequence[int], dtype: np.dtype, chunk: Sequence[int]) -> dict[str, Any]:
    """The fields of zarr.json for an array of this shape, dtype and chunk."""
    order = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}  # of bytes there is none
    return {
        "shape": list(shape),
        "data_type": str(dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "codecs": [{"name": "bytes", **order}, {"name": "crc32c"}],
    }


def _write(array: Stream, folder: Path, context: Any) -> None:
    """Make the chunks one after another, a few of them on their way to the disk at any time."""
    import tensorstore

    spec = _where(folder) | {
        "metadata": metadata(array.shape, array.dtype, array.chunk),
        "store_data_equal_to_fill_value": True,
    }
    target = tensorstore.open(spec, create=True, context=context).result()
    flight: collections.deque[Any] = collections.deque()
    for index in array.indices():
        if len(flight) >= IN_FLIGHT:
            flight.popleft().result()
        flight.append(target[index].write(array.read(index), can_reference_source_data_indefinitely=True))
    for write in flight:
        write.result()


@functools.cache
def _stream_handler() -> Any:
    from orbax.checkpoint import type_handlers

    class StreamHandler(type_handlers.NumpyHandler):
        """Orbax's way of writing a leaf of a type of one's own: stored like a NumPy array, but never whole in memory."""

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> list[Any]:  # type: ignore[override]
            for value, info in zip(values, infos):
                await info.await_path_creation()
                _write(value, Path(info.path), info.ts_context)
            return []

    return StreamHandler()


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    registry = type_handlers.create_type_handler_registry(
        (Stream, _stream_handler()),
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_zarr3=True, use_compression=False, type_handler_registry=registry
    )
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # Orbax warns about settings that are chosen here on purpose
    checkpointer = ocp.Checkpointer(handler)
    try:
        yield checkpointer
    finally:
        checkpointer.close()
        log.setLevel(level)
