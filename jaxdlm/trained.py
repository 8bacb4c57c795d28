"""Files of what was trained for a model: where those lie that this package brings, and each read once."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from jaxdlm import argument

ASSETS = pathlib.Path(__file__).parent / "assets"
More = TypeVarTuple("More")
Read = TypeVar("Read")


def shipped(
    weights: Any, kind: str, name: str = "weights", ending: str = "safetensors", wanted: str = ""
) -> pathlib.Path:
    """The file that an argument names: itself, or that of an embedded target. Raises InputError where there is none.

    wanted: what else the argument may be, for the message.
    """
    path = argument.path(weights, name)
    for file in (path, ASSETS / str(weights) / f"{kind}.{ending}"):
        if file.is_file():
            return file
    embedded = ", ".join(sorted(file.parent.name for file in ASSETS.glob(f"*/{kind}.{ending}")))
    argument.refuse(
        weights, name, f"{wanted}a file of scripts/train.py --recipe {kind}, or an embedded target, {embedded}"
    )


def once(read: Callable[[pathlib.Path, *More], Read]) -> Callable[[pathlib.Path, *More], Read]:
    """`read`, once per state of a file: two policies of one file are equal, and share their weights."""

    @functools.lru_cache(maxsize=8)
    def known(path: pathlib.Path, changed: int, *more: *More) -> Read:
        return read(path, *more)

    @functools.wraps(read)
    def current(path: pathlib.Path, *more: *More) -> Read:
        return known(path, path.stat().st_mtime_ns, *more)

    return current
