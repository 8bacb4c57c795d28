"""Data in batches of one size, so that one compiled program reads them all: the last is filled up."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdlm.typing import Int


def filled(texts: Sequence[Any], batch: int) -> Iterator[tuple[int, int, list[Any]]]:
    """(place of the first, how many are of the texts, these and the last one again)."""
    for first in range(0, len(texts), batch):
        part = list(texts[first : first + batch])
        yield first, len(part), part + [part[-1]] * (batch - len(part))


def order(count: int, batch: int) -> Int[np.ndarray, "N B"]:
    """Places 0 to count - 1 by batches, and behind them the first again."""
    return np.resize(np.arange(count), (-(-count // batch), batch))
