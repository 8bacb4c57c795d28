"""Options as a trie, and log P of each from the contexts that its inner nodes are."""

import heapq
import itertools
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
        found = []
        for deepest in sorted(self.children, key=lambda node: (-len(node), node)):
            way = [deepest[:size] for size in range(len(deepest) + 1) if deepest[:size] not in seen]
            seen.update(way)
            found += [way] if deepest in way else []
        return found


def expand(canvas: Any, trie: Trie) -> Plan[Raw]:
    """All contexts at once."""
    groups = [[node] for node in trie.children] if canvas.masked else trie.paths()
    reads = [_read(canvas, trie, nodes) for nodes in groups]
    found = yield reads
    steps: dict[Node, dict[int, float]] = {}
    top = 0
    for nodes, columns in zip(groups, found):
        for node, column in zip(nodes, columns):
            steps[node] = _after(canvas, trie.children[node], column)
            top = column.top if not node else top
    logp = [sum(steps[leaf[:size]][leaf[size]] for size in range(len(leaf))) for leaf in trie.leaves]
    return Raw(np.array(logp), top in trie.children[()], len(reads), sum(len(read.tokens) for read in reads))


def best_first(canvas: Any, trie: Trie, tolerance: float, wave: int, most: int) -> Plan[Raw]:
    """The likeliest open nodes first, `wave` at a time, until δ ≤ tolerance · (D + δ): δ the probability of the open
    nodes, D that of the finished options; the others get 0. At most `most` contexts. The bound is δ / (D + δ)."""
    count = itertools.count()
    heap: list[tuple[float, int, Node]] = [(0.0, next(count), ())]
    done: dict[Node, float] = {}
    reads = columns = top = 0
    allowed = np.log(tolerance) if tolerance > 0 else -np.inf
    while heap and reads < most:
        left, have = _total(-value for value, _, _ in heap), _total(done.values())
        if left <= allowed + np.logaddexp(left, have):
            break
        nodes = [heapq.heappop(heap) for _ in range(min(wave, len(heap), most - reads))]
        asked = [_read(canvas, trie, [node]) for _, _, node in nodes]
        found = yield asked
        for (minus, _, node), (column,) in zip(nodes, found):
            top = column.top if not node else top
            for token, logp in _after(canvas, trie.children[node], column).items():
                child = (*node, token)
                if np.isnan(logp):  # nothing is known of what lies below
                    return Raw(np.full(len(trie.leaves), np.nan), False, reads + len(asked), columns, 1.0)
                if child in trie.children:
                    heapq.heappush(heap, (minus - logp, next(count), child))
                else:
                    done[child] = logp - minus
        reads, columns = reads + len(asked), columns + sum(len(read.tokens) for read in asked)
    left, have = _total(-value for value, _, _ in heap), _total(done.values())
    bound = float(np.exp(left - np.logaddexp(left, have))) if left > -np.inf else 0.0
    whole = np.array([done.get(leaf, -np.inf) for leaf in trie.leaves])
    return Raw(whole, top in trie.children[()], reads, columns, bound)


def _read(canvas: Any, trie: Trie, nodes: Sequence[Node]) -> Read:
    """One sequence that the contexts of all these nodes, each on the way to the last, are read from."""
    last = nodes[-1]
    tokens = canvas.written(canvas.spelled(last), upto=len(last))
    want = [(canvas.start + len(node), _ids(canvas, trie.children[node])) for node in nodes]
    return Read(tokens, tuple(want))


def _ids(canvas: Any, children: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(i for token in children for i in canvas.ids(token)))


def _after(canvas: Any, children: Sequence[int], column: Column) -> dict[int, float]:
    """log-probability of each child."""
    table = dict(zip(_ids(canvas, children), column.logp))
    return {token: _total(table[i] for i in canvas.ids(token)) for token in children}


def _total(logp: Iterable[float]) -> float:
    values = np.array(list(logp), np.float64)
    return float(np.logaddexp.reduce(values)) if values.size else -np.inf
