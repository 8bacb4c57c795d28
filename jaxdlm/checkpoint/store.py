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
import gc
import itertools
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import ChecksumMismatch

CHUNK_BYTES = 8 * 2**20  # small enough that freed buffers are used again instead of going back to the system
IN_FLIGHT = 4  # chunks that are being written while the next one is read
PARAMS = "params"
AGAIN = "convert again with --force"
Index = tuple[slice, ...]


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
        steps = [range(0, self.shape[axis], self.chunk[axis]) for axis in self.order]
        for starts in itertools.product(*steps):
            at = dict(zip(self.order, starts))
            yield tuple(slice(at[axis], min(at[axis] + size, self.shape[axis])) for axis, size in enumerate(self.chunk))


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


def read_array(folder: Path, name: str, target: Any) -> Any:
    """One array of a group as a jax.Array, each device reading its own part. Damaged bytes are a ChecksumMismatch.

    target: a jax.ShapeDtypeStruct with a sharding.
    """
    import jax
    import orbax.checkpoint as ocp

    how = ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=target.sharding, global_shape=target.shape, dtype=target.dtype
    )
    args = ocp.args.PyTreeRestore(item={name: 0}, restore_args={name: how}, partial_restore=True)
    with warnings.catch_warnings():
        # where one device's read fails, Orbax drops those of the others
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        try:
            with _checkpointer() as checkpointer:
                return checkpointer.restore(folder.absolute(), args=args)[name]
        except MemoryError:
            raise
        except Exception as error:  # Orbax puts what TensorStore says into a bare Exception
            problem = _unreadable(error.__cause__ or error, folder, name)
        gc.collect()
    raise problem


def read_rows(folder: Path, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
    """One stored array, or its rows [a, b); reads the chunks that hold them."""
    import tensorstore

    try:
        array = tensorstore.open(_where(folder / name) | {"fill_missing_data_reads": False}, open=True).result()
        return np.asarray((array if rows is None else array[rows[0] : rows[1]]).read().result())
    except ValueError as error:
        raise _unreadable(error, folder, name) from error


def seal(folder: Path, name: str) -> int:
    """CRC-32 over an array's metadata and the checksum that ends each of its chunks: what ties them together.

    Reads four bytes per chunk; the chunks themselves are compared with their checksums whenever they are read. Raises
    ChecksumMismatch where a file is missing.
    """
    where = folder / name
    total, path = 0, where / "zarr.json"
    try:
        total = zlib.crc32(path.read_bytes())
        for path in sorted((where / "c").rglob("*"), key=lambda path: path.relative_to(where).parts):
            if path.is_file():
                with open(path, "rb") as file:
                    size = file.seek(0, 2)
                    file.seek(max(0, size - 4))
                    total = zlib.crc32(f"{path.relative_to(where)} {size} ".encode() + file.read(4), total)
    except OSError as error:
        raise ChecksumMismatch(f"cannot be read back: {error.strerror}", file=path, tensor=name, hint=AGAIN) from error
    return total


def check_seal(folder: Path, name: str, expected: int) -> None:
    """ChecksumMismatch unless the array's files are those that were written."""
    found = seal(folder, name)
    if found != expected:
        raise ChecksumMismatch(
            "has other files than were written (one is missing, cut, damaged or from elsewhere)", file=folder / name,
            tensor=name, expected=f"crc32 {expected:08x}", got=f"{found:08x}", hint=AGAIN,
        )  # fmt: skip


def _unreadable(error: BaseException, folder: Path, name: str) -> ChecksumMismatch:
    line = " ".join(str(error).split())[:300]
    return ChecksumMismatch(f"cannot be read back: {line}", file=folder, tensor=name, hint=AGAIN)


def _where(folder: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"}}


def _write(array: Stream, folder: Path, context: Any) -> None:
    """Make the chunks one after another, a few of them on their way to the disk at any time."""
    import tensorstore

    metadata = {
        "shape": list(array.shape),
        "data_type": str(array.dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(array.chunk)}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    spec = _where(folder) | {"metadata": metadata, "store_data_equal_to_fill_value": True}
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
    import jax
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    registry = type_handlers.create_type_handler_registry(
        (Stream, _stream_handler()),
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, type_handlers.ArrayHandler()),
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
