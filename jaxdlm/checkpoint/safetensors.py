"""Reading and writing safetensors byte ranges: every header is checked before anything is allocated.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length n, n bytes of JSON
{name: {dtype, shape, data_offsets: [start, end)}}, then the tensors' bytes without holes. The package's own NumPy
front end accepts duplicate keys and cannot return a slice of bfloat16, hence this reader.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import ml_dtypes
import numpy as np

from jaxdlm.checkpoint import files, strict_json
from jaxdlm.checkpoint.errors import DtypeUnsupported, HeaderInvalid, TruncatedFile, UnsafePath
from jaxdlm.whole import whole_file

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FP8 = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2)}
NAMES = {dtype: name for name, dtype in (DTYPES | FP8).items()}
ONE_BYTE_FLOATS = {*FP8, "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
MAX_RANK = 16
MAX_NAME = 512


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: dtype as the format names it, shape, and its bytes [start, end) in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header: read() returns one tensor, or the rows [a, b) of its leading axis.

    scaled: FP8 is read, too, by somebody who multiplies it with its scales; without them its numbers are none.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    scaled: bool = False

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """The tensor (or rows of it) in its stored dtype; touches only the bytes that it returns."""
        info = self.tensors[name]
        dtype = (DTYPES | FP8 if self.scaled else DTYPES).get(info.dtype)
        if dtype is None:
            raise DtypeUnsupported(
                f"holds {info.dtype}",
                file=self.path,
                tensor=name,
                hint="use the unquantised release of this checkpoint",
            )
        start, shape = info.start, info.shape
        if rows is not None:
            stride = info.nbytes // shape[0]
            start, shape = start + rows[0] * stride, (rows[1] - rows[0], *shape[1:])
        size = math.prod(shape) * dtype.itemsize
        return files.read_range(self.path, start, size, name).view(dtype).reshape(shape)

    def read_bytes(self, name: str) -> np.ndarray:
        """The tensor's raw bytes, uint8[nbytes]."""
        info = self.tensors[name]
        return files.read_range(self.path, info.start, info.nbytes, name)


def check_name(name: str, file: object) -> None:
    """Refuse names that could become paths elsewhere: empty parts, `..`, a leading `/`, NUL, control characters."""
    parts = name.split("/")
    bad = not name or len(name) > MAX_NAME or any(part in ("", ".", "..") for part in parts)
    if bad or "\\" in name or any(ord(c) < 32 for c in name):
        raise UnsafePath("is not a safe tensor name", file=file, tensor=name[:80], hint="rename the tensor")


