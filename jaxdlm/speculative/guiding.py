"""A guide over the nodes of a draft: a state for each, and the logits behind each bent by its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.guide import Context, Guide
from jaxdlm.core.select import select_rows
from jaxdlm.errors import InputError
from jaxdlm.speculative.state import Rows
from jaxdlm.speculative.tree import Tree
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree


def begin(guide: Guide | None, rows: Rows, vocab: int) -> Rows:
    """The rows with the guide's state behind their prompts, in the place of what they were given for it."""
    if guide is None:
        if jax.tree.leaves(rows.guide):
            raise InputError("rows bring something for a guide, and the policy has none: pass guide=... to the policy")
        return rows

    def one(tokens: Array, length: Array, room: Array, given: PyTree) -> PyTree:
        return guide.init(Context(tokens, length, room, given, vocab))

    return rows._replace(guide=jax.vmap(one)(rows.tokens, rows.length, rows.stop - rows.length, rows.guide))


class Nodes(NamedTuple):
    """A guide over T nodes below each row; without a guide its states are empty, and logits stay as they are.

    Leaves of `states` are [B, T, ...]; those that `advance` hands on as they came in are the row's own, [B, ...]. axes:
    a tree of 0 for the first and None for the others.
    """

    guide: Guide | None
    axes: PyTree

    def root(self, state: PyTree) -> PyTree:
        """The state of each row as that of one node below it."""
        return () if self.guide is None else self._moving(lambda leaf: leaf[:, None], state)

    def row(self, states: PyTree) -> PyTree:
        """The states of single nodes as those of their rows."""
        return self._moving(lambda leaf: leaf[:, 0], states)

    def spread(self, states: PyTree, count: int) -> PyTree:
        """The states of single nodes, `count` times."""
        return self._moving(lambda leaf: jnp.repeat(leaf, count, axis=1), states)

    def pick(self, states: PyTree, index: np.ndarray | Array) -> PyTree:
        """The states of these nodes, of the same ones in all rows int[T] or of each row's own [B, T]."""
        if index.ndim == 1:
            return self._moving(lambda leaf: leaf[:, index], states)
        return self._moving(lambda leaf: leaf[jnp.arange(leaf.shape[0])[:, None], index], states)

    def select(self, mask: Bool[Array, "B"], new: PyTree, old: PyTree) -> PyTree:
        """`new` in the rows of `mask`, `old` in the others."""
        return self._moving(lambda a, b: select_rows(mask, a, b), new, old)

    def advance(self, states: PyTree, token: Int32[Array, "B T"]) -> PyTree:
        """The states with one more token each."""
        if self.guide is None:
            return states
        nodes = jax.vmap(self.guide.advance, in_axes=(self.axes, 0), out_axes=self.axes)
        return jax.vmap(nodes)(states, token)

    def transform(
        self, logits: Float32[Array, "B T V"], states: PyTree
    ) -> tuple[Float32[Array, "B T V"], Bool[Array, "B T"]]:
        """(the logits behind each node, whether anything is allowed there); they stay as they are where nothing is."""
        assert self.guide is not None
        bent = jax.vmap(jax.vmap(self.guide.transform, in_axes=(0, self.axes)))(logits, states)
        live = jnp.max(bent, axis=2) > -jnp.inf
        return jnp.where(live[:, :, None], bent, logits), live

    def bend(self, logits: Float32[Array, "B T V"], states: PyTree) -> Float32[Array, "B T V"]:
        """`transform` where it does not matter what happens behind a node that allows nothing: in a draft."""
        return logits if self.guide is None else self.transform(logits, states)[0]

    def below(self, state: PyTree, tree: Tree, token: Int32[Array, "B N"]) -> PyTree:
        """The states of the root and of each node of a tree, [B, 1 + N, ...], depth by depth."""
        levels, order = [self.root(state)], [np.zeros(1, np.int64)]
        for depth in range(1, tree.depth + 1):
            nodes = np.flatnonzero(tree.node_depth == depth)
            parent = 1 + np.asarray(tree.parent, np.int32)[nodes]
            above = self.pick(levels[-1], np.searchsorted(order[-1], parent))
            levels.append(self.advance(above, token[:, nodes]))
            order.append(1 + nodes)
        every = self._moving(lambda *leaves: jnp.concatenate(leaves, axis=1), *levels)
        place = np.concatenate(order)
        in_order = bool((place == np.arange(place.size)).all())
        return every if in_order else self.pick(every, np.argsort(place))

    def _moving(self, function: Any, *states: PyTree) -> PyTree:
        """The function of the leaves that differ from node to node; the others as in the first state."""

        def one(axis: int | None, *leaves: Any) -> Any:
            return leaves[0] if axis is None else function(*leaves)

        return jax.tree.map(one, self.axes, *states, is_leaf=lambda axis: axis is None)


def nodes_of(guide: Guide | None, state: PyTree) -> Nodes:
    """The guide over nodes, from the states [B, ...] of all rows."""
    if guide is None:
        return Nodes(None, ())
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
    traced = jax.make_jaxpr(guide.advance)(one, jax.ShapeDtypeStruct((), jnp.int32)).jaxpr
    axes = [None if new is old else 0 for new, old in zip(traced.outvars, traced.invars)]
    return Nodes(guide, jax.tree.unflatten(jax.tree.structure(state), axes))
