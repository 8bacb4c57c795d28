"""The frequency penalty by hand and against an oracle; the prompt does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from tests.guides import oracles
from tests.guides.test_repetition import VOCAB, behind, cases


def test_by_hand():
    logits = np.float32([2, -2, 0, 3, -1, 1, 4, 1, 1, -np.inf, 1])
    out = behind(jd.guides.frequency(0.5), [0, 1, 2], [3, 9, 3, 6], logits)
    np.testing.assert_array_equal(out, np.float32([2, -2, 0, 2, -1, 1, 3.5, 1, 1, -np.inf, 1]))
    np.testing.assert_array_equal(behind(jd.guides.frequency(0), [0, 1], [3], logits), logits)


def test_it_is_the_oracle_over_the_answer_also_beside_presence():
    for prompt, answer, logits, penalty in cases(20):
        both = jd.core.guide.Several((jd.guides.frequency(penalty / 2), jd.guides.presence(-penalty / 2)))
        out = behind(both, prompt, answer, logits)
        wanted = oracles.lowered(logits, answer, frequency=np.float32(penalty / 2), presence=np.float32(-penalty / 2))
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_another_width_and_another_penalty():
    first, second = jd.guides.frequency(1.0), jd.guides.frequency(-2)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    state = first.advance(jnp.zeros(VOCAB, jnp.int32), jnp.int32(2))
    for width in (VOCAB - 8, VOCAB + 5):
        out = first.transform(jnp.ones(width), first.advance(state, jnp.int32(VOCAB + 3)))
        np.testing.assert_array_equal(out, [0 if token == 2 else 1 for token in range(width)])
    for wrong in (-2.1, 3, "2", None, True):
        with pytest.raises(jd.InputError, match=r"penalty=.*must be a number from -2 to 2"):
            jd.guides.frequency(wrong)
