"""Tables of tokens against `re` and searches over every sequence of tokens."""

import itertools
import random
import re

import numpy as np
import pytest

from jaxdlm.errors import InputError
from jaxdlm.grammar import patterns
from jaxdlm.grammar.automaton import automaton
from jaxdlm.grammar.spelling import Pieces, Spelling
from jaxdlm.grammar.tokens import FAR, token_table
from tests.grammar.test_patterns import drawn

TOKENS = (b"a", b"b", b"ab", b"0", b"1", b"01")
END = 6
PATTERNS = (
    "(ab)+",
    "a*",
    "(a(0|1)b)*",
    r"(0|1[01]*)(b[01]+)?",
    "[ab]{2}|01",
    "",
    "a|b|",
    "(a|b)*0",
    "a01b|a0",
    "(01|ab){2}",
)


def spelling(tokens, ends, contexts=1):
    size = max(len(tokens), max(ends) + 1)
    tokens = [tokens[index] if index < len(tokens) and index not in ends else b"" for index in range(size)]
    live = np.array([token != b"" for token in tokens])
    return Spelling((Pieces.of(tokens),) * contexts, live, np.zeros(size, np.int64), ends)


SEVEN = spelling(TOKENS, (END,))


def run(table, ids):
    state = table.start
    for token in ids:
        state = table.next[state, table.classes[token]]
    return state


def in_language(found, ids):
    """Text, then ends."""
    body = list(itertools.takewhile(lambda token: token != END, ids))
    ended = all(token == END for token in ids[len(body) :])
    return ended and found.fullmatch("".join(TOKENS[token].decode() for token in body)) is not None


def check(pattern, longest):
    table = token_table(automaton(patterns.parse(pattern), pattern), SEVEN, pattern)
    found = re.compile(pattern, re.ASCII)
    accepted = 0
    for size in range(longest + 1):
        for ids in itertools.product(range(7), repeat=size):
            expected = in_language(found, ids)
            assert table.accepting[run(table, ids)] == expected, (pattern, ids)
            accepted += expected
    return table, accepted


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_sequence_of_seven_tokens(pattern):
    table, accepted = check(pattern, 5)
    assert accepted > 0
    check_form(table)
    check_distance(table)


def test_random_expressions():
    draw = random.Random(11)
    accepted = 0
    for _ in range(60):
        table, found = check(drawn(draw, 3), 3)
        check_distance(table)
        accepted += found
    assert accepted > 600


def check_form(table):
    """Dead state and class, types, no state or class in vain."""
    assert table.classes.dtype == table.next.dtype == table.distance.dtype == np.int32 and table.accepting.dtype == bool
    assert not table.next[0].any() and not table.next[:, 0].any() and not table.accepting[0] and table.start == 1
    assert len({column.tobytes() for column in table.next.T}) == table.next.shape[1]
    assert set(table.classes.tolist()) | {0} == set(range(table.next.shape[1]))
    reached = {1}
    for state in (waiting := [1]):
        for to in set(table.next[state].tolist()) - reached - {0}:
            reached.add(to)
            waiting.append(to)
    assert reached == set(range(1, table.accepting.size))
    assert (table.distance[1:] < FAR).all() and table.distance[0] == FAR


def check_distance(table):
    """By trying all sequences from each state, up to what is claimed."""
    for state in range(1, table.accepting.size):
        here, steps = {state}, 0
        while not any(table.accepting[each] for each in here):
            here, steps = {int(to) for each in here for to in table.next[each] if to}, steps + 1
        assert table.distance[state] == steps


@pytest.mark.parametrize("pattern", ["a01b|a0", "(01|ab){2}", "ab01(a|b)?", "0ab|0ab1", "(a|b)0101", "a|b|", "01"])
def test_forced_is_the_longest_token_of_what_all_texts_go_on_with(pattern):
    """By all texts of finite languages, from every state."""
    table = token_table(automaton(patterns.parse(pattern), pattern), SEVEN, pattern)
    spelled = [[token for token in range(7) if table.classes[token] == kind] for kind in range(table.next.shape[1])]

    def texts(state):
        """What may still come, and END where nothing may."""
        found = {b""} if table.accepting[state] else set()
        for kind, to in enumerate(table.next[state]):
            if to and spelled[kind] != [END]:
                found |= {TOKENS[token] + rest for token in spelled[kind] for rest in texts(to)}
        return found

    forced = 0
    for state in range(1, table.accepting.size):
        if (table.next[state] == state).any():  # behind the end
            assert table.forced[state] == -1
            continue
        rest = texts(state)
        least = min(rest, key=len)
        common = max((least[:n] for n in range(len(least) + 1) if all(x.startswith(least[:n]) for x in rest)), key=len)
        fits = [token for token, text in enumerate(TOKENS) if common.startswith(text)]
        expected = END if rest == {b""} else max(fits, key=lambda token: len(TOKENS[token]), default=-1)
        assert table.forced[state] == expected, (state, rest)
        forced += table.forced[state] != -1
    assert forced and table.forced[0] == -1


