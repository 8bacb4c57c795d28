"""What a cache decides: which columns a forward recomputes. The loop decides when, per row, from `due`."""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxdlm.core.carry import Geometry, Rows, Window
from jaxdlm.core.model import Model
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree


class Context:
    """What a cache may use: the model with its weights, the static columns, and the columns that are asked for."""

    def __init__(self, model: Model, params: PyTree, geometry: Geometry, width: int) -> None:
        self.model, self.params, self.geometry, self.width = model, params, geometry, width

    def columns(self, rows: Rows) -> tuple[Int32[Array, "B L"], Bool[Array, "B L"]]:
        """True positions and which columns exist (neither a left pad nor past the row's canvas)."""
        column = jnp.arange(self.geometry.length, dtype=jnp.int32)[None, :]
        pads, stop = rows.pads[:, None], rows.stop[:, None]
        return jnp.maximum(column - pads, 0), (column >= pads) & (column < self.geometry.prompt + stop)

    @property
    def lead(self) -> int:
        """Columns that a window needs on its left: 1 with `next` prediction, where row i - 1 speaks for column i."""
        return 1 if self.model.config.prediction == "next" else 0

    def select(
        self, hidden: Float[Array, "B T D"], first: Int32[Array, "B"] | int, start: Int32[Array, "B"]
    ) -> Float[Array, "B W D"]:
        """Rows that speak for columns start .. start + W, out of the rows of columns first .. first + T.

        With `lead` the one place that knows `next` prediction.
        """
        index = (start - first - self.lead)[:, None] + jnp.arange(self.width, dtype=jnp.int32)[None, :]
        return jnp.take_along_axis(hidden, jnp.clip(index, 0, hidden.shape[1] - 1)[:, :, None], axis=1)


class Cache(Protocol):
    """Rows of hidden states for a window, with or without stored keys and values.

    always: every forward recomputes everything (there is no `step`). window: "block" or "canvas", the widest view of
    rules that it can serve.
    """

    always: ClassVar[bool]
    window: ClassVar[str]

    def init(self, context: Context, rows: Rows) -> PyTree: ...

    def due(self, rows: Rows) -> Bool[Array, "B"]: ...

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Any) -> Window: ...

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Any) -> Window: ...


def forward(
    cache: Cache, context: Context, rows: Rows, start: Int32[Array, "B"], state: PyTree
) -> tuple[Window, Bool[Array, "B"]]:
    """One forward for the batch, and the rows that take part in it.

    A row that is due for a refresh waits until every live row is due, so that one refresh serves all; the others step
    on. When a row refreshes depends on its own clock alone, so its tokens do not depend on its neighbours.
    """
    live = ~rows.done
    if cache.always:
        return cache.refresh(context, rows, start, state), live
    due = cache.due(rows) & live
    rebuild = jnp.all(due == live)
    window = jax.lax.cond(
        rebuild,
        lambda s: cache.refresh(context, rows, start, s),
        lambda s: cache.step(context, rows, start, s),
        state,
    )
    return window, live & (rebuild | ~due)
