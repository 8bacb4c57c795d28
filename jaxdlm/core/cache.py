"""The protocol of caches, which decide the columns that a forward recomputes; the loop asks `due` when, row by row."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxdlm.core.carry import Geometry, Rows, Window
from jaxdlm.core.model import Model, gather
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree


class Context:
    """What a cache may use: the model with its weights, the geometry of the batch, and the width of a window.

    versions: rows come in groups of so many that differ in tokens alone and share one state. blind: behind the window's
    hidden rows stand as many that have not seen their own column's token. attention: last layers whose attention a window
    comes with; 0: none.
    """

    def __init__(
        self, model: Model, params: PyTree, geometry: Geometry, width: int, versions: int = 1, blind: bool = False,
        attention: int = 0,
    ) -> None:  # fmt: skip
        self.model, self.params, self.geometry, self.width = model, params, geometry, width
        self.versions, self.blind, self.attention = versions, blind, attention

    def columns(self, rows: Rows) -> tuple[Int32[Array, "B L"], Bool[Array, "B L"]]:
        """True positions and which columns exist (neither a left pad nor past the row's canvas)."""
        column = jnp.arange(self.geometry.length, dtype=jnp.int32)[None, :]
        pads, stop = rows.pads[:, None], rows.stop[:, None]
        return jnp.maximum(column - pads, 0), (column >= pads) & (column < self.geometry.prompt + stop)

    @property
    def shift(self) -> int:
        """Columns needed left of a window: 1 with `next` prediction, where row i - 1 holds the logits of column i, else
        0."""
        return 1 if self.model.config.prediction == "next" else 0

    def select(
        self, hidden: Float[Array, "B T D"], first: Int32[Array, "B"] | int, start: Int32[Array, "B"]
    ) -> Float[Array, "B W D"]:
        """Hidden rows with the logits of columns start .. start + W, out of those of columns first .. first + T."""
        return gather(hidden, self.logit_index(hidden.shape[1], first, start))

    def logit_index(
        self, columns: int, first: Int32[Array, "B"] | int, start: Int32[Array, "B"]
    ) -> Int32[Array, "B W"]:
        """The index of these rows. Nothing but this and `shift` knows about `next` prediction."""
        index = (start - first - self.shift)[:, None] + jnp.arange(self.width, dtype=jnp.int32)[None, :]
        return jnp.clip(index, 0, columns - 1)


@runtime_checkable
class Cache(Protocol):
    """Rows of hidden states for a window, with or without stored keys and values.

    recomputes_all: every forward recomputes everything (there is no `step`). window: "block" or "canvas", the widest
    view of rules that it can serve. versions: `step` leaves the state as it is, so that it serves several versions of a
    row.
    admits: a row that takes another's place needs `admit`; else tick 0 alone makes it read all that it needs.
    attention: that of the models it serves, None: any. blind: it also reads a window whose columns do not see themselves.
    attends: it also tells what the columns of a window attend to.
    """

    recomputes_all: ClassVar[bool]
    window: ClassVar[str]
    versions: ClassVar[bool]
    admits: ClassVar[bool]
    attention: ClassVar[str | None]
    blind: ClassVar[bool]
    attends: ClassVar[bool]

    def init(self, context: Context, rows: Rows) -> PyTree: ...

    def due(self, rows: Rows) -> Bool[Array, "B"]: ...

    def refresh(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Any) -> Window: ...

    def step(self, context: Context, rows: Rows, start: Int32[Array, "B"], state: Any) -> Window: ...

    def admit(self, context: Context, rows: Rows, state: Any, new: Bool[Array, "B"]) -> PyTree: ...


class Refreshing:
    """Default of a cache that is due at tick 0 and whose `refresh` then reads nothing of a row's old state.

    A new row may take the place of a finished one at any time: it starts at tick 0, so whatever the old row left in the
    state is overwritten before it is read. A cache that keeps more (block_exact: the prompt's keys) reads
    it in `admit` for the rows `new`.
    """

    admits: ClassVar[bool] = False
    attention: ClassVar[str | None] = None
    blind: ClassVar[bool] = False
    attends: ClassVar[bool] = False

    def admit(self, context: Context, rows: Rows, state: Any, new: Bool[Array, "B"]) -> Any:
        return state


def forward(
    cache: Cache,
    context: Context,
    rows: Rows,
    start: Int32[Array, "B"],
    state: PyTree,
    versions: Int32[Array, "B N L"] | None = None,
) -> tuple[Window, Bool[Array, "B"]]:
    """One forward for the batch, and the rows that take part in it.

    A row that is due for a refresh waits until every live row is due, so that one refresh serves all; the others step
    on. When a row refreshes depends on its own clock alone, so its tokens do not depend on its neighbours.
    With `versions` of the tokens, the hidden rows of each stand side by side, B N in all; a refresh reads the rows'
    own tokens alone, and all versions share its result.
    """
    live = ~rows.done
    many, starts = rows, start
    if versions is not None:
        context = Context(context.model, context.params, context.geometry, context.width, versions.shape[1])
        many, starts = spread(rows, versions), jnp.repeat(start, versions.shape[1])
    if cache.recomputes_all:
        return cache.refresh(context, many, starts, state), live
    due = cache.due(rows) & live
    rebuild = jnp.all(due == live)

    def refresh(state: PyTree) -> Window:
        single = Context(context.model, context.params, context.geometry, context.width)
        window = cache.refresh(single, rows, start, state)
        return window._replace(hidden=jnp.repeat(window.hidden, context.versions, axis=0))

    window = jax.lax.cond(rebuild, refresh, lambda s: cache.step(context, many, starts, s), state)
    return window, live & (rebuild | ~due)


def spread(rows: Rows, versions: Int32[Array, "B N L"]) -> Rows:
    """B N rows, one for each version of each row, without the fields that no cache reads."""
    count = versions.shape[1]
    many = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), rows._replace(policy=(), key=()))
    return many._replace(tokens=versions.reshape(-1, versions.shape[2]))
