"""Drafts from a table of three tokens in a row, of a corpus and of the row's own text, searched as a tree (ADED)."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.registry import drafter
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Grown
from jaxdlm.speculative.trigrams import Trigrams
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

MOST = 16  # successors of a key that a row holds of its own text
STEP, CEILING = 0.04, 3.0  # by which a weight rises when its three tokens are seen, and up to where
WINDOW = 16  # tokens at the end of the text that are counted again in each round
PASSING = WINDOW - 2  # times that three tokens are counted while they pass through the window one by one
C2 = 8.0

Tables = tuple["Own", ...]
Successors = Callable[[Array, Array], tuple[Array, Array]]  # key -> (tokens, weights), the heaviest first


class Own(NamedTuple):
    """A table of the row's own text. A key lives at the column where it first stands in the text, so none is ever lost.

    token, weight: its successors in no order; weight 0: none.
    """

    token: Int32[Array, "K L"]
    weight: Float32[Array, "K L"]


class Found(NamedTuple):
    """N nodes of a search; 0 is the root. Children stand behind their parents."""

    before: Int32[Array, "N"]  # the key of a node is (before, token)
    token: Int32[Array, "N"]
    prior: Float32[Array, "N"]  # weight of the token behind its parent's key; 0: no node
    parent: Int32[Array, "N"]
    value: Float32[Array, "N"]  # never more than the parent's


class Grove(NamedTuple):
    """The tree that a search grows: `Found`, and of each node its visits (`value`), score and children."""

    nodes: Found
    score: Float32[Array, "N"]
    first: Int32[Array, "N"]  # its first child; 0: not expanded
    used: Int32[Array, ""]


@drafter(lambda target, draft, sampling: Aded(None, paths=4, simulations=12))
@struct.dataclass
class Aded:
    """Up to 2 P - 1 nodes: the P best prefixes of a search over `depth - 1` levels, each with its likeliest successor.

    Key (a, b) -> c has the weight min(3, P(c | a, b) of the table + 0.04 · (times that a, b, c was seen in this row + backoff
    · times that b, c was)). search: "mcts", by
    visits of `simulations` runs of a Monte Carlo tree search with the score s/n + (c1 + ln((N + c2 + 1) / c2)) · p ·
    sqrt(N) / (1 + n); "best": by the product of shares along the path. recount: what stands in the last 16 tokens is
    counted again in each round, else each three tokens once, 14 times as much. prompt: the prompt is counted, too.
    """

    model: ClassVar[None] = None

    table: Trigrams | None
    exploration: Any = 32.0
    backoff: Any = 0.1
    paths: int = struct.field(pytree_node=False, default=24)
    deep: int = struct.field(pytree_node=False, default=4)
    simulations: int = struct.field(pytree_node=False, default=150)
    search: str = struct.field(pytree_node=False, default="mcts")
    recount: bool = struct.field(pytree_node=False, default=True)
    prompt: bool = struct.field(pytree_node=False, default=True)
    orders: tuple[int, ...] = struct.field(pytree_node=False, default=(2, 1))

    @property
    def tree(self) -> Grown:
        return Grown(2 * self.paths - 1, self.deep)

    @property
    def forwards(self) -> int:
        return 0

    def init(self, rows: Rows, prompt: int) -> Tables:
        """The rows' own tables, one per order of keys, with the prompts counted where that is wanted."""
        batch, columns = rows.tokens.shape
        empty = Own(jnp.zeros((batch, MOST, columns), jnp.int32), jnp.zeros((batch, MOST, columns), jnp.float32))
        tables = (empty,) * len(self.orders)
        if not self.prompt:
            return tables
        # the window counts the last of these again when it comes to them
        last = rows.length - (WINDOW if self.recount else 0)
        return self.counted(tables, rows.tokens, jnp.zeros_like(rows.length), last, prompt, STEP * PASSING)

    def counted(
        self, state: Tables, tokens: Int32[Array, "B L"], begin: Array, end: Array, columns: int, step: float
    ) -> Tables:
        """The tables with the tokens from `begin` to before `end`, at most so many, counted behind the keys before them."""
        return tuple(
            jax.vmap(functools.partial(count, order=order, columns=columns, step=step))(
                own, tokens, jnp.maximum(begin - order, 0), end
            )
            for own, order in zip(state, self.orders, strict=True)
        )

    def propose(self, state: Tables, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, Tables]:
        if self.recount:
            state = self.counted(state, rows.tokens, rows.length - PASSING, rows.length, PASSING, STEP)
        token, valid, parent = jax.vmap(self.draft)(state, rows.tokens, rows.length, key)
        return Proposal(token, valid, None, self.tree, parent=parent), state

    def observe(self, state: Tables, rows: Rows, proposal: Proposal, verdict: Verdict) -> Tables:
        """The state; without `recount`, with what was committed counted once."""
        if self.recount:
            return state
        path = jnp.take_along_axis(proposal.token, verdict.path, axis=1)
        place = jnp.arange(self.deep + 1, dtype=jnp.int32)[None, :]
        new = jnp.where(place == verdict.count[:, None], verdict.bonus[:, None], jnp.pad(path, [(0, 0), (0, 1)]))
        column = jnp.where(place <= verdict.count[:, None], rows.length[:, None] + place, rows.tokens.shape[1])
        tokens = rows.tokens.at[jnp.arange(column.shape[0])[:, None], column].set(new, mode="drop")
        end = jnp.minimum(rows.length + verdict.count + 1, rows.stop)
        return self.counted(state, tokens, rows.length, end, self.deep + 1, STEP * PASSING)

    def draft(
        self, own: Tables, tokens: Int32[Array, "L"], length: Int32[Array, ""], key: Key[Array, ""]
    ) -> tuple[Int32[Array, "N"], Bool[Array, "N"], Int32[Array, "N"]]:
        """(tokens, which are nodes, parents) behind the last two tokens of one row."""
        after = functools.partial(self.successors, own, tokens, length)
        root = tokens[jnp.maximum(length - 2, 0)], tokens[length - 1]
        nodes = self.by_visits(after, root, key) if self.search == "mcts" else self.by_share(after, root)
        return self.tree_of(nodes, after, length >= 2)

    def successors(
        self, own: Tables, tokens: Int32[Array, "L"], length: Int32[Array, ""], a: Array, b: Array
    ) -> tuple[Int32[Array, "K"], Float32[Array, "K"]]:
        """The MOST heaviest tokens behind a key in all tables, the heaviest first, and their weights; 0: none."""
        parts = [] if self.table is None else [self.table.after(a, b)]
        for table, order in zip(own, self.orders, strict=True):
            column, known = place_of(tokens, length, (a, b)[2 - order :])
            scale = jnp.float32(1) if order == 2 else jnp.asarray(self.backoff, jnp.float32)
            parts.append((table.token[:, column], jnp.where(known, table.weight[:, column] * scale, 0)))
        token, weight = functools.reduce(merge, parts)
        weight, place = jax.lax.top_k(jnp.minimum(weight, CEILING), MOST)
        return token[place], weight

    # ------------------------------------------------------------------------------------------------- two searches

    def by_visits(self, after: Successors, root: tuple[Array, Array], key: Key[Array, ""]) -> Found:
        """The nodes of a Monte Carlo tree search, by visits."""
        begin = self.root(root, 1 + self.simulations * MOST)
        grove = Grove(begin, jnp.zeros_like(begin.prior), jnp.zeros_like(begin.parent), jnp.int32(1))

        def run(index: Array, grove: Grove) -> Grove:
            grove, path, end = self.descend(grove, after)
            reward = 1 + jnp.sum(jnp.where(path > 0, grove.nodes.prior[jnp.maximum(path, 0)], 0))
            keys = grove.nodes.before[end], grove.nodes.token[end]
            length = jnp.sum(path >= 0)
            for level in range(2, self.deep):
                here = jax.random.fold_in(jax.random.fold_in(key, index), level)
                token, weight = after(*keys)
                place = drawn(weight, here)
                goes = (level >= length) & (weight[0] > 0)
                reward = reward + jnp.where(goes, weight[place], 0)
                keys = jnp.where(goes, keys[1], keys[0]), jnp.where(goes, token[place], keys[1])
            place = jnp.where(path >= 0, path, grove.score.shape[0])
            value = grove.nodes.value.at[place].add(1.0, mode="drop")
            score = grove.score.at[place].add(reward, mode="drop")
            return grove._replace(nodes=grove.nodes._replace(value=value), score=score)

        grove = jax.lax.fori_loop(0, self.simulations, run, grove)
        exists = jnp.arange(grove.score.shape[0]) < grove.used
        return grove.nodes._replace(prior=jnp.where(exists, grove.nodes.prior, 0))

    def descend(self, grove: Grove, after: Successors) -> tuple[Grove, Int32[Array, "D"], Int32[Array, ""]]:
        """(the grove with the leaf that was reached expanded, nodes of the path or -1, the last of them)."""
        node, path = jnp.int32(0), [jnp.int32(0)]
        inner = jnp.bool_(True)
        for _ in range(1, self.deep):
            children = grove.first[node] + jnp.arange(MOST, dtype=jnp.int32)
            inner = inner & (grove.first[node] > 0)
            best = children[jnp.argmax(self.urge(grove, node, children))]
            node = jnp.where(inner, best, node)
            path.append(jnp.where(inner, node, -1))
        walk = jnp.stack(path)
        depth = jnp.sum(walk >= 0, dtype=jnp.int32)  # nodes on it
        token, weight = after(grove.nodes.before[node], grove.nodes.token[node])
        opens = (depth < self.deep) & (weight[0] > 0)
        grove = self.expand(grove, node, token, weight, opens)
        child = jnp.where(opens, grove.used - MOST, node)
        return grove, walk.at[jnp.where(opens, depth, self.deep)].set(child, mode="drop"), child

    def urge(self, grove: Grove, node: Array, children: Int32[Array, "K"]) -> Float32[Array, "K"]:
        """The PUCT score of children; unvisited ones first, -inf where there is none."""
        n, p, total = grove.nodes.value[children], grove.nodes.prior[children], grove.nodes.value[node]
        wide = (self.exploration + jnp.log((total + C2 + 1) / C2)) * p * jnp.sqrt(total) / (1 + n)
        score = jnp.where(n == 0, jnp.inf, grove.score[children] / jnp.maximum(n, 1) + wide)
        return jnp.where(p > 0, score, -jnp.inf)

    def expand(self, grove: Grove, node: Array, token: Array, weight: Array, opens: Array) -> Grove:
        """The grove with all successors of a leaf as its children; as it was where it does not open."""
        at = jnp.where(opens, grove.used + jnp.arange(MOST, dtype=jnp.int32), grove.score.shape[0])
        put = lambda old, new: old.at[at].set(new, mode="drop")  # noqa: E731
        nodes = grove.nodes._replace(
            before=put(grove.nodes.before, grove.nodes.token[node]),
            token=put(grove.nodes.token, token),
            prior=put(grove.nodes.prior, weight),
            parent=put(grove.nodes.parent, node),
        )
        first = grove.first.at[jnp.where(opens, node, grove.score.shape[0])].set(grove.used, mode="drop")
        return Grove(nodes, grove.score, first, grove.used + jnp.where(opens, MOST, 0))

    def by_share(self, after: Successors, root: tuple[Array, Array]) -> Found:
        """The P best nodes of each level, by the product of the shares w / Σ w along their paths."""
        level, wide = self.root(root, 1), self.paths - 1
        levels, offset = [level], jnp.int32(0)
        for _ in range(1, self.deep):
            token, weight = jax.vmap(after)(level.before, level.token)
            share = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-30)
            value = jnp.where(level.prior[:, None] > 0, level.value[:, None] * share, 0)
            size = min(wide, value.size)
            best, place = jax.lax.top_k(value.reshape(-1), size)
            up = place // MOST
            prior = jnp.where(best > 0, weight.reshape(-1)[place], 0)
            level = Found(level.token[up], token.reshape(-1)[place], prior, offset + up, best)
            offset = offset + jnp.int32(levels[-1].token.shape[0])
            levels.append(level)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *levels)

    def root(self, key: tuple[Array, Array], size: int) -> Found:
        """Room for so many nodes, with the root in it."""
        zero, none = jnp.zeros(size, jnp.int32), jnp.zeros(size, jnp.float32)
        value = none if self.search == "mcts" else none.at[0].set(1)
        return Found(zero.at[0].set(key[0]), zero.at[0].set(key[1]), none.at[0].set(1), zero, value)

    # ------------------------------------------------------------------------------------------ from nodes to a tree

    def tree_of(
        self, nodes: Found, after: Successors, starts: Bool[Array, ""]
    ) -> tuple[Int32[Array, "N"], Bool[Array, "N"], Int32[Array, "N"]]:
        """(tokens, which are nodes, parents): the P most valued nodes, the root among them, and behind each its heaviest
        successor. A parent is worth no less than its children and stands before them, so it is among the P as well."""
        size = self.paths
        missing = max(size - nodes.value.shape[0], 0)
        nodes = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, missing)), nodes)
        value, place = jax.lax.top_k(jnp.where(nodes.prior > 0, nodes.value, -1), size)
        exists = (value >= 0) & starts
        parent = jnp.argmax(place[None, :] == nodes.parent[place][:, None], axis=1).astype(jnp.int32)
        token = nodes.token[place]
        more, weight = jax.vmap(after)(nodes.before[place], token)
        more, goes = more[:, 0], exists & (weight[:, 0] > 0)
        rank = jnp.arange(size, dtype=jnp.int32)
        there = (parent[None, :] == rank[:, None]) & (token[None, :] == more[:, None]) & (exists & (rank > 0))[None, :]
        goes = goes & ~jnp.any(there, axis=1)
        tokens = jnp.concatenate([token[1:], more])
        return tokens, jnp.concatenate([exists[1:], goes]), jnp.concatenate([parent[1:], rank]) - 1


