"""Options as a trie, and log P of each from the contexts that its inner nodes are."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.decisions.read import Column, Plan, Raw, Read

WAVE = 8  # contexts that a search by likelihood opens at a time
FEW = 16  # contexts that are read at once where only the likeliest option is asked for
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


class Every(NamedTuple):
    """Of all contexts. after: node -> token -> its log-probability there. top: the likeliest token of all at the root."""

    after: dict[Node, dict[int, float]]
    top: int
    reads: list[Read]


def every(canvas: Any, trie: Trie) -> Plan[Every]:
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
    return Every(steps, top, reads)


def expand(canvas: Any, trie: Trie) -> Plan[Raw]:
    """log P of all options, all contexts at once."""
    after, top, reads = yield from every(canvas, trie)
    logp = [sum(after[leaf[:size]][leaf[size]] for size in range(len(leaf))) for leaf in trie.leaves]
    return Raw(np.array(logp), top in trie.children[()], len(reads), sum(len(read.tokens) for read in reads))


class Reached(NamedTuple):
    """Where a search for the likeliest option came to. best: its text; None: no option is possible. logp: of each beginning
    that was reached. broken: a logit was not finite."""

    best: Node | None
    logp: dict[Node, float]
    reads: int
    broken: bool


class Noise(NamedTuple):
    """Gumbel numbers of the options, none: 0. heat: the temperature that log P is divided by."""

    gumbel: Mapping[Node, float]
    heat: float


def likeliest(
    canvas: Any, trie: Trie, noises: Sequence[Noise] = (Noise({}, 1.0),), wave: int = WAVE
) -> Plan[list[Reached]]:
    """The likeliest option, of equal ones the first: all contexts at once where they are few, else the likeliest first until
    no open one is as likely as the best option.

    With Gumbel numbers G the option of the largest log P / T + G: one with P^(1/T) / Σ P^(1/T). A beginning bounds what it
    leads to by its own log P / T and the largest G behind it, which are known before anything is read. One option for each
    of `noises`; for several all contexts are read, once.
    """
    after: dict[Node, dict[int, float]] = {}
    reads, best = 0, []
    if len(trie.children) <= FEW or len(noises) > 1:
        after, _, asked = yield from every(canvas, trie)
        reads = len(asked)
    for noise in noises:
        best.append((yield from _search(canvas, trie, noise, wave, after, reads)))
    return best


def _search(
    canvas: Any, trie: Trie, noise: Noise, wave: int, after: dict[Node, dict[int, float]], reads: int
) -> Plan[Reached]:
    """The largest option. after: log P of the children of contexts that were read."""
    search = _Likeliest(noise)
    while nodes := search.next(wave):
        new = [node for _, node in nodes if node not in after]
        if new:
            results = yield [_read(canvas, trie, [node]) for node in new]
            after |= {node: _after(canvas, trie.children[node], column) for node, (column,) in zip(new, results)}
            reads += len(new)
        for logp, node in nodes:
            for token, own in after[node].items():
                search.add((*node, token), logp + own, (*node, token) in trie.children)
    ended = [leaf for leaf in trie.leaves if search.done.get(leaf, -np.inf) > -np.inf]
    best = max(ended, key=lambda leaf: search.done[leaf], default=None)
    return Reached(best, search.reached, reads, search.broken)


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
        self.reached: dict[Node, float] = {(): 0.0}

    def add(self, node: Node, logp: float, inner: bool) -> None:
        """A node that was reached."""
        self.broken |= bool(np.isnan(logp))
        self.reached[node] = logp
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


class _Likeliest(_Search):
    """Until the likeliest option is certain."""

    def __init__(self, noise: Noise) -> None:
        super().__init__(0.0)
        self.heat, self.bonus = noise.heat, _largest(noise.gumbel)

    def add(self, node: Node, logp: float, inner: bool) -> None:
        super().add(node, logp / self.heat + self.bonus.get(node, 0.0), inner)
        self.reached[node] = logp

    def next(self, wave: int) -> list[tuple[float, Node]]:
        """Open nodes that are as likely as the best option so far, the likeliest first."""
        taken: list[tuple[float, Node]] = []
        best = max(self.done.values(), default=-np.inf)
        while self.open and len(taken) < wave and not self.broken:
            likely = -self.open[0][0]
            if likely < best or likely == -np.inf:
                break
            node = heapq.heappop(self.open)[2]
            taken.append((self.reached[node], node))
        return taken


def _largest(gumbel: Mapping[Node, float]) -> dict[Node, float]:
    """The largest number behind each beginning."""
    best: dict[Node, float] = {}
    for leaf, own in gumbel.items():
        for size in range(len(leaf) + 1):
            best[leaf[:size]] = max(own, best.get(leaf[:size], -np.inf))
    return best


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
