"""The smallest automaton: against pairs of states told apart by trying, and refused by size before it is built."""

import itertools
import random
import time

import numpy as np
import pytest

from jaxdlm.errors import InputError
from jaxdlm.grammar import automaton as automata
from jaxdlm.grammar import patterns, syntax
from jaxdlm.grammar.automaton import MOST_NODES, MOST_STATES, automaton, compact, equivalent
from tests.marks import exhaustive


def told_apart(table, accepting):
    """Pairs of states that some text tells apart, by the marking algorithm."""
    size = len(accepting)
    apart = accepting[:, None] != accepting[None, :]
    while True:
        more = apart | np.any(
            [apart[table[:, c][:, None], table[:, c][None, :]] for c in range(table.shape[1])], axis=0
        )
        if (more == apart).all():
            return apart | (np.zeros((size, size), bool))
        apart = more


def test_equivalent_states_of_random_automata():
    draw = np.random.default_rng(0)
    merged = 0
    for _ in range(200):
        size, columns = int(draw.integers(1, 14)), int(draw.integers(1, 4))
        table, accepting = draw.integers(0, size, (size, columns)), draw.random(size) < 0.4
        label = equivalent(table, accepting)
        np.testing.assert_array_equal(label[:, None] != label[None, :], told_apart(table, accepting))
        assert sorted(set(label.tolist())) == list(range(label.max() + 1))
        merged += label.max() + 1 < size
    assert merged > 50


def test_a_compact_part_has_the_same_texts_wherever_it_stands(monkeypatch):
    """In a repetition and beside others, though the smallest automaton may lead back to its beginning."""
    monkeypatch.setattr(automata, "COMPACT_FROM", 0)
    draw = random.Random(4)
    for _ in range(40):
        pattern = "".join(draw.choice(["a*", "(a|b)?", "(ab)*", "[ab]{0,2}", "(a|ba)+"]) for _ in range(3))
        part = patterns.parse(pattern)
        small = compact(part, pattern)
        assert isinstance(small, syntax.Words) and small.size < 40
        for around in (lambda x: syntax.repeat(syntax.cat(x, syntax.text("c")), 0, None), lambda x: syntax.alt(x, x),
                       lambda x: syntax.alt(syntax.cat(x, syntax.text("c")), syntax.repeat(x, 2, 3))):  # fmt: skip
            one, other = automaton(around(part), pattern), automaton(around(small), pattern)
            np.testing.assert_array_equal(one.next[:, one.kind], other.next[:, other.kind])
            np.testing.assert_array_equal(one.accepting, other.accepting)


def test_it_is_the_smallest_and_its_states_are_in_the_order_of_a_search():
    draw = random.Random(3)
    for _ in range(30):
        pattern = "".join(draw.choice(["a", "b", "(a|b)", "a*", "(ab)?", "[ab]{1,3}", "(a|ba)+"]) for _ in range(4))
        made = automaton(patterns.parse(pattern), pattern)
        apart = told_apart(made.next, made.accepting)
        assert (apart | np.eye(made.accepting.size, dtype=bool)).all(), pattern
        far = {1: 0}
        for state in (waiting := [1]):
            for to in set(made.next[state].tolist()) - {0} - far.keys():
                far[to] = far[state] + 1
                waiting.append(to)
        steps = [far[state] for state in range(1, made.accepting.size)]
        assert steps == sorted(steps)
        assert not made.next[0].any() and not made.accepting[0]
        assert len({column.tobytes() for column in made.next.T}) == made.next.shape[1]


def test_empty():
    for tree in (syntax.alt(), syntax.chars([]), syntax.cat(syntax.text("a"), syntax.alt())):
        with pytest.raises(InputError, match="regex x is empty: no text belongs to it"):
            automaton(tree, "regex x")
    assert automaton(syntax.text(""), "nothing").accepts(b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(a{1000}){1000}", r"written out it has 2,001,000 parts, at most 65,536 are taken"),
        ("((a{60000}){60000}){60000}", r"more than 10\^12 parts"),
        ("(a|b)*a(a|b){60}", "takes more than .* states, at most 16,384 are taken"),
        ("(a|b)*a(a|b){3000}", "takes more than .* states, at most 16,384 are taken"),
        ("[ab]{20000}", "takes 20,002 states, at most 16,384 are taken"),
        exhaustive(("(a?){20000}", "takes more than .* states, at most 16,384 are taken")),
    ],
)
def test_too_large(pattern, message):
    """Quickly: in seconds, not minutes."""
    begun = time.process_time()
    with pytest.raises(InputError, match=message):
        automaton(patterns.parse(pattern), "regex")
    assert time.process_time() - begun < 20


def test_a_long_chain_is_no_long_work():
    begun = time.process_time()
    made = automaton(syntax.repeat(syntax.chars(syntax.EVERY), 0, 1200), "chain")
    assert made.accepting.size > 1200
    assert made.accepts("é".encode() * 1200) and not made.accepts(b"a" * 1201)
    assert time.process_time() - begun < 20


def test_limits():
    assert MOST_STATES == 16384 and MOST_NODES >= MOST_STATES
    for word in map("".join, itertools.product("ab", repeat=3)):
        assert automaton(syntax.text(word), word).accepts(word.encode())