def merge(
    one: tuple[Int32[Array, "A"], Float32[Array, "A"]], other: tuple[Int32[Array, "B"], Float32[Array, "B"]]
) -> tuple[Int32[Array, "A_B"], Float32[Array, "A_B"]]:
    """Tokens and weights of both; the weights of a token that both have are added."""
    (token, weight), (theirs, more) = one, other
    same = (token[:, None] == theirs[None, :]) & (weight[:, None] > 0) & (more[None, :] > 0)
    weight = weight + jnp.sum(jnp.where(same, more[None, :], 0), axis=1)
    more = jnp.where(jnp.any(same, axis=0), 0, more)
    return jnp.concatenate([token, theirs]), jnp.concatenate([weight, more])


def place_of(
    tokens: Int32[Array, "L"], length: Int32[Array, ""], key: tuple[Array, ...]
) -> tuple[Int32[Array, ""], Bool[Array, ""]]:
    """(the first column at which the text reads the key, whether there is one)."""
    here = jnp.arange(tokens.shape[0], dtype=jnp.int32) + len(key) - 1 < length
    for ahead, token in enumerate(key):
        here = here & (jnp.roll(tokens, -ahead) == token)
    return jnp.argmax(here).astype(jnp.int32), jnp.any(here)


def count(
    own: Own, tokens: Int32[Array, "L"], begin: Int32[Array, ""], end: Int32[Array, ""], *, order: int, columns: int,
    step: float,
) -> Own:  # fmt: skip
    """The table with the key at each of `columns` columns from `begin` on, and what follows it, counted where they lie before
    `end`."""

    def one(index: Array, own: Own) -> Own:
        column = begin + index
        *key_tokens, c = (tokens.at[column + ahead].get(mode="clip") for ahead in range(order + 1))
        key, _ = place_of(tokens, end, tuple(key_tokens))
        token, weight = own.token[:, key], own.weight[:, key]
        same = (token == c) & (weight > 0)
        old = jnp.sum(jnp.where(same, weight, 0))
        slot = jnp.where(jnp.any(same), jnp.argmax(same), jnp.argmin(weight))  # a full list loses its lightest
        slot = jnp.where(column + order < end, slot, MOST)
        return Own(
            own.token.at[slot, key].set(c, mode="drop"),
            own.weight.at[slot, key].set(jnp.minimum(old + step, CEILING), mode="drop"),
        )

    return jax.lax.fori_loop(0, columns, one, own)


def drawn(weight: Float32[Array, "K"], key: Key[Array, ""]) -> Int32[Array, ""]:
    """A place with a chance in proportion to its weight."""
    total = jnp.cumsum(weight)
    u = jax.random.uniform(key, (), jnp.float32) * total[-1]
    return jnp.minimum(jnp.sum(total <= u), weight.shape[0] - 1).astype(jnp.int32)
