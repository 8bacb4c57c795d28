"""The tree of PG-TD over arrays: which leaf comes next by P-UCB, and what a return changes. One prompt; `vmap` has the batch.

A node is a prefix of answers, and keeps the answer that the model completes it to (the sequence cache) with the likeliest tokens
at each column of that (the tree cache): a child that stays on its parent's answer costs no forward.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.typing import Array, Bool, Float32, Int32


class Tree(NamedTuple):
    """M nodes, answers of C columns, K children of each. Node 0 is the prompt."""

    count: Int32[Array, ""]
    text: Int32[Array, "M C"]  # the answer
    depth: Int32[Array, "M"]  # tokens of the prefix
    length: Int32[Array, "M"]  # and of the answer
    logp: Float32[Array, "M C"]  # of the answer's tokens
    token: Int32[Array, "M C K"]  # the likeliest at each column from `depth` on
    token_logp: Float32[Array, "M C K"]
    reward: Float32[Array, "M"]
    known: Bool[Array, "M"]  # whether it has an answer yet
    visits: Int32[Array, "M"]
    child: Int32[Array, "M K"]  # -1: not made yet
    tries: Int32[Array, "M K"]  # returns through each child, those under way included: the virtual loss
    value: Float32[Array, "M K"]  # the greatest of them
    rollouts: Int32[Array, ""]
    generations: Int32[Array, ""]  # answers that the model completed
    best: Int32[Array, ""]  # the first node of the greatest reward
    best_reward: Float32[Array, ""]

    @property
    def nodes(self) -> int:
        return self.depth.shape[0]


class Leaf(NamedTuple):
    """A rollout: its node, and the edges on the way there; M stands for none. asks: its answer is to be completed."""

    node: Int32[Array, ""]
    path: Int32[Array, "C"]
    slot: Int32[Array, "C"]
    asks: Bool[Array, ""]


@struct.dataclass
class Law:
    """P-UCB: value + ((ln((N + base + 1) / base) + c) prior sqrt(ln N)) / (1 + n); where a search ends."""

    c: Any
    base: Any
    enough: Any  # reward
    generations: Any
    rollouts: Any

    def urge(self, tree: Tree, node: Int32[Array, ""]) -> Float32[Array, "K"]:
        """Of each child; -inf of those that are under way or must not be."""
        visits = tree.visits[node].astype(jnp.float32)
        logp = tree.token_logp[node, jnp.minimum(tree.depth[node], tree.text.shape[1] - 1)]
        weight = jnp.log((visits + self.base + 1) / self.base) + self.c
        tries = 1.0 + tree.tries[node].astype(jnp.float32)
        value = jnp.where(tree.value[node] > -jnp.inf, tree.value[node], 0.0)
        below = tree.child[node]
        ready = (logp > -jnp.inf) & ((below < 0) | tree.known[jnp.maximum(below, 0)])
        urge = value + weight * jax.nn.softmax(logp) * jnp.sqrt(jnp.log(visits)) / tries
        return jnp.where(ready, urge, -jnp.inf)

    def over(self, tree: Tree) -> Bool[Array, ""]:
        """Whether the search has come to one of its bounds."""
        spent = (tree.rollouts >= self.rollouts) | (tree.generations >= self.generations)
        return spent | (tree.best_reward >= self.enough)


def planted(nodes: int, columns: int, children: int) -> Tree:
    """The tree without a node."""
    whole = lambda *shape: jnp.zeros(shape, jnp.int32)  # noqa: E731
    least = lambda *shape: jnp.full(shape, -jnp.inf, jnp.float32)  # noqa: E731
    each = (nodes, columns, children)
    return Tree(
        whole(), whole(nodes, columns), whole(nodes), whole(nodes), jnp.zeros((nodes, columns)), whole(*each), least(*each),
        least(nodes), jnp.zeros(nodes, bool), whole(nodes), whole(nodes, children) - 1, whole(nodes, children),
        least(nodes, children), whole(), whole(), whole(), least(),
    )  # fmt: skip


class Way(NamedTuple):
    """A descent under way. node: where it stands; leaf: where it has come to."""

    node: Int32[Array, ""]
    steps: Int32[Array, ""]
    leaf: Int32[Array, ""]
    path: Int32[Array, "C"]
    slot: Int32[Array, "C"]
    going: Bool[Array, ""]


def descended(tree: Tree, law: Law, idle: Bool[Array, ""]) -> tuple[Tree, Leaf]:
    """(the tree with the next leaf in it and its visits counted, the leaf); the first one is the prompt itself."""
    nodes, columns = tree.nodes, tree.text.shape[1]
    none = jnp.full(columns, nodes, jnp.int32)
    stop = idle | law.over(tree) | ~tree.known[0] | (tree.length[0] == 0)

    def further(way: Way) -> Way:
        urge = law.urge(tree, way.node)
        pick = jnp.argmax(urge).astype(jnp.int32)
        stuck = urge[pick] == -jnp.inf  # every child is under way
        child = tree.child[way.node, pick]
        new = child < 0
        at = jnp.maximum(child, 0)
        leaf = jnp.where(new, tree.count, child)
        return Way(
            at, way.steps + 1, jnp.where(stuck, nodes, leaf), way.path.at[way.steps].set(way.node),
            way.slot.at[way.steps].set(pick), ~stuck & ~new & (tree.depth[at] < tree.length[at]),
        )  # fmt: skip

    begin = Way(jnp.int32(0), jnp.int32(0), jnp.int32(nodes), none, jnp.zeros(columns, jnp.int32), ~stop)
    way = jax.lax.while_loop(lambda way: way.going, further, begin)
    first = ~idle & (tree.count == 0)
    leaf = jnp.where(first, 0, way.leaf)
    path = jnp.where(leaf < nodes, way.path, nodes)
    asks = first | ((leaf == tree.count) & (leaf < nodes))
    tree = tree._replace(
        visits=tree.visits.at[path].add(1, mode="drop").at[leaf].add(1, mode="drop"),
        tries=tree.tries.at[path, way.slot].add(1, mode="drop"),
        rollouts=tree.rollouts + ((leaf < nodes) & ~first).astype(jnp.int32),
    )
    last = jnp.maximum(way.steps - 1, 0)
    tree, asks = sprouted(tree, leaf, path[last], way.slot[last], asks)
    return tree, Leaf(leaf, path, way.slot, asks)


def sprouted(
    tree: Tree, node: Int32[Array, ""], parent: Int32[Array, ""], slot: Int32[Array, ""], new: Bool[Array, ""]
) -> tuple[Tree, Bool[Array, ""]]:
    """(the tree with this node, where it is new, behind a child's token of its parent; whether its answer is to be
    completed). On its parent's answer it has that, with its reward."""
    at = jnp.where(new, node, tree.nodes)
    root = parent == tree.nodes
    above = jnp.where(root, 0, parent)
    depth = tree.depth[above]
    token, logp = tree.token[above, depth, slot], tree.token_logp[above, depth, slot]
    alike = (tree.text[above, depth] == token) & ~root
    put = lambda leaf, value: leaf.at[at].set(value, mode="drop")  # noqa: E731
    tree = tree._replace(
        count=tree.count + new.astype(jnp.int32),
        text=put(tree.text, tree.text[above].at[depth].set(token)),
        depth=put(tree.depth, jnp.where(root, 0, depth + 1)),
        length=put(tree.length, tree.length[above]),
        logp=put(tree.logp, tree.logp[above].at[depth].set(logp)),
        token=put(tree.token, tree.token[above]),
        token_logp=put(tree.token_logp, tree.token_logp[above]),
        reward=put(tree.reward, tree.reward[above]),
        known=put(tree.known, alike),
        visits=put(tree.visits, jnp.where(root, 1, 2)),
        child=tree.child.at[jnp.where(new & ~root, parent, tree.nodes), slot].set(node, mode="drop"),
        generations=tree.generations + (new & ~alike).astype(jnp.int32),
    )
    return tree, new & ~alike


