"""Options as a trie, and log P of each from the contexts that its inner nodes are."""

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdlm.decisions.read import Column, Plan, Raw, Read

END = -1  # stands for any of the ids that end a reply
Node = tuple[int, ...]


class Trie:
    """children: inner node -> what may follow it, ascending. leaves: the whole text of each option."""

    def __init__(self, texts: Iterable[Sequence[int]]) -> None:
        self.leaves = [tuple(text) for text in texts]
        children: dict[Node, set[int]] = {}
        for leaf in self.leaves:
            for size in range(len(leaf)):
                children.setdefault(leaf[:size], set()).add(leaf[size])
        self.children = {node: tuple(sorted(after)) for node, after in sorted(children.items())}

    def paths(self) -> list[list[Node]]:
        """Every inner node once: the nodes on a way from the root, less those that an earlier way had."""
        seen: set[Node] = set()
        ways = []
        for deepest in sorted(self.children, key=lambda node: (-len(node), node)):
            way = [deepest[:size] for size in range(len(deepest) + 1) if deepest[:size] not in seen]
            seen.update(way)
            ways += [way] if deepest in way else []
        return ways


def expand(canvas: Any, trie: Trie) -> Plan[Raw]:
    """All contexts at once."""
    groups = [[node] for node in trie.children] if canvas.masked else trie.paths()
    reads = [_read(canvas, trie, nodes) for nodes in groups]
    results = yield reads
    steps: dict[Node, dict[int, float]] = {}
    top = 0
    for nodes, columns in zip(groups, results):
        for node, column in zip(nodes, columns):
            steps[node] = _after(canvas, trie.children[node], column)
            top = column.top if not node else top
    logp = [sum(steps[leaf[:size]][leaf[size]] for size in range(len(leaf))) for leaf in trie.leaves]
    return Raw(np.array(logp), top in trie.children[()], len(reads), sum(len(read.tokens) for read in reads))


def best_first(canvas: Any, trie: Trie, tolerance: float, wave: int, most: int) -> Plan[Raw]:
    """The likeliest open nodes first, `wave` at a time, until δ ≤ tolerance · (D + δ): δ the probability of the open
    nodes, D that of the finished options; the others get 0. At most `most` contexts. The bound is δ / (D + δ)."""
    search = _Search(tolerance)
    reads = columns = 0
    top = False
    while reads < most and (nodes := search.next(min(wave, most - reads))):
        asked = [_read(canvas, trie, [node]) for _, node in nodes]
        results = yield asked
        for (logp, node), (column,) in zip(nodes, results):
            top = column.top in trie.children[()] if not node else top
            for token, more in _after(canvas, trie.children[node], column).items():
                search.add((*node, token), logp + more, (*node, token) in trie.children)
        reads, columns = reads + len(asked), columns + sum(len(read.tokens) for read in asked)
    if search.broken:
        return Raw(np.full(len(trie.leaves), np.nan), False, reads, columns, 1.0)
    return Raw(np.array([search.done.get(leaf, -np.inf) for leaf in trie.leaves]), top, reads, columns, search.bound)


class _Search:
    """Open nodes by their probability, and finished options. broken: a logit was not finite."""

    def __init__(self, tolerance: float) -> None:
        self.allowed = np.log(tolerance) if tolerance > 0 else -np.inf
        self.open: list[tuple[float, int, Node]] = [(0.0, 0, ())]
        self.done: dict[Node, float] = {}
        self.count, self.broken = 1, False

    def add(self, node: Node, logp: float, inner: bool) -> None:
        """A node that was reached."""
        self.broken |= bool(np.isnan(logp))
        if inner:
            heapq.heappush(self.open, (-logp, self.count, node))
            self.count += 1
        else:
            self.done[node] = logp

    def next(self, wave: int) -> list[tuple[float, Node]]:
        """The likeliest open nodes, up to so many; no more than it takes to leave less open than is allowed."""
        taken: list[tuple[float, Node]] = []
        enough = self.allowed + np.logaddexp(self.left, _total(self.done.values()))
        while self.open and len(taken) < wave and not self.broken and self.left > enough:
            minus, _, node = heapq.heappop(self.open)
            taken.append((-minus, node))
        return taken

    @property
    def left(self) -> float:
        """log of the probability of the open nodes."""
        return _total(-minus for minus, _, _ in self.open)

    @property
    def bound(self) -> float:
        left, whole = self.left, np.logaddexp(self.left, _total(self.done.values()))
        return float(np.exp(left - whole)) if left > -np.inf else 0.0


def _read(canvas: Any, trie: Trie, nodes: Sequence[Node]) -> Read:
    """One sequence that the contexts of all these nodes, each on the way to the last, are read from."""
    last = nodes[-1]
    tokens = canvas.written(canvas.spelled(last), upto=len(last))
    want = [(canvas.start + len(node), _ids(canvas, trie.children[node])) for node in nodes]
    return Read(tokens, tuple(want), head=canvas.slot.head)


def _ids(canvas: Any, children: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(i for token in children for i in canvas.ids(token)))


def _after(canvas: Any, children: Sequence[int], column: Column) -> dict[int, float]:
    """log-probability of each child."""
    table = dict(zip(_ids(canvas, children), column.logp))
    return {token: _total(table[i] for i in canvas.ids(token)) for token in children}


def _total(logp: Iterable[float]) -> float:
    values = np.array(list(logp), np.float64)
    with np.errstate(invalid="ignore"):  # of logits that are not finite, which is told by the question's status
        return float(np.logaddexp.reduce(values)) if values.size else -np.inf
