"""Languages of texts as trees, whose size is known before anything is built of them.

A tree is made by the functions `chars`, `text`, `words`, `cat`, `alt`, `repeat` and `members`; parts of it may be shared.
`size` counts the nodes that the tree takes in an automaton, copies and all.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)  # halves of pairs in UTF-16: no text holds one
Range = tuple[int, int]
Edge = tuple[int, int, int, int]  # node, least byte, greatest byte, node


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Chars(Node):
    """One character of a set: sorted, disjoint ranges of code points."""

    ranges: tuple[Range, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Node):
    """These bytes."""

    data: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Words(Node):
    """One of these words, by the smallest automaton: edges, and the nodes at which a word ends; 0 is the beginning, to
    which no edge leads."""

    edges: tuple[Edge, ...]
    ends: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Cat(Node):
    """One behind the other."""

    parts: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Alt(Node):
    """One of them; of none there is no text."""

    options: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Repeat(Node):
    """`inner` from `low` to `high` times; None: any number of times."""

    inner: Node
    low: int
    high: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Members(Node):
    """Parts in their order, a separator between any two that are there.

    optional: per part. skip: an optional part may be left out alone; else all behind it are left out, too. rest: may
    follow any number of times behind all parts.
    """

    parts: tuple[Node, ...]
    optional: tuple[bool, ...]
    between: Node
    rest: Node | None
    skip: bool


# -------------------------------------------------------------------------------------------------- sets of characters


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same set as sorted ranges that do not touch."""
    result: list[Range] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return tuple(result)


def without(ranges: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """The characters of one set that are not in the other."""
    result: list[Range] = []
    others = merged(others)
    for low, high in merged(ranges):
        for start, end in others:
            if end < low or high < start:
                continue
            if low < start:
                result.append((low, start - 1))
            low = end + 1
        if low <= high:
            result.append((low, high))
    return tuple(result)


EVERY = without([(0, LAST)], [SURROGATES])


def those(letters: str) -> tuple[Range, ...]:
    """The set of these characters."""
    return merged((ord(letter), ord(letter)) for letter in letters)


# ------------------------------------------------------------------------------------------------------------- the trees


def chars(ranges: Iterable[Range]) -> Chars:
    """One character of the set."""
    letters = without(ranges, [SURROGATES])
    return Chars(template(letters)[0], letters)


def text(letters: str) -> Text:
    """This text."""
    data = letters.encode()
    return Text(len(data), data)


def cat(*parts: Node) -> Node:
    """The parts one behind the other."""
    return parts[0] if len(parts) == 1 else Cat(sum(part.size for part in parts) + len(parts), parts)


def alt(*options: Node) -> Node:
    """One of the options."""
    return options[0] if len(options) == 1 else Alt(sum(option.size for option in options), options)


def repeat(inner: Node, low: int, high: int | None) -> Repeat:
    """`inner` from `low` to `high` times, None: without end."""
    copies = low + 1 if high is None else high
    return Repeat(copies * (inner.size + 1), inner, low, high)


def optional(inner: Node) -> Repeat:
    """`inner`, or nothing."""
    return repeat(inner, 0, 1)


def members(
    parts: Sequence[Node], least: int | Sequence[bool], between: Node, rest: Node | None = None
) -> Members:  # fmt: skip
    """Parts with a separator between them; `least` of them, cut at the end, or per part whether it must be there."""
    skip = not isinstance(least, int)
    free = [index >= least for index in range(len(parts))] if isinstance(least, int) else [not must for must in least]
    every = [*parts, *([] if rest is None else [rest])]
    size = sum(part.size + between.size + 3 for part in every) + between.size + 1
    return Members(size, tuple(parts), tuple(free), between, rest, skip)


def words(texts: Iterable[str]) -> Words:
    """One of the texts, none of them empty: a tree of their bytes in which equal ends are one.

    Nodes are numbered as they are made, so that all that follow a node have greater numbers.
    """
    children: list[dict[int, int]] = [{}]
    final: set[int] = set()
    for each in texts:
        at = 0
        for byte in each.encode():
            if byte not in children[at]:
                children[at][byte] = len(children)
                children.append({})
            at = children[at][byte]
        final.add(at)
    known: dict[tuple, int] = {}
    same = list(range(len(children)))
    for node in range(len(children) - 1, -1, -1):
        follow = tuple(sorted((byte, same[child]) for byte, child in children[node].items()))
        same[node] = known.setdefault((node in final, follow), node)
    states = sorted(set(same))  # 0 is one of them: nothing equals the beginning, from which all words are longer
    number = {node: index for index, node in enumerate(states)}
    edges = tuple(
        (number[node], byte, byte, number[same[child]]) for node in states for byte, child in children[node].items()
    )
    return Words(len(states), edges, tuple(number[node] for node in states if node in final))


# ----------------------------------------------------------------------------------------------------------------- UTF-8


def sequences(low: int, high: int) -> Iterable[tuple[Range, ...]]:
    """The UTF-8 of the characters from `low` to `high`, as sequences of ranges of bytes.

    A range is cut until all of its characters have as many bytes, and every byte behind the first that differs takes all
    of its values.
    """
    for last in (0x7F, 0x7FF, 0xFFFF):
        if low <= last < high:
            return [*sequences(low, last), *sequences(last + 1, high)]
    for bits in (6, 12, 18):
        tail = (1 << bits) - 1
        if high > 0x7F and low & ~tail != high & ~tail:
            if low & tail:
                return [*sequences(low, low | tail), *sequences((low | tail) + 1, high)]
            if high & tail != tail:
                return [*sequences(low, (high & ~tail) - 1), *sequences(high & ~tail, high)]
    return [tuple(zip(chr(low).encode(), chr(high).encode()))]


@functools.lru_cache(maxsize=256)
def template(ranges: tuple[Range, ...]) -> tuple[int, tuple[Edge, ...]]:
    """(nodes inside, edges) of an automaton for one character of a set; it leads from node 0 to node 1.

    First bytes of different sequences are the same range or have no byte in common, so that it is deterministic; equal
    ends are one.
    """
    edges: list[Edge] = []
    known: dict[tuple, int] = {((),): 1}

    def follow(node: int, rests: Sequence[tuple[Range, ...]]) -> int:
        first: dict[Range, list[tuple[Range, ...]]] = {}
        for rest in rests:
            first.setdefault(rest[0], []).append(rest[1:])
        for (low, high), behind in first.items():
            edges.append((node, low, high, leads(tuple(behind))))
        return node

    def leads(rests: tuple[tuple[Range, ...], ...]) -> int:
        if rests not in known:
            known[rests] = len(known) + 1
            follow(known[rests], rests)
        return known[rests]

    follow(0, [each for low, high in ranges for each in sequences(low, high)])
    return len(known) - 1, tuple(edges)
