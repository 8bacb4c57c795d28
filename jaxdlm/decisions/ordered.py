"""The law `chain` in another order than left to right: a permutation of the columns, or the surest column first.

log P_k = Σ_i l_{x_i}[j_i, d_k[j_i]], x_i: the columns j_1 .. j_{i-1} written and all others open. The order sees nothing but
what is written, so that P sums to 1 over all texts. d_k: tokens of option k, its terminator, what stands behind it and
ends; columns that the order reaches after the option's last one are not read, since they sum to 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.read import Column, Plan, Raw, Read
from jaxdlm.errors import InputError

CONFIDENCE = "confidence"
Order = str | tuple[int, ...] | None
Written = tuple[tuple[int, int], ...]  # (column, token), first written first
Group = tuple[Written, list[int]]  # and the options that agree with it


def read_order(value: Any) -> Order:
    """None (left to right), "confidence", or columns from 0, each once. Raises InputError."""
    if value is None or (isinstance(value, str) and value == CONFIDENCE):
        return value
    if isinstance(value, str) or not isinstance(value, list | tuple | np.ndarray):
        argument.refuse(value, "order", '"confidence", or a permutation of columns such as [2, 1, 0]')
    columns = argument.items(list(value), "order", argument.whole(0))
    if sorted(columns) != list(range(len(columns))) or not columns:
        raise InputError(f"order={argument.shown(list(value))}: must have every column from 0 to its length once")
    return columns


def chain(canvas: Any, order: Order, most: int) -> Plan[Raw]:
    """All contexts in one batch; by confidence as many batches as the longest way has columns. most: contexts."""
    texts = _Texts(canvas)
    if order == CONFIDENCE:
        return (yield from _surest(texts, most))
    columns = [*order, *range(len(order), texts.width)] if order is not None else []
    if len(columns) > texts.width:
        raise InputError(f"{canvas.where}: order has {len(columns)} columns, {texts.width} are open: shorten it")
    return (yield from _fixed(texts, columns, most))


class _Texts:
    """What each option has in each column. need: how many columns tell it from all others, from the left."""

    def __init__(self, canvas: Any) -> None:
        self.canvas = canvas
        closed = [canvas.closed(choice) for choice in canvas.slot.choices]
        self.need = [len(text) for text in closed]
        self.width = canvas.width if canvas.slot.ends else max(self.need)
        self.rows = [canvas.filled(choice, self.width) for choice in canvas.slot.choices]
        canvas.trie()  # refuses options that nothing tells apart
        self.logp = np.zeros(len(self.rows))

    def over(self, option: int, written: Sequence[int]) -> bool:
        """Whether all of its columns are among the written ones."""
        return set(range(self.need[option])) <= set(written)

    def read(self, group: Group, columns: Sequence[int]) -> Read:
        """The canvas of a group; wanted: what its options have in these columns."""
        written, members = group
        tokens, hidden = [0] * self.width, set(range(self.width)) - {column for column, _ in written}
        for column, token in written:
            (tokens[column],) = self.canvas.spelled((token,))
        want = [(self.canvas.start + column, self.ids(members, column)) for column in columns]
        return Read(self.canvas.written(tokens, sorted(hidden)), tuple(want))

    def ids(self, members: Sequence[int], column: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(i for k in members for i in self.canvas.ids(self.rows[k][column])))

    def split(self, group: Group, column: int) -> list[Group]:
        """The groups that go on once the column is written, those of options that are over left out."""
        written, members = group
        made: dict[int, list[int]] = {}
        places = [place for place, _ in written] + [column]
        for option in members:
            if not self.over(option, places):
                made.setdefault(self.rows[option][column], []).append(option)
        return [((*written, (column, token)), some) for token, some in sorted(made.items())]

    def add(self, group: Group, column: int, read: Column) -> None:
        """log P of the options, one column further."""
        table = dict(zip(self.ids(group[1], column), read.logp))
        for option in group[1]:
            ids = self.canvas.ids(self.rows[option][column])
            self.logp[option] += np.logaddexp.reduce(np.array([table[i] for i in ids]))

    def told(self, top: bool, reads: Sequence[Read]) -> Raw:
        return Raw(self.logp, top, len(reads), sum(len(read.tokens) for read in reads))


def _fixed(texts: _Texts, columns: Sequence[int], most: int) -> Plan[Raw]:
    groups: list[Group] = [((), list(range(len(texts.rows))))]
    for group in groups:  # grows
        groups += texts.split(group, columns[len(group[0])])
        _few(texts, len(groups), most)
    reads = [texts.read(group, [columns[len(group[0])]]) for group in groups]
    read = yield reads
    for group, (column,) in zip(groups, read):
        texts.add(group, columns[len(group[0])], column)
    return texts.told(read[0][0].top in texts.ids(groups[0][1], columns[0]), reads)


def _surest(texts: _Texts, most: int) -> Plan[Raw]:
    """Next is always the open column whose likeliest token is likeliest; of equal ones the first."""
    _few(texts, len(texts.rows) * texts.width, most)
    groups: list[Group] = [((), list(range(len(texts.rows))))]
    done: list[Read] = []
    top = False
    while groups:
        left = [[j for j in range(texts.width) if j not in dict(group[0])] for group in groups]
        reads = [texts.read(group, columns) for group, columns in zip(groups, left)]
        read = yield reads
        after: list[Group] = []
        for group, columns, told in zip(groups, left, read):
            at = int(np.argmax([column.best for column in told]))  # of what is not finite: nan, which is told
            texts.add(group, columns[at], told[at])
            after += texts.split(group, columns[at])
            top = told[at].top in texts.ids(group[1], columns[at]) if not group[0] else top
        groups, done = after, done + reads
    return texts.told(top, done)


def _few(texts: _Texts, contexts: int, most: int) -> None:
    if contexts > most:
        raise InputError(
            f"{texts.canvas.where} may read {contexts} contexts in this order, more than max_contexts={most}: raise it"
        )
