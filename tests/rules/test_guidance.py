"""Classifier-free guidance on hand-made logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, guidance
from jaxdlm.core.carry import Draft
from tests.rules.hand import row

GIVEN = jnp.float32([[1.0, 2.0, -np.inf], [0.0, -1.0, -np.inf]])
FREE = jnp.float32([[0.5, 0.0, -np.inf], [0.0, 1.0, -np.inf]])


def guided(scale):
    return guidance(scale).apply(Draft(GIVEN, FREE), (), row([True, True]), jax.random.key(0))[0].logits


def test_scale_zero_is_the_conditional_row():
    np.testing.assert_allclose(guided(0.0), GIVEN)


def test_known_answer_and_banned_tokens_stay_banned():
    """u + (s + 1)(c - u), s = 1.5."""
    np.testing.assert_allclose(guided(1.5), [[1.75, 5.0, -np.inf], [0.0, -4.0, -np.inf]])


def test_needs_the_second_half_and_a_scale_that_is_not_negative():
    with pytest.raises(InputError, match="without the prompt"):
        guidance(1.0).apply(Draft(GIVEN), (), row([True, True]), None)
    with pytest.raises(InputError, match="cfg_scale=-1"):
        guidance(-1)
