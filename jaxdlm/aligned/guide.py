"""The guide of grammar-aligned sampling: tries as tables on the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.aligned.trie import NONE, AsapTrie
from jaxdlm.core.guide import Context, Guide
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree

NODES, CHILDREN = 1024, 16  # least sizes of tables: fewer programs


class Known(NamedTuple):
    """Tries, edges in the order of their parents; behind the last edge of each: nothing."""

    first: Int32[Array, "K N"]  # of a node's edges; they end where the next node's begin
    token: Int32[Array, "K N"]
    child: Int32[Array, "K N"]
    value: Float32[Array, "K N"]  # log c of the child
    empty: Bool[Array, "K"]


class Language(Protocol):
    """A guide of a language. dead: whether no text begins with what is written and fits."""

    def init(self, context: Context) -> PyTree: ...

    def transform(self, logits: Float32[Array, "V"], state: Any) -> Float32[Array, "V"]: ...

    def advance(self, state: Any, token: Int32[Array, ""]) -> PyTree: ...

    def dead(self, state: Any) -> Bool[Array, ""]: ...


class Where(NamedTuple):
    """Where a row is. node: -1 where its text was never read."""

    place: PyTree  # in the language
    trie: Int32[Array, ""]
    node: Int32[Array, ""]


@struct.dataclass
class AsapGuide(Guide):
    """p(t | x) · c(x t) as logits (arXiv 2405.21047), for softmax at the temperature.

    mode: "asap"; "gcd" leaves c out; "reject" allows every token behind texts that were never read. children: the most
    edges of a node, or more.
    """

    language: Language
    known: Known
    temperature: Any
    mode: str = struct.field(pytree_node=False)
    children: int = struct.field(pytree_node=False)

    def init(self, context: Context) -> Where:
        trie = context.own
        return Where(self.language.init(context), trie, jnp.where(self.known.empty[trie], NONE, 0).astype(jnp.int32))

    def transform(self, logits: Float32[Array, "V"], state: Where) -> Float32[Array, "V"]:
        bent = self.language.transform(logits, state.place)
        if self.mode == "gcd":
            return bent
        if self.mode == "reject":
            bent = jnp.where(state.node == NONE, logits, bent)
        token, _, value = self.edges(state)
        return bent.at[token].add(jnp.float32(self.temperature) * value, mode="drop")

    def advance(self, state: Where, token: Int32[Array, ""]) -> Where:
        tokens, child, _ = self.edges(state)
        node = jnp.max(jnp.where(tokens == token, child, NONE))
        return Where(self.language.advance(state.place, token), state.trie, node)

    def edges(self, state: Where) -> tuple[Int32[Array, "C"], Int32[Array, "C"], Float32[Array, "C"]]:
        """(tokens, children, log c) of the row's node; past its last edge the token is one that no vocabulary has."""
        known, most = self.known, self.known.first.shape[1] - 1
        node = jnp.maximum(state.node, 0)
        at = known.first[state.trie, node] + jnp.arange(self.children, dtype=jnp.int32)
        there = (state.node != NONE) & (at < known.first[state.trie, jnp.minimum(node + 1, most)])
        at = jnp.minimum(at, most)
        token = jnp.where(there, known.token[state.trie, at], jnp.iinfo(jnp.int32).max)
        return token, known.child[state.trie, at], known.value[state.trie, at]

    def unseen(self, logp: Float32[Array, "V"], state: Where, taken: Bool[Array, "V"]) -> Float32[Array, ""]:
        """log Σ p over the tokens that the grammar allows, less those of edges and those `taken`."""
        allowed = self.language.transform(logp, state.place)
        token, *_ = self.edges(state)
        return jax.nn.logsumexp(jnp.where(taken, -jnp.inf, allowed).at[token].set(-jnp.inf, mode="drop"))

    def left(self, state: Where) -> Bool[Array, ""]:
        """Whether no text of the language begins with the row's own and fits."""
        return self.language.dead(state.place)


def known_of(tries: Sequence[AsapTrie], least: int = NODES) -> Known:
    """Tables of tries, of one size: the least of 1024, 4096, ... that holds each of them."""
    side = _side(1 + max(map(len, tries)), least)

    def filled(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        first, *rest = columns
        more = side - len(first)
        return np.pad(first, (0, more), mode="edge"), *(np.pad(each, (0, side - len(each))) for each in rest)

    columns = zip(*(filled(trie.edges()) for trie in tries), strict=True)
    first, token, child, value = (jnp.asarray(np.stack(each)) for each in columns)
    return Known(first, token, child, value, jnp.asarray([len(trie) == 0 for trie in tries]))


def children_of(tries: Sequence[AsapTrie]) -> int:
    """Edges of a node that the tables are read by: 16, 64, 256, ..."""
    return _side(max(trie.widest for trie in tries), CHILDREN)


def _side(size: int, least: int) -> int:
    side = least
    while side < size:
        side *= 4
    return side
