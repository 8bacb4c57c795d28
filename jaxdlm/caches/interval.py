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


def interval(every: Any) -> Any:
    """`every`, or InputError when a plain number is no whole number of at least 1."""
    if isinstance(every, str | float | int) and (isinstance(every, str) or every != every or every < 1 or every % 1):
        raise InputError(f"refresh_every={every!r}: must be a whole number, at least 1")
    return every
