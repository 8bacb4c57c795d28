"""When a cache reads everything anew: at the start of a block, and every n-th forward after it."""

from typing import Any

import jax.numpy as jnp

from jaxdlm.core.carry import Rows
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool


def periodic(rows: Rows, every: Any) -> Bool[Array, "B"]:
    """The first forward of a block, and every `every`-th after it; None: the first only."""
    if every is None:
        return rows.tick == 0
    return rows.tick % jnp.asarray(every, jnp.int32) == 0


def interval(every: Any, name: str = "refresh_every", low: int = 1) -> Any:
    """`every`, or InputError when a plain number is no whole number of at least `low`."""
    if isinstance(every, str | float | int) and (isinstance(every, str) or every != every or every < low or every % 1):
        raise InputError(f"{name}={every!r}: must be a whole number, at least {low}")
    return every


def count(number: int, name: str, low: int = 0) -> int:
    """`number`, a shape: InputError unless it is a plain whole number of at least `low`."""
    if isinstance(number, bool) or not isinstance(number, int) or number < low:
        raise InputError(f"{name}={number!r}: must be a whole number, at least {low}")
    return number
