"""A guide over the nodes of a draft: a state for each, and the logits behind each bent by its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.guide import Context, Guide
from jaxdlm.errors import InputError
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.speculative.tree import Grown
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

States = tuple[Array, ...]  # of nodes, see `Nodes`


def begin(guide: Guide | None, rows: Rows, vocab: int) -> Rows:
    """The rows with the guide's state behind their prompts, in the place of what they were given for it."""
    if guide is None:
        if jax.tree.leaves(rows.guide):
            raise InputError("rows bring something for a guide, and the policy has none: pass guide=... to the policy")
        return rows

    def one(tokens: Array, length: Array, room: Array, own: PyTree) -> PyTree:
        tokens = jnp.where(tokens < 0, vocab, tokens)  # an embedding is no word
        return guide.init(Context(tokens, length, room, own, vocab))

    return rows._replace(guide=jax.vmap(one)(rows.tokens, rows.length, rows.stop - rows.length, rows.guide))


class Nodes(NamedTuple):
    """A guide over T nodes below each row; without a guide there are no states, and logits stay as they are.

    Leaves of a state that `advance` hands on as they came in, such as tables, are the row's, in `state`. `States` of nodes
    are the others alone, each [B, T, ...].
    """

    guide: Guide | None
    state: PyTree  # of each row, leaves [B, ...]
    moves: tuple[bool, ...]  # per leaf: whether `advance` changes it

    def root(self) -> States:
        """The states of the rows, as of one node below each."""
        return self._moving(jax.tree.map(lambda leaf: leaf[:, None], self.state))

    def row(self, states: States) -> PyTree:
        """The states of single nodes as those of their rows."""
        return self._whole(tuple(leaf[:, 0] for leaf in states))

    def spread(self, states: States, count: int) -> States:
        """The states of single nodes, `count` times."""
        return tuple(jnp.repeat(leaf, count, axis=1) for leaf in states)

    def pick(self, states: States, index: np.ndarray | Array) -> States:
        """The states of these nodes, of the same ones in all rows int[T] or of each row's own [B, T]."""
        if index.ndim == 1:
            return tuple(leaf[:, index] for leaf in states)
        return tuple(leaf[jnp.arange(leaf.shape[0])[:, None], index] for leaf in states)

    def advance(self, states: States, token: Int32[Array, "B T"]) -> States:
        """The states with one more token each."""
        if self.guide is None:
            return states
        axes = self._whole((0,) * len(states), None)
        nodes = jax.vmap(self.guide.advance, in_axes=(axes, 0), out_axes=axes)
        return self._moving(jax.vmap(nodes)(self._whole(states), token))

    def transform(
        self, logits: Float32[Array, "B T V"], states: States
    ) -> tuple[Float32[Array, "B T V"], Bool[Array, "B T"]]:
        """(the logits behind each node, whether anything is allowed there); they stay as they are where nothing is."""
        assert self.guide is not None
        nodes = jax.vmap(self.guide.transform, in_axes=(0, self._whole((0,) * len(states), None)))
        bent = jax.vmap(nodes)(logits, self._whole(states))
        live = jnp.max(bent, axis=2) > -jnp.inf
        return jnp.where(live[:, :, None], bent, logits), live

    def forced(self, states: States) -> Int32[Array, "B T"]:
        """What each node is drafted to go on with, -1 for nothing."""
        assert self.guide is not None
        return self._drafts(self.guide.forced, states)

    def nearer(self, states: States) -> Int32[Array, "B T"]:
        """What leads each node towards an end, -1 for nothing."""
        assert self.guide is not None
        return self._drafts(self.guide.nearer, states)

    def _drafts(self, which: Callable[[PyTree], Array], states: States) -> Int32[Array, "B T"]:
        nodes = jax.vmap(which, in_axes=(self._whole((0,) * len(states), None),))
        return jax.vmap(nodes)(self._whole(states))

    def bend(self, logits: Float32[Array, "B T V"], states: States) -> Float32[Array, "B T V"]:
        """`transform` where it does not matter what happens behind a node that allows nothing: in a draft."""
        return logits if self.guide is None else self.transform(logits, states)[0]

    def below(self, proposal: Proposal) -> States:
        """The states of the root and of each node of a tree, [B, 1 + N, ...], depth by depth."""
        tree, token = proposal.tree, proposal.token
        if isinstance(tree, Grown):
            return self.below_grown(tree, proposal)
        levels, order = [self.root()], [np.zeros(1, np.int64)]
        for depth in range(1, tree.depth + 1):
            nodes = np.flatnonzero(tree.node_depth == depth)
            parent = 1 + np.asarray(tree.parent, np.int32)[nodes]
            above = self.pick(levels[-1], np.searchsorted(order[-1], parent))
            levels.append(self.advance(above, token[:, nodes]))
            order.append(1 + nodes)
        every = tuple(jnp.concatenate(leaves, axis=1) for leaves in zip(*levels, strict=True))
        place = np.concatenate(order)
        in_order = bool((place == np.arange(place.size)).all())
        return every if in_order else self.pick(every, np.argsort(place))

    def below_grown(self, tree: Grown, proposal: Proposal) -> States:
        """`below`, where no depth has nodes of its own: all go one token on from their parents, depth times."""
        assert proposal.parent is not None
        root = self.root()
        every = self.spread(root, 1 + tree.size)
        for _ in range(tree.depth):
            below = self.advance(self.pick(every, 1 + proposal.parent), proposal.token)
            every = tuple(jnp.concatenate(leaves, axis=1) for leaves in zip(root, below, strict=True))
        return every

    def _moving(self, state: PyTree) -> States:
        return tuple(leaf for leaf, moves in zip(jax.tree.leaves(state), self.moves, strict=True) if moves)

    def _whole(self, states: tuple[Any, ...], *other: Any) -> PyTree:
        """The tree of a state with these leaves; the row's own, or `other`, in the place of those that do not move."""
        leaves, structure = jax.tree.flatten(self.state)
        moving = iter(states)
        return jax.tree.unflatten(
            structure, [next(moving) if moves else (*other, leaf)[0] for leaf, moves in zip(leaves, self.moves)]
        )


def nodes_of(guide: Guide | None, state: PyTree) -> Nodes:
    """The guide over nodes, from the states [B, ...] of all rows."""
    if guide is None:
        return Nodes(None, (), ())
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
    traced = jax.make_jaxpr(guide.advance)(one, jax.ShapeDtypeStruct((), jnp.int32)).jaxpr
    return Nodes(guide, state, tuple(new is not old for new, old in zip(traced.outvars, traced.invars)))
