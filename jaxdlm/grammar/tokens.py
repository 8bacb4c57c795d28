"""An automaton over bytes as one over token ids, whose equal columns are one class of tokens."""

from typing import NamedTuple

import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.grammar.automaton import Automaton, equivalent
from jaxdlm.grammar.spelling import Pieces, Spelling

FAR = 2**30  # tokens to the end of a text that has none
MOST_ENTRIES = 2**26  # of the table, a quarter of a gigabyte
MOST_WALKED = 2**27  # entries of all that beginnings of tokens do
CHUNK = 2**24


class TokenTable(NamedTuple):
    classes: np.ndarray  # int32[V]
    next: np.ndarray  # int32[S, C]
    start: int
    accepting: np.ndarray  # bool[S]
    distance: np.ndarray  # int32[S]
    forced: np.ndarray  # int32[S]


def token_table(automaton: Automaton, spelling: Spelling, what: str) -> TokenTable:
    """The table of all token sequences that spell a text of the language and end tokens behind it.

    A state is a state of bytes and the context of the next token; one more, which end tokens lead to from accepting
    states, accepts and loops on them. Raises InputError where no sequence of tokens spells a text, and for tables that
    are too large.
    """
    doings, columns = zip(*(_walk(automaton, pieces, what) for pieces in spelling.contexts))
    states, contexts = automaton.accepting.size, len(doings)
    key = np.zeros(spelling.live.size, np.int64)
    for doing, column in zip(doings, columns):
        key = key * len(doing) + column
    key = np.where(spelling.live & (key != 0), key * contexts + spelling.leads, -1)
    kinds, token, group = np.unique(key, return_index=True, return_inverse=True)
    alive = kinds >= 0
    _check_entries((contexts * states + 1) * (int(alive.sum()) + 2), what)
    table = np.zeros((contexts * states + 1, int(alive.sum()) + 2), np.int32)
    token = token[alive]
    for index, (doing, column) in enumerate(zip(doings, columns)):
        to = doing[column[token]].T.astype(np.int32)
        table[index * states : (index + 1) * states, 1:-1] = np.where(to > 0, to + states * spelling.leads[token], 0)
    end = table.shape[0] - 1
    accepting = np.append(np.tile(automaton.accepting, contexts), True)
    table[accepting, -1] = end
    classes = (group.reshape(-1) + (1 if alive.all() else 0)) * (key >= 0)
    classes[list(spelling.ends)] = table.shape[1] - 1
    return _trimmed(classes, table, accepting, np.append(_forced(automaton, spelling), -1), contexts > 1, what)


def _forced(automaton: Automaton, spelling: Spelling) -> np.ndarray:
    """int64[contexts * S]: where all texts go on with the same letters, the longest token of these; where they can but
    end, the first token that ends one; else -1."""
    letters = automaton.next[:, automaton.kind]
    alone = (np.count_nonzero(letters, axis=1) == 1) & ~automaton.accepting
    byte = np.argmax(letters != 0, axis=1)
    ended = automaton.accepting & ~letters.any(axis=1)
    token = np.where(ended, spelling.ends[0], -1)
    made = []
    for known, longest in zip(spelling.tokens, spelling.longest):
        own = token.copy()
        for state in np.flatnonzero(alone).tolist():
            here, text = state, bytearray()
            while alone[here] and len(text) < longest:
                text.append(int(byte[here]))
                here = letters[here, byte[here]]
            cuts = (bytes(text[:size]) for size in range(len(text), 0, -1))
            own[state] = next((known[cut][0] for cut in cuts if cut in known), -1)
        made.append(own)
    return np.concatenate(made)


def _check_entries(entries: int, what: str) -> None:
    if entries > MOST_ENTRIES:
        raise InputError(
            f"{what} is too large for this vocabulary: its table has {entries:,} entries, at most {MOST_ENTRIES:,} are "
            f"taken: lower its repetitions and lengths, or give fewer choices"
        )


