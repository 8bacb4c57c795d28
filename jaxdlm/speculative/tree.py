"""The shape of a proposal: which node continues which. Static, or of static size and grown anew by each row."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Int32


@dataclass(frozen=True)
class Tree:
    """N nodes below the last committed token; parent[i] < i, or -1 for that token itself. A chain: parent[i] = i - 1.

    bonus: the target also reads the leaves, so that a proposal which is accepted whole is followed by one more token.
    """

    parent: tuple[int, ...]
    bonus: bool = True

    def __post_init__(self) -> None:
        if any(not -1 <= p < i for i, p in enumerate(self.parent)):
            raise InputError(f"parent={self.parent}: every node must name an earlier node, or -1")

    @property
    def size(self) -> int:
        return len(self.parent)

    @property
    def is_chain(self) -> bool:
        return self.parent == tuple(range(-1, self.size - 1))

    @functools.cached_property
    def node_depth(self) -> np.ndarray:
        """int32[N], 1 for a child of the root."""
        depth = np.zeros(self.size, np.int32)
        for node, parent in enumerate(self.parent):
            depth[node] = 1 if parent < 0 else depth[parent] + 1
        return depth

    @property
    def depth(self) -> int:
        return int(self.node_depth.max(initial=0))

    @functools.cached_property
    def above(self) -> np.ndarray:
        """bool[N, N]: [i, j] where j is i or above it."""
        above = np.eye(self.size, dtype=bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                above[node] |= above[parent]
        return above

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """int32[1 + N, D]: nodes from the root down to a node (row 0: the root itself), filled up with node 0."""
        paths = np.zeros((1 + self.size, self.depth), np.int32)
        for node in range(self.size):
            chain = np.flatnonzero(self.above[node])
            paths[1 + node, : len(chain)] = chain
        return paths

    @functools.cached_property
    def read(self) -> np.ndarray:
        """Nodes that the target forward reads besides the root: all, or all but the leaves."""
        inner = np.zeros(self.size, bool)
        inner[[p for p in self.parent if p >= 0]] = True
        return np.flatnonzero(inner | self.bonus)


@dataclass(frozen=True)
class Grown:
    """Up to `size` nodes, at most `depth` deep, whose parents each row names in each round (`Proposal.parent`).

    The target reads all of them.
    """

    size: int
    depth: int

    @property
    def bonus(self) -> bool:
        return True

    @property
    def is_chain(self) -> bool:
        return False

    @functools.cached_property
    def read(self) -> np.ndarray:
        """All nodes."""
        return np.arange(self.size)


class Shape(NamedTuple):
    """What the parents of the nodes say: leading axes are those of the rows, and 1 where all rows share a `Tree`."""

    parent: Int32[Array, "... N"]
    depth: Int32[Array, "... N"]  # 1 for a child of the root
    above: Bool[Array, "... N N"]  # [i, j] where j is i or above it


def shape_of(tree: Tree | Grown, parent: Int32[Array, "B N"] | None) -> Shape:
    """The shape of each row, [B, ...] of a grown tree, [1, ...] of a static one."""
    if isinstance(tree, Tree):
        arrays = (np.asarray(tree.parent, np.int32), tree.node_depth, tree.above)
        return Shape(*(jnp.asarray(array)[None] for array in arrays))
    assert parent is not None, "a grown tree comes with the parents of its nodes"
    has = ((parent >= 0) & (parent < jnp.arange(tree.size, dtype=jnp.int32)[None, :]))[:, :, None]
    own = jnp.broadcast_to(jnp.eye(tree.size, dtype=bool), (*parent.shape, tree.size))
    above = own
    for _ in range(tree.depth - 1):  # one generation further up each time
        of_parent = jnp.take_along_axis(above, jnp.maximum(parent, 0)[:, :, None], axis=1)
        above = own | (of_parent & has)
    return Shape(parent, jnp.sum(above, axis=2, dtype=jnp.int32), above)


def chains(count: int, length: int, *, bonus: bool = True) -> Tree:
    """`count` chains of `length` nodes below one root, depth by depth: node i · count + m is chain m at depth i + 1."""
    return Tree(tuple(max(node - count, -1) for node in range(count * length)), bonus)
