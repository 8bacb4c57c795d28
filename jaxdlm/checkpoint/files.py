"""Opening what a stranger may have put into a folder: regular files only, inside the folder, of bounded size.

Everything that is read of a checkpoint, a tokenizer or a converted folder is opened here. A pipe or a device is never
opened, so nothing hangs; a link is followed where it stays inside the folder, or leads into the Hub's cache.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdlm.checkpoint.errors import HeaderInvalid, OutputRefused, TruncatedFile, UnsafePath

ALIGNED = 64  # bytes
MAX_BYTES = 100 * 2**20  # the bound that safetensors itself puts on a header
# a pipe that takes a file's place between the look and the opening is opened without waiting, and then refused
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def size_of(path: Path, inside: Path | None = None) -> int:
    """The size in bytes of a regular file; UnsafePath for loops, devices, pipes and links that leave `inside`.

    Links into the `blobs` folder beside `snapshots/<revision>` are how the Hub's cache stores files, in the snapshot and
    in its subfolders, so those may leave.
    """
    return _look(path, inside)[1].st_size


def open_file(path: Path, inside: Path | None = None) -> io.BufferedReader:
    """The file, opened for reading bytes. Raises as `size_of`, and HeaderInvalid where it cannot be read."""
    return io.BufferedReader(open_raw(path, inside))


def open_raw(path: Path, inside: Path | None = None) -> io.FileIO:
    """The file, opened for reading bytes without a buffer. Raises as `open_file`."""
    real, _ = _look(path, inside)
    try:
        handle = os.open(real, READ)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _irregular(path)
    return io.FileIO(handle, "rb")


def read(path: Path, inside: Path | None = None, *, most: int = MAX_BYTES) -> bytes:
    """All of a file. Raises as `open_file`, and HeaderInvalid where it has more than `most` bytes."""
    with open_file(path, inside) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise HeaderInvalid(
                f"has {size} bytes, more than {most}", file=path, hint="this is not a checkpoint's file"
            )
        try:
            return file.read(size)
        except OSError as error:
            raise _unreadable(path, error) from None


def read_text(path: Path, inside: Path | None = None, *, most: int = MAX_BYTES) -> str:
    """All of a file as UTF-8. Raises as `read`, and HeaderInvalid where it is none."""
    try:
        return read(path, inside, most=most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise HeaderInvalid(
            f"is not UTF-8 at byte {error.start}", file=path, hint="download or write the file again"
        ) from None


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array to be filled, which a device that is the host takes as it is: XLA copies what is not so aligned."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(count + ALIGNED, np.uint8)
    return room[-room.ctypes.data % ALIGNED :][:count].view(dtype).reshape(shape)


def read_range(path: Path, start: int, count: int, tensor: str) -> np.ndarray:
    """uint8[count], the bytes of a tensor from `start` on. Raises as `open_file`, and TruncatedFile for a shorter file."""
    buffer = empty((count,), np.uint8)
    with open_raw(path) as file:
        file.seek(start)
        view, done = memoryview(buffer), 0
        while done < count:
            step = file.readinto(view[done:])
            if not step:
                raise TruncatedFile("ended early", file=path, tensor=tensor, expected=count, got=done)
            done += step
    return buffer


def copy(path: Path, target: Path, inside: Path | None = None) -> None:
    """A file's bytes under another name. Raises as `open_file`."""
    with open_file(path, inside) as source, open(target, "wb") as copied:
        shutil.copyfileobj(source, copied)


def open_lock(path: Path) -> io.FileIO:
    """A file to lock, made where there is none; what it holds stays. OutputRefused for a link, a pipe or a device."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        state = None
    try:
        if state is not None and not stat.S_ISREG(state.st_mode):
            raise OSError("it is not a regular file")
        flags = os.O_RDWR | os.O_CREAT | (READ & ~os.O_RDONLY) | getattr(os, "O_NOFOLLOW", 0)
        return io.FileIO(os.open(path, flags, 0o644), "r+b")
    except OSError as error:
        raise OutputRefused(
            f"cannot be locked ({error.strerror or error})", file=path, hint="remove it, or choose another folder"
        ) from None


def _look(path: Path, inside: Path | None) -> tuple[Path, os.stat_result]:
    """(where a path leads, what is there)."""
    try:
        real = path.resolve(strict=True)
        state = os.stat(real)
    except FileNotFoundError:
        raise HeaderInvalid("the file does not exist", file=path, hint="download the checkpoint again") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UnsafePath(f"cannot be resolved: {error}", file=path, hint="replace the link by the file") from None
    if not stat.S_ISREG(state.st_mode):
        raise _irregular(path)
    if inside is not None:
        homes = _homes(inside.resolve())
        if not any(real.is_relative_to(home) for home in homes):
            raise UnsafePath(
                f"links to {real}, outside the checkpoint", file=path, hint="copy the file into the folder"
            )
    return real, state


def _homes(root: Path) -> list[Path]:
    """The folders that files of a checkpoint may lie in: its own and, in the Hub's cache, the blobs of its repository."""
    revision = next((folder for folder in (root, *root.parents) if folder.parent.name == "snapshots"), None)
    return [root] if revision is None else [root, revision.parent.parent / "blobs"]


def _irregular(path: Path) -> UnsafePath:
    return UnsafePath("is not a regular file", file=path, hint="replace it by the file itself")


def _unreadable(path: Path, error: BaseException) -> HeaderInvalid:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return HeaderInvalid(f"cannot be read: {reason}", file=path, hint="check its permissions")
