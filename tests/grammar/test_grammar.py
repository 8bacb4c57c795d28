"""What the loops read: types, shapes, buckets; padding changes nothing."""

import itertools

import numpy as np
import pytest

from jaxdlm import grammar
from jaxdlm.errors import InputError
from jaxdlm.grammar import BUCKETS, FAR
from tests.grammar import toys


@pytest.fixture(scope="module")
def seven():
    return toys.of_words(toys.SEVEN, size=9)


def test_form(seven):
    made = grammar.regex("(ab)+", seven)
    assert (made.states, made.number_of_classes) == made.next.shape and made.min_tokens == 1
    assert made.classes.shape == (9,) and made.accepting.shape == made.distance.shape == (made.states,)
    assert made.classes.dtype == made.next.dtype == made.distance.dtype == np.int32 and made.accepting.dtype == bool
    assert not made.classes[[3, 4, 5, 7, 8]].any()
    for array in (made.classes, made.next, made.accepting, made.distance, made.forced):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_one_line(seven):
    made = grammar.regex("(ab)+", seven)
    assert repr(made) == "<Grammar 'regex:(ab)+': 5 states, 5 classes, at least 1 token>"
    long = repr(grammar.regex("(?x) a{400}\n|b{401}", seven))
    assert len(long) < 150 and "\n" not in long and long.endswith("at least 400 tokens>")


def test_equal_by_words_and_tokenizer(seven):
    made = grammar.regex("(ab)+", seven)
    again, other = grammar.regex("(ab)+", toys.of_words(toys.SEVEN, size=9)), grammar.regex("(ab)*", seven)
    wider = grammar.regex("(ab)+", toys.of_words(toys.SEVEN, size=12))
    assert made == again and hash(made) == hash(again) and len({made, again, other, wider}) == 3
    assert made != "regex:(ab)+"


def test_accepts(seven):
    made = grammar.regex("(ab)+", seven)
    assert made.accepts([0, 1]) and made.accepts(np.array([2, 0, 1, 6, 6])) and made.accepts(iter([2]))
    for ids in ([], [0], [0, 1, 6, 2], [6], [3], [7], [8], [9], [-1], [-7, 1], [2**40]):
        assert not made.accepts(ids)
    assert grammar.regex("a*", seven).accepts([]) and grammar.regex("a*", seven).accepts([6])
    for ids in ([0.0], [[0, 1]], ["a"]):
        with pytest.raises(InputError, match="must be a list of token ids"):
            made.accepts(ids)


@pytest.mark.parametrize("bucket", [None, (16, 64), (1024, 16)])
def test_padding_changes_nothing(seven, bucket):
    made = grammar.regex("(ab)+|01*", seven)
    tables = made.tables(bucket)
    assert tables.next.shape == (bucket or made.bucket) and tables.state == made.start and tables.state.shape == ()
    assert [array.dtype for array in tables] == [np.int32, np.int32, bool, np.int32, np.int32, np.int32]
    assert not tables.next[made.states :].any() and not tables.next[:, made.number_of_classes :].any()
    assert (
        (tables.distance[made.states :] == FAR).all()
        and (tables.forced[made.states :] == -1).all()
        and not tables.accepting[made.states :].any()
    )
    for ids in itertools.product(range(9), repeat=3):
        state = tables.state
        for token in ids:
            state = tables.next[state, tables.classes[token]]
        assert tables.accepting[state] == made.accepts(ids)


def test_buckets(seven):
    assert BUCKETS == (16, 64, 256, 1024, 4096, 16384)
    for length, states in ((13, 16), (14, 64), (61, 64), (62, 256)):
        made = grammar.regex(f"a{{{length}}}", seven)
        assert made.states == length + 3 and made.bucket == (states, 16)  # the dead one, the first, the end
    with pytest.raises(InputError, match=r"bucket=\(16, 16\) is smaller than the grammar, \(65, 3\)"):
        made.tables((16, 16))
