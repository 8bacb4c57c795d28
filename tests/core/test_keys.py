"""Noise depends on seed, id and true position, not on the place in a batch or window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core.keys import column_gumbel, column_uniform, row_keys


def test_rows_are_keyed_by_seed_and_id():
    bits = jax.random.key_data(row_keys(jnp.int32([0, 0, 1, 0]), jnp.int32([3, 4, 3, 3])))
    np.testing.assert_array_equal(bits[0], bits[3])
    assert len({tuple(row) for row in np.asarray(bits).tolist()}) == 3


@pytest.mark.slow
def test_columns_are_keyed_by_position():
    key = jax.random.key(0)
    wide, narrow = jnp.arange(10, dtype=jnp.int32), jnp.arange(4, 7, dtype=jnp.int32)
    np.testing.assert_array_equal(column_gumbel(key, wide, 6)[4:7], column_gumbel(key, narrow, 6))
    np.testing.assert_array_equal(column_uniform(key, wide)[4:7], column_uniform(key, narrow))


@pytest.mark.slow
def test_gumbel_has_its_mean_and_its_tail():
    """Mean 0.5772, variance pi^2 / 6; a maximum of 200,000 draws near ln 200,000 = 12.2."""
    noise = np.asarray(column_gumbel(jax.random.key(1), jnp.arange(200, dtype=jnp.int32), 1000))
    assert abs(noise.mean() - 0.5772) < 3 * np.sqrt(np.pi**2 / 6 / noise.size)
    assert 10 < noise.max() < 20
