"""JSON from strangers: bounded in size, without duplicate keys, without NaN."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from jaxdlm.checkpoint.errors import HeaderInvalid, UnsafePath

MAX_BYTES = 100 * 2**20  # the bound that safetensors itself puts on a header


def open_regular(path: Path, inside: Path | None = None) -> int:
    """The size in bytes of a regular file; UnsafePath for loops, devices, pipes and links that leave `inside`.

    Links into the `blobs` folder beside `snapshots/<revision>` are how the Hub's cache stores files, so those may leave.
    """
    try:
        real = path.resolve(strict=True)
        state = os.stat(real)
    except FileNotFoundError:
        raise HeaderInvalid("the file does not exist", file=path, hint="download the checkpoint again") from None
    except (OSError, RuntimeError) as error:
        raise UnsafePath(f"cannot be resolved: {error}", file=path, hint="replace the link by the file") from None
    if not stat.S_ISREG(state.st_mode):
        raise UnsafePath("is not a regular file", file=path, hint="replace it by the file itself")
    if inside is not None:
        root = inside.resolve()
        homes = [root]
        if root.parent.name == "snapshots":
            homes.append(root.parent.parent / "blobs")
        if not any(real.is_relative_to(home) for home in homes):
            raise UnsafePath(
                f"links to {real}, outside the checkpoint", file=path, hint="copy the file into the folder"
            )
    return state.st_size


def parse(text: str | bytes, file: object) -> Any:
    """Decode JSON; HeaderInvalid on a duplicate key, a NaN literal, bad UTF-8 or bad syntax."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise HeaderInvalid(
                f"the key {twice!r} appears twice", file=file, tensor=twice, hint="write the file again"
            )
        return found

    def constant(name: str) -> Any:
        raise HeaderInvalid(f"{name} is not JSON", file=file, hint="write the file again")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except HeaderInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderInvalid(f"is not valid JSON: {error}", file=file, hint="download or write the file again") from None


def read_object(path: Path, inside: Path | None = None) -> dict[str, Any]:
    """Read a JSON file whose top level is an object."""
    size = open_regular(path, inside)
    if size > MAX_BYTES:
        raise HeaderInvalid(
            f"has {size} bytes, more than {MAX_BYTES}", file=path, hint="this is not a checkpoint's file"
        )
    try:
        value = parse(path.read_bytes(), path)
    except OSError as error:
        raise HeaderInvalid(f"cannot be read: {error.strerror}", file=path, hint="check its permissions") from None
    if not isinstance(value, dict):
        raise HeaderInvalid("the top level must be an object", file=path, got=type(value).__name__, expected="object")
    return value
