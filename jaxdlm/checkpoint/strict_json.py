"""JSON from strangers: bounded in size, without duplicate keys, without NaN."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdlm import argument
from jaxdlm.checkpoint import files
from jaxdlm.checkpoint.errors import HeaderInvalid


def parse(text: str | bytes, file: object) -> Any:
    """Decode JSON; HeaderInvalid on a duplicate key, a NaN literal, bad UTF-8 or bad syntax."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            twice = argument.repeated(key for key, _ in pairs)
            raise HeaderInvalid(
                f"the key {twice!r} appears twice", file=file, tensor=twice, hint="write the file again"
            )
        return fields

    def constant(name: str) -> Any:
        raise HeaderInvalid(f"{name} is not JSON", file=file, hint="write the file again")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        with uncollected():
            return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except HeaderInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderInvalid(f"is not valid JSON: {error}", file=file, hint="download or write the file again") from None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without looks for cycles, of which data from JSON has none: half of the time to make a million small lists."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def read_object(path: Path, inside: Path | None = None) -> dict[str, Any]:
    """Read a JSON file whose top level is an object."""
    value = parse(files.read(path, inside), path)
    if not isinstance(value, dict):
        raise HeaderInvalid("the top level must be an object", file=path, got=type(value).__name__, expected="object")
    return value
