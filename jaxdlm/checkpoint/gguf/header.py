"""The header of a GGUF file as data: metadata, and where each tensor lies. Every count is checked before it is believed.

The format (docs/gguf.md of https://github.com/ggml-org/ggml), little-endian: the magic letters, a version, the number of
tensors and of keys; keys with values; per tensor its name, axes (the fastest first), type and offset; padding; bytes. The
package gguf trusts the counts and makes an array of every string; here it only says how large the types are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxdlm.checkpoint import files
from jaxdlm.checkpoint.errors import DuplicateTensor, HeaderInvalid, TruncatedFile
from jaxdlm.checkpoint.gguf.kinds import Kind, kind_of
from jaxdlm.checkpoint.safetensors import check_name

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 1 counted in 32 bits; 2 and 3 differ in nothing that a file of this byte order shows
FIRST = 2**23  # bytes that are read at first: those of most headers
MOST_KEYS, MOST_TENSORS, MOST_ITEMS, MOST_AXES, MOST_ALIGNMENT = 10_000, 100_000, 2**22, 4, 2**20
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8"}
BOOL, STRING, ARRAY = 7, 8, 9
LENGTH = struct.Struct("<Q")
AGAIN = "download the file again"


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file: `shape` in NumPy's order, `start` from the beginning of the file, `nbytes` there."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes along the last axis, which is whole blocks."""
        return self.shape[-1] // self.kind.block * self.kind.nbytes


@dataclass(frozen=True)
class Header:
    """A checked header. `values`: numbers, truth values, strings, lists of strings, arrays of numbers."""

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, Stored]


def read_header(path: Path) -> Header:
    """The header of a file, of which nothing else is read.

    Raises: HeaderInvalid (no GGUF file, counts and types that cannot be, keys or ranges twice), TruncatedFile,
    DtypeUnsupported, DuplicateTensor, UnsafePath; each names the key or the tensor.
    """
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        wanted = min(FIRST, size)
        while True:
            try:
                return _parse(_Bytes(_read(file, wanted), size, path))
            except _More as more:
                wanted = min(max(2 * wanted, more.wanted), size)


def _read(file: BinaryIO, count: int) -> bytes:
    file.seek(0)
    return file.read(count)


class _More(Exception):
    """The header goes on behind what was read."""

    def __init__(self, wanted: int):
        self.wanted = wanted


