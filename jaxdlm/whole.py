"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

TEMPORARY = ".partial-"  # how the names of files begin that are not whole


@contextlib.contextmanager
def whole_file(
    target: pathlib.Path, writer: str | None = None, place: Callable[[pathlib.Path, pathlib.Path], None] = os.replace
) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `target` when all of it is written and on the disk. Raises OSError.

    writer: in the name of the file until then, None: of one process alone. Where `target` has one writer at a time a fixed
    word leaves nothing behind a kill that the next try does not write over. place: moves the file to `target`, or makes a
    link there; what stays is removed.
    """
    partial = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex if writer is None else writer}")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        place(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    _sync(target.parent)


def _sync(folder: pathlib.Path) -> None:
    """The names in a folder survive a power cut, too."""
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