def open_safetensors(path: Path, inside: Path | None = None) -> SafetensorsFile:
    """Read and check a header.

    Raises: TruncatedFile (size disagrees), HeaderInvalid (duplicate keys, overlaps, holes, bad dims or dtypes),
    UnsafePath (names, links). Nothing but the header is read, and no length is trusted before it is compared with the
    size of the file.
    """
    with files.open_file(path, inside) as file:
        size = os.fstat(file.fileno()).st_size
        length = _header_length(file, size, path)
        head = file.read(length)
    entries = strict_json.parse(head.rstrip(b" "), path)
    if not isinstance(entries, dict):
        raise HeaderInvalid("the header must be an object", file=path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderInvalid("__metadata__ must map strings to strings", file=path)
    tensors = {name: _entry(name, entry, 8 + length, path) for name, entry in entries.items()}
    _check_ranges(tensors.values(), 8 + length, size, path)
    return SafetensorsFile(path, tensors, metadata)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(every tensor of a small file, its metadata). Raises as `open_safetensors`."""
    file = open_safetensors(path)
    return {name: file.read(name) for name in file.tensors}, file.metadata


def _header_length(file: BinaryIO, size: int, path: Path) -> int:
    hint = "download the file again"
    if size < 8:
        raise TruncatedFile(
            "is too short for a safetensors header", file=path, expected=">= 8 bytes", got=size, hint=hint
        )
    length = int.from_bytes(file.read(8), "little")
    if length > files.MAX_BYTES:
        raise HeaderInvalid(
            f"claims a header of {length} bytes, more than {files.MAX_BYTES}",
            file=path,
            hint="not a safetensors file",
        )
    if 8 + length > size:
        raise TruncatedFile("ends inside its header", file=path, expected=8 + length, got=size, hint=hint)
    return length


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(name: str, entry: object, base: int, path: Path) -> TensorInfo:
    check_name(name, path)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderInvalid("needs exactly dtype, shape and data_offsets", file=path, tensor=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not (dtype in DTYPES or dtype in ONE_BYTE_FLOATS):
        raise DtypeUnsupported(
            f"unknown dtype {dtype!r}", file=path, tensor=name, hint="use float32, float16 or bfloat16"
        )
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_whole, shape)):
        raise HeaderInvalid(f"bad shape {str(shape)[:80]}", file=path, tensor=name, hint="write the file again")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)) or offsets[0] > offsets[1]:
        raise HeaderInvalid(
            f"bad data_offsets {str(offsets)[:80]}", file=path, tensor=name, hint="write the file again"
        )
    itemsize = DTYPES[dtype].itemsize if dtype in DTYPES else 1
    want, have = math.prod(shape) * itemsize, offsets[1] - offsets[0]
    if want != have:
        raise HeaderInvalid(
            f"{dtype}{shape} does not fill its byte range", file=path, tensor=name, expected=want, got=have,
            hint="write the file again",
        )  # fmt: skip
    return TensorInfo(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _check_ranges(tensors: Iterable[TensorInfo], base: int, size: int, path: Path) -> None:
    at, before = base, "the header"
    for info in sorted(tensors, key=lambda info: (info.start, info.end)):
        if info.start != at:
            what = "overlaps" if info.start < at else "leaves a hole after"
            raise HeaderInvalid(
                f"{what} {before}", file=path, tensor=info.name, expected=at - base, got=info.start - base
            )
        at, before = info.end, info.name
    if at != size:
        what = "is truncated" if size < at else "has trailing bytes"
        raise TruncatedFile(what, file=path, tensor=before, expected=at, got=size, hint="download the file again")


SHARD_NAME = re.compile(r"[\w.-]+\.safetensors")


def header_bytes(entries: dict[str, tuple[np.dtype, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """The header of a file that holds `entries` in this order, padded with spaces to a multiple of 8 bytes."""
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape) in entries.items():
        end = at + math.prod(shape) * np.dtype(dtype).itemsize
        table[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class SafetensorsWriter:
    """Writes tensors one after another under a header that was fixed before: nothing is held in memory.

    Use as a context manager; the file appears under its name only when every tensor has been written.
    """

    def __init__(
        self, path: Path, entries: dict[str, tuple[np.dtype, tuple[int, ...]]], metadata: dict[str, str] | None = None
    ):
        self._path, self._entries = path, entries
        self._order = iter(entries)
        self._header = header_bytes(entries, {"format": "pt"} if metadata is None else metadata)

    def write(self, name: str, array: np.ndarray) -> None:
        """Append the next tensor; its name, dtype and shape must be those announced."""
        due = next(self._order, None)
        if name != due or self._entries[name] != (array.dtype, array.shape):
            raise ValueError(f"{self._path}: expected tensor {due!r}, got {name!r} {array.dtype}{array.shape}")
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> SafetensorsWriter:
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(whole_file(self._path, self._path.name))
            self._file.write(self._header)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error
            if (due := next(self._order, None)) is not None:
                raise ValueError(f"{self._path}: tensor {due!r} was not written")


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a dict of arrays to one file, in the order given."""
    entries = {name: (np.dtype(array.dtype), tuple(array.shape)) for name, array in arrays.items()}
    with SafetensorsWriter(path, entries, metadata) as writer:
        for name, array in arrays.items():
            writer.write(name, np.asarray(array))
