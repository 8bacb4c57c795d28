"""The smallest deterministic automaton of a tree, over bytes."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.grammar import syntax
from jaxdlm.grammar.syntax import Node

MOST_NODES = 2**16  # before it is deterministic
COMPACT_FROM, COMPACT_TO = 2**8, 2**14  # parts of a tree that are made small before they are written out again
MOST_STATES = 2**14  # of the smallest automaton; four times as many before it is that
FEW = 8  # nodes whose closures are joined one by one
MOST_WORK = 2**22  # nodes in sets of nodes: `(a|b)*a(a|b){40}` has 2^40 of them


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """next: int32[S, K]; kind: the column of each of the 256 bytes; state 0 is dead, 1 the start; accepting: bool[S]."""

    next: np.ndarray
    kind: np.ndarray
    accepting: np.ndarray

    def accepts(self, data: bytes) -> bool:
        """Whether the bytes are a text of the language."""
        state = 1
        for byte in data:
            state = self.next[state, self.kind[byte]]
        return bool(self.accepting[state])


def automaton(tree: Node, what: str) -> Automaton:
    """The automaton of a tree; `what` names it in messages.

    Raises InputError where the language is empty, or the automaton too large: by its size as it is written, before it is
    built, or by its states.
    """
    if tree.size > MOST_NODES:
        raise InputError(
            f"{what} is too large: written out it has {count(tree.size)} parts, at most {MOST_NODES:,} are taken: lower "
            f"its repetitions, lengths and numbers of items"
        )
    try:
        nodes = _Nodes()
        final = nodes.new()
        nodes.add(tree, 0, final)
    except RecursionError:
        raise InputError(f"{what} is nested too deeply: write it flatter") from None
    smallest = minimised(*_determinised(nodes, final, what))
    if smallest is None:
        raise _empty(what)
    states = smallest.accepting.size
    if states > MOST_STATES:
        raise _too_many(what, f"{states:,}")
    return smallest


def compact(tree: Node, what: str) -> Node:
    """The same texts by the smallest automaton, where that pays: parts that are written out many times stay small."""
    if not COMPACT_FROM < tree.size <= COMPACT_TO:
        return tree
    made = automaton(tree, what)
    every = _edges(made)
    first = [(0, low, high, to) for at, low, high, to in every if at == 1]  # nothing leads back to a beginning
    ends = np.flatnonzero(made.accepting).tolist()
    return syntax.Words(made.accepting.size, (*first, *every), (*ends, *([0] if made.accepting[1] else [])))


def _edges(made: Automaton) -> list[syntax.Edge]:
    """The ways of an automaton, neighbouring bytes as one; none of them to or from state 0."""
    edges: list[syntax.Edge] = []
    for at, row in enumerate(made.next[:, made.kind]):
        begins = np.flatnonzero(np.diff(row, prepend=-1))
        for low, high in zip(begins.tolist(), [*(begins[1:] - 1).tolist(), 255]):
            if row[low]:
                edges.append((at, low, high, int(row[low])))
    return edges


def count(size: int) -> str:
    """A number of parts for messages, which may be of thousands of digits."""
    return f"{size:,}" if size < 10**12 else "more than 10^12"


def _empty(what: str) -> InputError:
    return InputError(f"{what} is empty: no text belongs to it, correct it")


def _too_many(what: str, states: str) -> InputError:
    return InputError(
        f"{what} is too large: it takes {states} states, at most {MOST_STATES:,} are taken: lower its repetitions and "
        f"lengths, or leave maximal lengths out (the length of the answer bounds them)"
    )


# ------------------------------------------------------------------------------------------------- not yet deterministic


class _Nodes:
    """Nodes with edges of byte ranges (by number) and edges that take nothing."""

    def __init__(self) -> None:
        self.ranges: dict[tuple[int, int], int] = {}
        self.edges: list[list[tuple[int, int]]] = [[]]  # range, node
        self.free: list[list[int]] = [[]]

    def new(self) -> int:
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def edge(self, node: int, low: int, high: int, to: int) -> None:
        self.edges[node].append((self.ranges.setdefault((low, high), len(self.ranges)), to))

    def add(self, tree: Node, enter: int, leave: int) -> None:
        """Ways from `enter` to `leave` that spell the tree's texts."""
        match tree:
            case syntax.Text(data=data):
                self._line([(byte, byte) for byte in data], enter, leave)
            case syntax.Chars(ranges=ranges):
                inside, edges = syntax.template(ranges)
                self._copy(edges, [enter, leave, *(self.new() for _ in range(inside))])
            case syntax.Words(edges=edges, ends=ends):
                place = [enter, *(self.new() for _ in range(tree.size - 1))]
                self._copy(edges, place)
                for end in ends:
                    self.free[place[end]].append(leave)
            case syntax.Cat(parts=parts):
                for part in parts:
                    then = self.new()
                    self.add(part, enter, then)
                    enter = then
                self.free[enter].append(leave)
            case syntax.Alt(options=options):
                for option in options:
                    self.add(option, enter, leave)
            case syntax.Repeat():
                self._repeat(tree, enter, leave)
            case syntax.Members():
                self._members(tree, enter, leave)

    def _line(self, ranges: Sequence[tuple[int, int]], enter: int, leave: int) -> None:
        for low, high in ranges:
            then = self.new()
            self.edge(enter, low, high, then)
            enter = then
        self.free[enter].append(leave)

    def _copy(self, edges: Iterable[syntax.Edge], place: Sequence[int]) -> None:
        for node, low, high, to in edges:
            self.edge(place[node], low, high, place[to])

    def _repeat(self, tree: syntax.Repeat, enter: int, leave: int) -> None:
        for index in range(tree.low if tree.high is None else tree.high):
            if index >= tree.low:
                self.free[enter].append(leave)
            then = self.new()
            self.add(tree.inner, enter, then)
            enter = then
        if tree.high is None:
            loop = self.new()
            self.free[enter].append(loop)
            self.add(tree.inner, loop, loop)
            enter = loop
        self.free[enter].append(leave)

    def _members(self, tree: syntax.Members, enter: int, leave: int) -> None:
        """`none` is where no part has come yet, `some` where one has; both lead into the one copy of the next part."""
        none, some = enter, self.new()
        for part, optional in zip(tree.parts, tree.optional):
            then, after = self._member(tree, part, none, some)
            if optional:
                for before, behind in ((none, then), (some, after)):
                    self.free[before].append(behind if tree.skip else leave)
            none, some = then, after
        if tree.rest is not None:
            _, after = self._member(tree, tree.rest, none, some)
            self.add(tree.between, after, self._last)
            self.free[after].append(leave)
        self.free[none].append(leave)
        self.free[some].append(leave)

    def _member(self, tree: syntax.Members, part: Node, none: int, some: int) -> tuple[int, int]:
        """(none, some) behind a part, which the separator leads to from `some`."""
        then, after, self._last = self.new(), self.new(), self.new()
        begin = self._last
        self.free[none].append(begin)
        self.add(tree.between, some, begin)
        self.add(part, begin, after)
        self._last = begin
        return then, after


