"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(target: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `target` when all of it is written. Raises OSError."""
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        with partial.open("wb") as out:
            yield out
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
