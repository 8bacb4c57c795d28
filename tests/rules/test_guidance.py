"""Classifier-free guidance on hand-made logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import guidance, sample
from tests.rules.hand import row

GIVEN = jnp.float32([[1.0, 2.0, -np.inf], [0.0, -1.0, -np.inf]])
FREE = jnp.float32([[0.5, 0.0, -np.inf], [0.0, 1.0, -np.inf]])


def guided(scale):
    return guidance(scale).apply(Update(GIVEN, FREE), (), row([True, True]), jax.random.key(0))[0].logits


def test_scale_zero_is_the_conditional_row():
    np.testing.assert_allclose(guided(0.0), GIVEN)


def test_known_answer_and_banned_tokens_stay_banned():
    """u + (s + 1)(c - u), s = 1.5."""
    np.testing.assert_allclose(guided(1.5), [[1.75, 5.0, -np.inf], [0.0, -4.0, -np.inf]])


def test_needs_the_second_half_and_a_scale_that_is_not_negative():
    with pytest.raises(InputError, match="without the prompt"):
        guidance(1.0).apply(Update(GIVEN), (), row([True, True]), None)
    with pytest.raises(InputError, match="cfg_scale=-1"):
        guidance(-1)


@pytest.mark.parametrize("temperature", [0.0, jnp.float32(0)], ids=["greedy", "any temperature"])
def test_sure_columns_keep_their_order(temperature):
    """A batch in one program with a banned token, columns sure to 1e-6 ... 1e-26: the guided logits may be worked out
    again, and rounded otherwise, for each of their readers."""
    rows, columns, vocab = 8, 8, 50
    rng = np.random.default_rng(0)
    given, free = rng.normal(0, 3, (2, rows, columns, vocab)).astype(np.float32)
    best = rng.integers(0, vocab - 1, (rows, columns, 1))
    lift = np.linspace(8, 20, rows * columns).reshape(rows, columns, 1).astype(np.float32)
    np.put_along_axis(given, best, np.take_along_axis(given, best, 2) + lift, 2)
    rule, view = chain(guidance(1.5), sample(temperature)), row([True] * columns)

    @jax.jit
    def scores(rule, given, free, keys):
        mask_invalid = lambda x: jnp.where(jnp.arange(vocab)[None, None] == vocab - 1, -jnp.inf, x)  # noqa: E731

        def one(given, free, key):
            return rule.apply(Update(given, free), rule.init(columns, vocab), view, key)[0].score

        return jax.vmap(one)(mask_invalid(given), mask_invalid(free), keys)

    mixed = (np.float64(free) + 2.5 * (np.float64(given) - np.float64(free)))[..., :-1]
    ordered = np.sort(mixed, 2)
    expected = -np.log1p(np.exp(ordered[..., :-1] - ordered[..., -1:]).sum(2))
    found = scores(rule, given, free, jax.random.split(jax.random.key(0), rows))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
