"""When a cache reads all columns again: at the start of a block, and every n-th forward after it."""

from typing import Any

import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.core.carry import Rows
from jaxdlm.typing import Array, Bool

MOST = 2**30  # forwards; one more is still an int32


def periodic(rows: Rows, every: Any) -> Bool[Array, "B"]:
    """The first forward of a block, and every `every`-th after it; None: the first only."""
    if every is None:
        return rows.tick == 0
    return rows.tick % jnp.asarray(every, jnp.int32) == 0


def interval(every: Any, name: str = "refresh_every", low: int = 1, *, none: bool = False) -> Any:
    """`every`, a whole number of forwards that may be an array; none: never. Raises InputError below `low`."""
    return argument.number(every, name, low=low, high=MOST, whole=True, none=none)


def count(number: Any, name: str, low: int = 0) -> int:
    """`number`, a shape. Raises InputError unless it is a plain whole number of at least `low`."""
    return argument.whole(low, argument.COLUMNS)(number, name)