def test_classes_are_those_of_a_walk_token_by_token():
    """A column per token, made one byte at a time."""
    draw = random.Random(5)
    tokens = list({bytes(draw.choice(b"ab01.-") for _ in range(draw.randint(1, 5))) for _ in range(300)})
    made = automaton(patterns.parse(r"-?(0|[1-9]\d*)(\.\d+)?|(ab|ba)*"), "numbers")
    table = token_table(made, spelling([*tokens, b""], (len(tokens),)), "numbers")
    pairs = {}  # state of bytes -> state of tokens, by texts that lead to both
    for state, text in ((1, b""), *((None, token) for token in tokens)):
        byte_state = 1
        for byte in text:
            byte_state = made.next[byte_state, made.kind[byte]]
        pairs[int(byte_state)] = int(run(table, [] if state else [tokens.index(text)]))
    assert len(pairs) > 5
    for byte_state, state in pairs.items():
        for index, token in enumerate(tokens):
            to = byte_state
            for byte in token:
                to = made.next[to, made.kind[byte]]
            if int(to) in pairs:
                assert table.next[state, table.classes[index]] == pairs[int(to)]
            assert (table.next[state, table.classes[index]] == 0) == (to == 0)


def test_states_that_tokens_do_not_finish_are_dead():
    """There is no c: after `ab0` the text could not end, so that `0` is dead there."""
    table = token_table(automaton(patterns.parse("ab(0c|1)"), "x"), SEVEN, "x")
    assert run(table, [2, 3]) == 0 and table.accepting[run(table, [2, 4])]
    assert table.classes[TOKENS.index(b"0")] == 0
    check_form(table)


def test_no_text_of_these_tokens():
    with pytest.raises(InputError, match="regex x has no text that tokens of this vocabulary spell"):
        token_table(automaton(patterns.parse("a?c"), "x"), SEVEN, "regex x")


def test_contexts():
    """The first token as it is, all others behind a space; the same table as of the texts written out."""
    first, later = Pieces.of([b"a", b"b", b""]), Pieces.of([b" a", b" b", b""])
    made = Spelling((first, later), np.array([True, True, False]), np.array([1, 1, 1]), (2,))
    table = token_table(automaton(patterns.parse("(a( b a)*)?"), "x"), made, "x")
    for size in range(6):
        for ids in itertools.product(range(3), repeat=size):
            body = list(itertools.takewhile(lambda token: token != 2, ids))
            ended = all(token == 2 for token in ids[len(body) :])
            text = " ".join("ab"[token] for token in body)
            expected = ended and re.fullmatch("(a( b a)*)?", text) is not None
            assert table.accepting[run(table, ids)] == expected
    check_form(table)
    same = token_table(automaton(patterns.parse("(ab?)*"), "x"), spelling(TOKENS, (END,), contexts=2), "x")
    assert same.accepting.size == token_table(automaton(patterns.parse("(ab?)*"), "x"), SEVEN, "x").accepting.size


def test_several_ends_and_all_tokens_live():
    table = token_table(automaton(patterns.parse("[ab01]*"), "x"), spelling(TOKENS, (END, 8)), "x")
    assert table.classes[END] == table.classes[8] != 0 and table.classes[7] == 0
    assert table.accepting[run(table, [0, 8, END, 8])] and run(table, [0, 8, 0]) == 0
    check_form(table)


def test_a_table_too_large_for_the_vocabulary(monkeypatch):
    monkeypatch.setattr("jaxdlm.grammar.tokens.MOST_ENTRIES", 30)
    with pytest.raises(
        InputError, match=r"regex x is too large for this vocabulary: its table has \d+ entries, at most 30"
    ):
        token_table(automaton(patterns.parse("(a|b|0){9}"), "x"), SEVEN, "regex x")
