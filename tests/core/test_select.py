"""Rows out of two trees: the masked ones of the new, all others of the old, whatever the shape of a leaf."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.select import select_rows


def test_masked_rows_are_new_and_the_others_keep_every_bit():
    old = {
        "scalar": jnp.float32([1, jnp.nan, 3]),
        "matrix": jnp.zeros((3, 2, 4), jnp.int32),
        "key": jax.random.split(jax.random.key(0), 3),
    }
    new = {
        "scalar": jnp.float32([jnp.nan, 5, 6]),
        "matrix": jnp.ones((3, 2, 4), jnp.int32),
        "key": jax.random.split(jax.random.key(1), 3),
    }
    mask = np.array([False, True, False])
    found = select_rows(jnp.asarray(mask), new, old)
    np.testing.assert_array_equal(found["scalar"], [1, 5, 3])
    np.testing.assert_array_equal(found["matrix"][:, 0, 0], mask)
    for at, chosen in enumerate(mask):
        np.testing.assert_array_equal(*(jax.random.key_data(x["key"])[at] for x in (found, new if chosen else old)))