class Completed(NamedTuple):
    """What the model made of L leaves."""

    text: Int32[Array, "L C"]
    length: Int32[Array, "L"]
    logp: Float32[Array, "L C"]
    token: Int32[Array, "L C K"]
    token_logp: Float32[Array, "L C K"]


def returned(tree: Tree, leaves: Leaf, made: Completed, reward: Float32[Array, "L"]) -> Tree:
    """The tree once the leaves [L, ..] have their answers, and their rewards have gone up the ways that led there."""
    at = jnp.where(leaves.asks, leaves.node, tree.nodes)
    put = lambda leaf, value: leaf.at[at].set(value, mode="drop")  # noqa: E731
    tree = tree._replace(
        text=put(tree.text, made.text), length=put(tree.length, made.length), logp=put(tree.logp, made.logp),
        token=put(tree.token, made.token), token_logp=put(tree.token_logp, made.token_logp),
        reward=put(tree.reward, reward), known=put(tree.known, jnp.ones(at.shape, bool)),
    )  # fmt: skip
    counts = leaves.node < tree.nodes
    own = jnp.where(counts, tree.reward[jnp.minimum(leaves.node, tree.nodes - 1)], -jnp.inf)
    first = jnp.argmax(own)
    better = own[first] > tree.best_reward
    return tree._replace(
        value=tree.value.at[leaves.path, leaves.slot].max(own[:, None], mode="drop"),
        best=jnp.where(better, leaves.node[first], tree.best),
        best_reward=jnp.maximum(tree.best_reward, own[first]),
    )