class _Bytes:
    """The beginning of a file, taken apart from the front; `what` is being read, for messages."""

    def __init__(self, data: bytes, size: int, path: Path):
        self.data, self.size, self.path = data, size, path
        self.at, self.what = 0, "the magic"

    def wrong(self, problem: str, **more: Any) -> HeaderInvalid:
        return HeaderInvalid(f"{self.what} {problem}", file=self.path, **{"hint": AGAIN} | more)

    def take(self, count: int) -> int:
        """Where the next bytes begin; they have been read, and are behind now."""
        begin, end = self.at, self.at + count
        if end > self.size:
            raise TruncatedFile(f"ends inside {self.what}", file=self.path, expected=end, got=self.size, hint=AGAIN)
        if end > files.MAX_BYTES:
            raise self.wrong(f"goes beyond byte {files.MAX_BYTES}, where no header does")
        if end > len(self.data):
            raise _More(end)
        self.at = end
        return begin

    def number(self, kind: int) -> Any:
        """A number; a float32 as the shortest decimal that rounds to it: what the model's configuration says."""
        dtype = np.dtype(NUMBERS[kind])
        value = np.frombuffer(self.data, dtype, 1, self.take(dtype.itemsize))[0]
        if kind == BOOL:
            if value > 1:
                raise self.wrong(f"is neither true nor false but {value}")
            return bool(value)
        return float(str(value)) if dtype.kind == "f" else int(value)

    def string(self) -> str:
        (count,) = LENGTH.unpack_from(self.data, self.take(8))
        begin = self.take(count)
        try:
            return self.data[begin : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong("is not UTF-8") from None

    def value(self) -> Any:
        kind = self.number(4)
        if kind == STRING:
            return self.string()
        if kind in NUMBERS:
            return self.number(kind)
        if kind != ARRAY:
            raise self.wrong(f"has a value of the unknown type {kind}")
        item, count = self.number(4), self.number(10)
        if item not in NUMBERS and item != STRING:
            raise self.wrong(f"is an array of values of type {item}, not of numbers or strings")
        if count > MOST_ITEMS:
            raise self.wrong(f"has {count} values, more than {MOST_ITEMS}")
        if item == STRING:
            return self._strings(count)
        dtype = np.dtype(NUMBERS[item])
        return np.frombuffer(self.data, dtype, count, self.take(count * dtype.itemsize))

    def _strings(self, count: int) -> list[str]:
        self.take(8 * count)  # so many there are, or the loop need not begin
        self.at -= 8 * count
        data, end, unpack, strings = self.data, len(self.data), LENGTH.unpack_from, []
        try:
            for _ in range(count):
                begin = self.at + 8
                if begin > end:
                    break
                (length,) = unpack(data, self.at)
                if begin + length > end:
                    break
                strings.append(data[begin : begin + length].decode("utf-8"))
                self.at = begin + length
        except UnicodeDecodeError:
            raise self.wrong(f"holds a string that is not UTF-8 (number {len(strings)})") from None
        if len(strings) < count:
            self.string()  # says what is missing
        return strings


def _parse(source: _Bytes) -> Header:
    if source.data[:4] != MAGIC:
        raise HeaderInvalid(
            "is no GGUF file", file=source.path, hint="give a *.gguf file, or the folder that holds config.json"
        )
    source.take(4)
    source.what = "the version"
    version = source.number(4)
    if version not in VERSIONS:
        order = "big-endian" if version & 0xFFFF == 0 and version else f"of version {version}"
        raise source.wrong(f"is {order}; little-endian files of versions 2 and 3 are read", hint="convert it again")
    source.what = "the header"
    tensors, keys = source.number(10), source.number(10)
    for count, most, name in ((tensors, MOST_TENSORS, "tensors"), (keys, MOST_KEYS, "keys")):
        if count > most:
            raise source.wrong(f"claims {count} {name}, more than {most}")
    values = _metadata(source, keys)
    entries = [_entry(source, number) for number in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
        source.what = "general.alignment"
        raise source.wrong(f"must be a power of two, got {alignment!r:.40}")
    base = -(-source.at // alignment) * alignment
    return Header(source.path, values, _place(source, entries, base, alignment))


def _metadata(source: _Bytes, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number in range(count):
        source.what = f"key {number} of the metadata"
        key = source.string()
        source.what = f"the value of {key[:80]!r}"
        if key in values:
            raise source.wrong("is given twice", hint="write the file again")
        values[key] = source.value()
    return values


def _entry(source: _Bytes, number: int) -> tuple[str, tuple[int, ...], Kind, int]:
    source.what = f"the entry of tensor {number}"
    name = source.string()
    check_name(name, source.path)
    source.what = f"the entry of tensor {name!r}"
    axes = source.number(4)
    if not 1 <= axes <= MOST_AXES:
        raise source.wrong(f"has {axes} axes, not 1 to {MOST_AXES}")
    shape = tuple(source.number(10) for _ in range(axes))[::-1]
    kind = kind_of(source.number(4), name, source.path)
    offset = source.number(10)
    if not all(shape):
        raise source.wrong(f"has no values: {list(shape)}")
    if shape[-1] % kind.block:
        raise source.wrong(f"is {kind.name}, whose blocks are of {kind.block} values, but its rows have {shape[-1]}")
    return name, shape, kind, offset


def _place(
    source: _Bytes, entries: Iterable[tuple[str, tuple[int, ...], Kind, int]], base: int, alignment: int
) -> dict[str, Stored]:
    tensors_by_name: dict[str, Stored] = {}
    for name, shape, kind, offset in entries:
        if name in tensors_by_name:
            raise DuplicateTensor("is there twice", file=source.path, tensor=name, hint="write the file again")
        if offset % alignment:
            raise HeaderInvalid(
                f"begins at {offset}, no multiple of the alignment {alignment}",
                file=source.path,
                tensor=name,
                hint=AGAIN,
            )
        tensors_by_name[name] = Stored(name, kind, shape, base + offset, prod(shape) // kind.block * kind.nbytes)
    end, before = base, "the header"
    for stored in sorted(tensors_by_name.values(), key=lambda stored: stored.start):
        if stored.start < end:
            raise HeaderInvalid(f"overlaps {before}", file=source.path, tensor=stored.name, hint=AGAIN)
        end, before = stored.start + stored.nbytes, f"tensor {stored.name!r}"
        if end > source.size:
            raise TruncatedFile(
                "lies beyond the end of the file", file=source.path, tensor=stored.name, expected=end, got=source.size,
                hint=AGAIN,
            )  # fmt: skip
    return tensors_by_name
