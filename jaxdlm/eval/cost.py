"""How many forwards of a decode were cached ones, and how many token positions went through the model.

Nothing is counted while decoding: when a cache reads everything anew follows from the row's own clock (`Cache.due`),
and the clock follows from the forwards at which columns were written.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.cache import Cache, Context
from jaxdlm.core.carry import Geometry, Rows
from jaxdlm.typing import PyTree


class _Counter:
    """A model that notes how many tokens it is given; used on shapes only."""

    def __init__(self, model: Any) -> None:
        self.model, self.tokens = model, 0

    @property
    def config(self) -> Any:
        return self.model.config

    def apply(self, params: PyTree, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        self.tokens = max(self.tokens, tokens.shape[1])
        return self.model.apply(params, tokens, *args, **kwargs)

    def through(self, params: PyTree, tokens: Any, *args: Any) -> Any:
        self.tokens = max(self.tokens, tokens.shape[1])
        return self.model.through(params, tokens, *args)

    @property
    def tiling(self) -> Any:
        return self.model.tiling

    def head(self, params: PyTree, hidden: Any, first: Any = None) -> Any:
        return self.model.head(params, hidden, first)


def positions_per_forward(
    model: Any, params: PyTree, cache: Cache, rows: Rows, geometry: Geometry, width: int
) -> tuple[int, int]:
    """(token positions of a forward that reads everything, of a cached one), pads included: what is computed.

    Of a cache that recomputes some layers only, the widest layer.
    """

    def count(method: Any) -> int:
        counter = _Counter(model)
        context = Context(counter, params, geometry, width)  # type: ignore[arg-type]
        start = jnp.full_like(rows.block, geometry.prompt)
        jax.eval_shape(
            lambda r, s: method(context, r, s, cache.init(Context(model, params, geometry, width), r)), rows, start
        )
        return counter.tokens

    if cache.always:
        return geometry.length, geometry.length
    return count(cache.refresh), count(cache.step)


def forwards_cached(cache: Cache, commit_step: np.ndarray, forwards: np.ndarray, block: int) -> np.ndarray:
    """int[B]: forwards in which the cache did not read everything.

    A row enters a block when the block before is written, so its clock at forward s is s minus the last commit before.
    """
    if cache.always:
        return np.zeros_like(forwards)
    columns = commit_step.shape[1]
    ends = np.stack([commit_step[:, a : a + block].max(1) for a in range(0, columns, block)], axis=1)
    ends = np.maximum.accumulate(ends, axis=1) + 1  # forwards at which the block is complete
    at = np.arange(max(1, int(forwards.max())))
    inside = (ends[:, None, :] <= at[None, :, None]).sum(2)  # block at forward s
    begin = np.concatenate([np.zeros((len(ends), 1), ends.dtype), ends], axis=1)
    tick = at[None] - np.take_along_axis(begin, inside, axis=1)
    due = np.asarray(cache.due(_clocks(tick, inside, at)))
    ran = at[None] < forwards[:, None]
    return (ran & ~due.reshape(tick.shape)).sum(1)


def _clocks(tick: np.ndarray, block: np.ndarray, at: np.ndarray) -> Rows:
    """Rows of which only the clocks exist: one per row and forward."""
    empty: dict[str, Any] = dict.fromkeys(Rows._fields)
    step = np.broadcast_to(at[None], tick.shape)
    filled = {"tick": tick, "block": block, "step": step, "forwards": step, "done": np.zeros(tick.shape, bool)}
    return Rows(
        **{
            **empty,
            **{
                k: jnp.asarray(v.reshape(-1).astype(v.dtype if v.dtype == bool else np.int32))
                for k, v in filled.items()
            },
        }
    )
