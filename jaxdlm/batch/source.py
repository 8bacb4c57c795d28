"""The input file: rows in order, its fingerprint, and which ids come twice. JSON lines (plain or gzip) or Parquet."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxdlm import distribution
from jaxdlm.batch.gating import Gate, Gates
from jaxdlm.batch.rows import Raw, identity, parse
from jaxdlm.batch.sampling import asked_by
from jaxdlm.errors import InputError

XZ: tuple[type[Exception], ...] = ()
with contextlib.suppress(ImportError):  # an interpreter may be built without it
    from lzma import LZMAError

    XZ = (LZMAError,)

STEP = 1 << 22  # bytes that are read at a time
LONGEST = 1 << 24  # bytes of a line: a prompt of a million tokens has some six million, as ids or as text
DAMAGED = (EOFError, zlib.error, *XZ, zipfile.BadZipFile, NotImplementedError, RuntimeError, LookupError)


@dataclass(frozen=True)
class Index:
    """The result of one pass over the input; `longest`: the row of most bytes."""

    rows: int
    sha256: str
    duplicates: dict[int, int] = field(default_factory=dict)  # row -> line that had its id first
    longest: Raw | None = None
    asked: frozenset[str] = frozenset()  # fields of sampling that any row asks for (`sampling.asked_by`)
    same: dict[int, Any] = field(default_factory=dict)  # row that is not decoded -> id of the row with its answer
    refused: dict[int, str] = field(default_factory=dict)  # row whose embedding does not read -> why


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The bytes of a file, local or remote, unzipped. Raises InputError where they cannot be read.

    A pipe or a device is refused: a job reads its input more than once.
    """
    import fsspec

    local = path.removeprefix("file://")
    if "://" not in local and os.path.exists(local) and not os.path.isfile(local) and not os.path.isdir(local):
        raise InputError(f"input {path} is not a regular file, and a job reads it more than once: write it to a file")
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            yield file
    except InputError:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"input {path} is damaged ({reason}): copy it again") from None
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"input {path} cannot be read ({reason}): check the path and the permissions") from None


def lines(file: Any, digest: Any = None) -> Iterator[tuple[bytes, int, bool]]:
    """(line, bytes that it has, whether a line end follows); of one with more than LONGEST bytes the beginning only.

    digest: takes in every byte.
    """
    line, size = b"", 0
    while piece := file.read(STEP):
        if digest is not None:
            digest.update(piece)
        *ended, rest = piece.split(b"\n")
        for part in ended:
            yield line + part[: LONGEST - len(line)], size + len(part), True
            line, size = b"", 0
        line, size = line + rest[: LONGEST - len(line)], size + len(rest)
    if size:
        yield line, size, False


class JsonLines:
    """One object per line; blank lines are no rows, and one with more than LONGEST bytes is an error row."""

    def __init__(self, path: str) -> None:
        self.path = path

    def rows(self, first: int = 0, digest: Any = None) -> Iterator[Raw]:
        """Rows from `first` on; `digest` takes in every byte."""
        with opened(self.path) as file:
            yield from rows_of(file, first, digest)


def rows_of(file: Any, first: int = 0, digest: Any = None) -> Iterator[Raw]:
    """The rows of an open file; see `JsonLines`."""
    row = 0
    for number, (line, size, ended) in enumerate(lines(file, digest), start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip() and size <= LONGEST:
            continue
        if row >= first:
            yield Raw(row, number, text if size <= LONGEST else _too_long(number, size), not ended)
        row += 1


def _too_long(number: int, size: int) -> InputError:
    return InputError(f"line {number} has {size} bytes, more than {LONGEST}: cut it, or write one object per line")


class Parquet:
    """One row of the table per row; columns as the fields of a JSON row."""

    def __init__(self, path: str) -> None:
        self.path = path

    def rows(self, first: int = 0, digest: Any = None) -> Iterator[Raw]:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise InputError(f"input {self.path} needs pyarrow: {distribution.install('parquet')}") from None
        row = 0
        with opened(self.path) as file:
            if digest is not None:
                while piece := file.read(STEP):
                    digest.update(piece)
                file.seek(0)
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
                for value in batch.to_pylist() if row + batch.num_rows > first else [{}] * batch.num_rows:
                    if row >= first:
                        yield Raw(row, row + 1, {k: v for k, v in value.items() if v is not None})
                    row += 1


def source(path: str) -> JsonLines | Parquet:
    """The reader for a path, by its ending."""
    return Parquet(path) if path.endswith(".parquet") else JsonLines(path)


def scan(path: str, gate: Gate | None = None) -> Index:
    """One pass: how many rows, SHA-256 of the (unzipped) bytes, and the rows whose id an earlier row has; with a gate also those
    whose answer an earlier row has."""
    gates = None if gate is None else Gates(gate)
    digest, rows, longest = hashlib.sha256(), 0, None
    first: dict[bytes, int] = {}
    asked: frozenset[str] = frozenset()
    duplicates: dict[int, int] = {}
    for raw in source(path).rows(digest=digest):
        rows += 1
        longest = raw if longest is None or size(raw) > size(longest) else longest
        try:
            value = parse(raw)
            name = hashlib.sha256(json.dumps(identity(value, raw)).encode()).digest()[:16]
        except InputError:
            continue  # it will be refused for that
        asked |= asked_by(value)
        if name in first:
            duplicates[raw.row] = first[name]
        else:
            first[name] = raw.line
            if gates is not None:
                gates.see(raw, value)
    if not rows:
        raise InputError(f"input {path} has no rows: write one JSON object per line")
    more = {} if gates is None else {"same": gates.same, "refused": gates.refused}
    return Index(rows, digest.hexdigest(), duplicates, longest, asked, **more)


def size(raw: Raw) -> int:
    """Bytes of a line, or about those of a table's row; 0 of one that was not read."""
    if isinstance(raw.value, InputError):
        return 0
    return len(raw.value) if isinstance(raw.value, bytes) else len(str(raw.value))
