"""The repetition penalty by hand, against an oracle, and against `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.core.guide import Context
from tests.guides import oracles

VOCAB = 11


@jax.jit
def _behind(guide, prompt, length, answer, count, logits):
    state = guide.init(Context(prompt, length, jnp.int32(9), (), VOCAB))
    return guide.transform(logits, jax.lax.fori_loop(0, count, lambda i, s: guide.advance(s, answer[i]), state))


def behind(guide, prompt: list[int], answer: list[int], logits: np.ndarray) -> np.ndarray:
    """The logits behind a text, the prompt in a row with room for more, whose tokens are no part of it."""
    padded = lambda ids: np.array(ids + [5] * (10 - len(ids)), np.int32)  # noqa: E731
    return np.asarray(_behind(guide, padded(prompt), len(prompt), padded(answer), len(answer), logits))


def test_by_hand():
    logits = np.float32([2, -2, 0, 3, -1, 1, 4, 1, 1, -np.inf, 1])
    out = behind(jd.guides.repetition(2.0), [0, 1, 2, 1], [3, 9, 3], logits)
    np.testing.assert_array_equal(out, np.float32([1, -4, 0, 1.5, -1, 1, 4, 1, 1, -np.inf, 1]))
    np.testing.assert_array_equal(behind(jd.guides.repetition(1.0), [0, 1], [3], logits), logits)


def cases(count: int):
    rng = np.random.default_rng(3)
    for _ in range(count):
        texts = [rng.integers(0, VOCAB, rng.integers(1, 7)).tolist() for _ in range(2)]
        yield *texts, rng.normal(size=VOCAB).astype(np.float32) * 5, float(rng.uniform(0.5, 2.5))


def test_it_is_the_oracle_over_prompt_and_answer():
    for prompt, answer, logits, penalty in cases(20):
        out = behind(jd.guides.repetition(penalty), prompt, answer, logits)
        np.testing.assert_allclose(out, oracles.penalised(logits, prompt + answer, np.float32(penalty)), rtol=1e-6)


def test_a_draft_of_another_width():
    guide = jd.guides.repetition(2.0)
    state = guide.init(Context(jnp.array([2], jnp.int32), jnp.int32(1), jnp.int32(4), (), VOCAB))
    for width in (VOCAB - 8, VOCAB + 5):
        out = guide.transform(jnp.ones(width), guide.advance(state, jnp.int32(VOCAB + 3)))
        np.testing.assert_array_equal(out, [0.5 if token == 2 else 1 for token in range(width)])


def test_another_penalty_is_the_same_program():
    first, second = jd.guides.repetition(1.2), jd.guides.repetition(3.0)
    assert jax.tree.structure(first) == jax.tree.structure(second) and jax.tree.leaves(first) == [1.2]
    for wrong in (0, -1.0, 101, "2", None, True):
        with pytest.raises(jd.InputError, match=r"penalty=.*must be a number from 0.01 to 100"):
            jd.guides.repetition(wrong)


@pytest.mark.slow
def test_transformers_says_the_same():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").RepetitionPenaltyLogitsProcessor
    for prompt, answer, logits, penalty in cases(50):
        theirs = process(penalty)(torch.tensor([prompt + answer]), torch.tensor(logits[None]))[0].numpy()
        np.testing.assert_allclose(behind(jd.guides.repetition(penalty), prompt, answer, logits), theirs, rtol=1e-6)
