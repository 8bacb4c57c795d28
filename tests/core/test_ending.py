"""Sequences of ids that end a row, against a search by hand."""

import jax
import numpy as np
import pytest

from jaxdlm.core import ending


def by_hand(tokens, own, settled, sequences):
    """Columns up to the end of the first sequence that stands in own columns behind settled ones only."""
    for stop in range(1, len(tokens) + 1):
        if not all(settled[:stop]):
            break
        for ids in sequences:
            first = stop - len(ids)
            if first >= 0 and list(tokens[first:stop]) == list(ids) and all(own[first:stop]):
                return stop
    return len(tokens) + 1


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_random_rows_end_where_a_search_says(columns):
    rng, find = np.random.default_rng(columns), jax.jit(ending.columns_to_end)
    seen = set()
    for _ in range(200):
        sequences = [tuple(rng.integers(0, 3, rng.integers(1, 5))) for _ in range(rng.integers(1, 5))]
        tokens = rng.integers(0, 3, columns).astype(np.int32)
        own, settled = rng.random(columns) < 0.9, rng.random(columns) < 0.95
        packed = ending.pack([sequences], (4, 4))[0]
        want = by_hand(tokens, own, settled, sequences)
        assert int(find(tokens, own, settled, packed)) == want
        seen.add(want <= columns)
    assert seen == {True, False}


def test_the_shape_holds_every_row_and_grows_in_powers_of_two():
    assert ending.shape([[(1,)]]) == (1, 1)
    assert ending.shape([[(1,)] * 3, [(1, 2, 3)]]) == (4, 4)
    assert ending.shape([[]]) is None and ending.shape([[], [(7, 7)]]) == (1, 2)


@pytest.mark.slow
def test_a_row_without_sequences_beside_others_never_ends():
    packed = ending.pack([[], [(5,)]], (1, 1))
    open_ = np.ones(3, bool)
    assert [int(ending.columns_to_end(np.array([5, 5, 5]), open_, open_, row)) for row in packed] == [4, 1]
