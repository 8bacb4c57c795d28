"""Columns of stored keys and values, against NumPy."""

import jax.numpy as jnp
import numpy as np

from jaxdlm.core import kv as stored
from jaxdlm.core.model import KV

REPEATS, ROWS, COLUMNS = 2, 3, 6
SHAPE = (REPEATS, ROWS, COLUMNS, 1, 2)


def some(columns=COLUMNS, first=0.0, dtype=jnp.float32):
    shape = (REPEATS, ROWS, columns, 1, 2)
    x = (first + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)
    return KV(((jnp.asarray(x, dtype),),), ((jnp.asarray(-x, dtype),),))


def leaves(kv):
    return np.asarray(kv.k[0][0]), np.asarray(kv.v[0][0])


def test_columns_by_index():
    index = np.array([[0, 5], [3, 3], [1, 2]])
    for whole, part in zip(leaves(some()), leaves(stored.take(some(), jnp.asarray(index)))):
        for row in range(ROWS):
            np.testing.assert_array_equal(part[:, row], whole[:, row, index[row]])


def test_columns_are_written_by_index_and_past_the_end_nowhere():
    index = np.array([[0, 5], [6, 3], [1, 99]])
    made = stored.put(some(), some(2, 1000.0, jnp.float16), jnp.asarray(index))
    assert made.k[0][0].dtype == jnp.float32, "in the dtype of what is stored"
    for old, new, out in zip(leaves(some()), leaves(some(2, 1000.0)), leaves(made)):
        expected = old.copy()
        for row, column in np.argwhere(index < COLUMNS):
            expected[:, row, index[row, column]] = new[:, row, column]
        np.testing.assert_array_equal(out, expected)


def test_a_span_is_written_where_it_lies_and_never_sticks_out():
    first = np.array([0, 3, 5])  # the last is moved to column 4
    made = stored.put_span(some(), some(2, 1000.0), jnp.asarray(first, jnp.int32))
    for old, new, out in zip(leaves(some()), leaves(some(2, 1000.0)), leaves(made)):
        expected = old.copy()
        for row, at in enumerate(np.minimum(first, 4)):
            expected[:, row, at : at + 2] = new[:, row]
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(stored.columns_from(jnp.int32([0, 4]), 2), [[0, 1], [4, 5]])