def _walk(automaton: Automaton, pieces: Pieces, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(what beginnings of tokens do: a row of S states each, the row of each token).

    Two beginnings that lead from every state to the same one are the same row, so that a vocabulary costs as much as it
    differs: one step per pair of a row and a kind of byte, however many tokens share it. Row 0 leads nowhere, row 1
    stays.
    """
    states = automaton.accepting.size
    step = np.ascontiguousarray(automaton.next.T, np.int16)  # [K, S]: 2^14 states at most
    kinds = step.shape[0]
    rows = np.stack([np.zeros(states, np.int16), np.arange(states, dtype=np.int16)])
    known = {row.tobytes(): index for index, row in enumerate(rows)}
    lengths = pieces.lengths
    row_of = np.ones(lengths.size, np.int64)
    active = np.flatnonzero(lengths)
    depth = 0
    while active.size:
        byte = automaton.kind[pieces.data[pieces.start[active] + depth]]
        pairs, group = np.unique(row_of[active] * kinds + byte, return_inverse=True)
        more: list[np.ndarray] = []
        number = np.zeros(pairs.size, np.int64)
        for chunk in np.array_split(np.arange(pairs.size), pairs.size * states // CHUNK + 1):
            made = step[(pairs[chunk] % kinds)[:, None], rows[pairs[chunk] // kinds]]
            for index, row in zip(chunk.tolist(), made):
                name = row.tobytes()
                if name not in known:
                    known[name] = len(known)
                    more.append(row)
                number[index] = known[name]
            if len(known) * states > MOST_WALKED:
                _check_entries(len(known) * states, what)
        rows = np.concatenate([rows, np.stack(more)]) if more else rows
        row_of[active] = number[group.reshape(-1)]
        depth += 1
        active = active[(row_of[active] != 0) & (lengths[active] > depth)]
    return rows, row_of


def _trimmed(
    classes: np.ndarray, table: np.ndarray, accepting: np.ndarray, forced: np.ndarray, merges: bool, what: str
) -> TokenTable:
    """The table without states that no text goes through, equal columns as one class; state 1 is the start."""
    source, target = _edges(table)
    reached = _distance(target, source, np.arange(table.shape[0]) == 1) < FAR
    distance = _distance(source, target, accepting)
    if distance[1] == FAR:
        raise InputError(
            f"{what} has no text that tokens of this vocabulary spell: its letters, or spaces between its words, are "
            f"missing from it"
        )
    states = np.concatenate([[0], np.flatnonzero(reached & (distance < FAR))])
    number = np.zeros(table.shape[0], np.int32)
    number[states] = np.arange(states.size)
    table, accepting, distance = number[table[states]], accepting[states], distance[states].astype(np.int32)
    forced = forced[states].astype(np.int32)
    forced[table[np.arange(states.size), classes[forced]] == 0] = -1
    if merges:  # states that differ in their context alone, which often makes no difference
        group = equivalent(table, accepting)
        first = np.unique(group, return_index=True)[1]
        states = np.sort(first)  # the dead state and the start are the first of their groups, and stay 0 and 1
        table = np.searchsorted(states, first[group]).astype(np.int32)[table[states]]
        accepting, distance, forced = accepting[states], distance[states], forced[states]
    table, group = _classes(table)
    return TokenTable(group[classes], table, 1, accepting, distance, forced)


def _edges(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(from, to) of all pairs of states with a class between them, each once."""
    states = table.shape[0]
    pairs = [np.zeros(0, np.int64)]
    for rows in np.array_split(np.arange(states), table.size // CHUNK + 1):
        pair = np.unique(rows[:, None].astype(np.int64) * states + table[rows])
        pairs.append(pair[pair % states != 0])
    source, target = np.divmod(np.concatenate(pairs), states)
    return source, target


def _distance(source: np.ndarray, target: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The least number of edges to a state of the goal, FAR where none leads there."""
    distance = np.where(goal, 0, FAR)
    here, steps = goal, 0
    while here.any():
        steps += 1
        there = np.zeros_like(goal)
        there[source[here[target]]] = True
        here = there & (distance == FAR)
        distance[here] = steps
        left = distance[source] == FAR
        source, target = source[left], target[left]
    return distance


def _classes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the table with every column once, where each column went); column 0 is dead and stays the first."""
    columns = np.ascontiguousarray(table.T)
    known: dict[bytes, int] = {}
    group = np.array([known.setdefault(column.tobytes(), len(known)) for column in columns], np.int32)
    first = np.unique(group, return_index=True)[1]
    return np.ascontiguousarray(columns[first].T), group