# ------------------------------------------------------------------------------------------------------- deterministic


def _determinised(nodes: _Nodes, final: int, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(next, kind, accepting) of sets of nodes; row 0 is dead, row 1 the start."""
    kind, kinds_of = _kinds(nodes.ranges)
    closure = _Closures(nodes, final, what)
    first = frozenset(closure.of(0))
    if not first:
        raise _empty(what)
    number: dict[frozenset[int], int] = {frozenset(): 0, first: 1}
    rows: list[dict[int, int]] = [{}]
    waiting = [first]
    for here in waiting:
        targets: dict[int, set[int]] = {}
        for node in here:
            for index, to in nodes.edges[node]:
                targets.setdefault(index, set()).add(to)
        by_range = {index: closure.union(each) for index, each in targets.items()}
        row: dict[int, int] = {}
        for column, there in _by_kind(by_range, kinds_of).items():
            if there not in number:
                number[there] = len(number)
                waiting.append(there)
            row[column] = number[there]
        rows.append(row)
        closure.spend(sum(map(len, by_range.values())) + len(here))
        if len(number) > 4 * MOST_STATES:
            raise _too_many(what, f"more than {4 * MOST_STATES:,}")
    table = np.zeros((len(rows), int(kind.max()) + 1), np.int32)
    for state, row in enumerate(rows):
        table[state, list(row)] = list(row.values())
    return table, kind, np.array([final in members for members in number])


def _kinds(ranges: dict[tuple[int, int], int]) -> tuple[np.ndarray, list[list[int]]]:
    """(kind of each byte, kinds in each range): bytes that are in the same ranges are of one kind; 0: in none."""
    inside = np.zeros((256, len(ranges)), bool)
    for (low, high), index in ranges.items():
        inside[low : high + 1, index] = True
    number = {np.zeros(len(ranges), bool).tobytes(): 0}
    kind = np.array([number.setdefault(row.tobytes(), len(number)) for row in inside], np.int32)
    return kind, [np.unique(kind[inside[:, index]]).tolist() for index in range(len(ranges))]


def _by_kind(by_range: dict[int, set[int]], kinds_of: list[list[int]]) -> dict[int, frozenset[int]]:
    """The set of nodes behind each kind of byte: the union over the ranges that hold it, each union made once."""
    held: dict[int, int] = {}
    for bit, index in enumerate(by_range):
        for column in kinds_of[index]:
            held[column] = held.get(column, 0) | 1 << bit
    sets = list(by_range.values())
    union = {
        mask: frozenset().union(*(each for bit, each in enumerate(sets) if mask >> bit & 1))
        for mask in set(held.values())
    }
    return {column: union[mask] for column, mask in held.items()}


class _Closures:
    """Nodes that are reached without a byte, as far as they have an edge or end a text; counts the work."""

    def __init__(self, nodes: _Nodes, final: int, what: str) -> None:
        self._nodes, self._final, self._what = nodes, final, what
        self._known: dict[int, tuple[int, ...]] = {}
        self._left = MOST_WORK

    def of(self, node: int) -> tuple[int, ...]:
        reached = self._known.get(node)
        if reached is None:
            reached = self._known[node] = self._search({node})
            self.spend(len(reached))
        return reached

    def union(self, nodes: set[int]) -> set[int]:
        """Of many nodes in one search: closures of those one behind the other hold almost the same, in `(a?){1000}`."""
        if len(nodes) > FEW:
            return set(self._search(nodes))
        return set().union(*map(self.of, nodes))

    def _search(self, nodes: set[int]) -> tuple[int, ...]:
        seen, waiting = set(nodes), list(nodes)
        while waiting:
            for to in self._nodes.free[waiting.pop()]:
                if to not in seen:
                    seen.add(to)
                    waiting.append(to)
        return tuple(each for each in seen if self._nodes.edges[each] or each == self._final)

    def spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise _too_many(self._what, f"more than {MOST_STATES:,}")


# -------------------------------------------------------------------------------------------------------- the smallest


def minimised(table: np.ndarray, kind: np.ndarray, accepting: np.ndarray) -> Automaton | None:
    """The smallest automaton of the same language; None where it is empty. States in the order they are reached in."""
    label = equivalent(table, accepting)
    _, one = np.unique(label, return_index=True)  # a state of each group
    small = label[table[one]]
    order = _reached(small, int(label[0]), int(label[1]))
    if order is None:
        return None
    number = np.zeros(one.size, np.int32)
    number[order] = np.arange(order.size)
    next_, column = np.unique(number[small[order]], axis=1, return_inverse=True)
    return Automaton(
        np.ascontiguousarray(next_, np.int32), column.reshape(-1)[kind].astype(np.uint8), accepting[one][order]
    )


def _reached(table: np.ndarray, dead: int, start: int) -> np.ndarray | None:
    """The dead state, then all others in the order of a search from the start; None where the start is dead."""
    if start == dead:
        return None
    order = {dead: 0, start: 1}
    for state in (waiting := [start]):
        for to in table[state].tolist():
            if to not in order:
                order[to] = len(order)
                waiting.append(to)
    return np.array(list(order))


def equivalent(table: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """A number per state, equal where the same texts lead to acceptance.

    Moore's refinement, but a round looks only at states of which a successor has changed its group, and the largest
    part of a group that splits keeps its number: a chain of n states takes n short rounds instead of n long ones.
    """
    states, columns = table.shape
    label = (accepting != accepting[0]).astype(np.int64)
    groups = int(label.max()) + 1
    order = np.argsort(table, axis=None, kind="stable")
    before, begins = order // columns, np.searchsorted(table.reshape(-1)[order], np.arange(states + 1))
    size = np.bincount(label, minlength=states)
    changed = np.arange(states)
    while changed.size:
        moved = _split(label, size, changed, table)
        for part in moved:
            size[label[part[0]]] -= part.size
            size[groups] = part.size
            label[part] = groups
            groups += 1
        behind = [before[begins[state] : begins[state + 1]] for part in moved for state in part.tolist()]
        changed = np.unique(np.concatenate(behind)) if behind else changed[:0]
    return label


def _split(label: np.ndarray, size: np.ndarray, changed: np.ndarray, table: np.ndarray) -> list[np.ndarray]:
    """All parts but the largest that each group with a changed state falls into.

    States of a group whose successors did not change agree with each other, and with no changed one.
    """
    signature = np.ascontiguousarray(label[table[changed]])
    parts: dict[int, dict[bytes, list[int]]] = {}
    for state, group, row in zip(changed.tolist(), label[changed].tolist(), signature):
        parts.setdefault(group, {}).setdefault(row.tobytes(), []).append(state)
    moved = []
    for group, by_row in parts.items():
        pieces = sorted(by_row.values(), key=len)
        others = int(size[group]) - sum(map(len, pieces))
        if others and others < len(pieces[-1]):
            moved.append(np.setdiff1d(np.flatnonzero(label == group), np.concatenate(pieces)))
        moved += map(np.array, pieces if others >= len(pieces[-1]) else pieces[:-1])
    return moved
