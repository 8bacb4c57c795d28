"""Rows of requests on their way through the device, and what is told of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.batch.engine import Outcome
from jaxdlm.batch.rows import Request


class Block(NamedTuple):
    """Columns of an answer that nothing changes any more, from the first on."""

    tokens: np.ndarray
    forwards: int


class Canvas(NamedTuple):
    """All columns of an answer between two forwards; those of `pending` are still open."""

    tokens: np.ndarray
    pending: np.ndarray
    forwards: int


class Ended(NamedTuple):
    """How a row came out."""

    outcome: Outcome


class Unserved(NamedTuple):
    """Why there is no program for a row; None: it does not fit the device. broken: by a mistake of ours."""

    reason: str | None
    broken: bool = False


Told = Block | Canvas | Ended | Unserved | None  # None: the server ended, or failed


@dataclasses.dataclass(eq=False)
class Row:
    """An answer to be. engine: what decodes it. listener: is called in the thread of the server. gone: nobody waits for it
    any more."""

    request: Request
    engine: Any
    listener: Callable[["Row", Any], None]
    blocks: bool = False  # whether it is told of blocks as they close
    canvas: bool = False  # and of the canvas after each forward
    gone: bool = False
    begun: bool = False  # it has a slot
    told: int = 0  # columns


@dataclasses.dataclass(eq=False)
class Questions:
    """A row of typed questions, likewise. row: of `jaxdlm.batch.decisions`."""

    row: Any
    listener: Callable[["Questions", Any], None]
    gone: bool = False


Message = tuple[Row | Questions, Any]
