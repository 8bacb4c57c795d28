"""The exact denoiser against enumeration of its distribution."""

import functools
import itertools

import jax
import numpy as np
import pytest

from jaxdlm.core.model import Model, Past
from jaxdlm.errors import InputError
from jaxdlm.models.denoiser import LOG_ZERO, table_denoiser

MASK, V = 7, 8


def enumerated(table, weights, revealed):
    """[G, V] log conditionals by going through the rows one by one."""
    kept = [
        (row, w) for row, w in zip(table, weights) if all(t in (MASK, row[j]) for j, t in enumerate(revealed))
    ] or list(zip(table, weights))
    out = np.zeros((table.shape[1], V))
    for row, w in kept:
        for j, token in enumerate(row):
            out[j, token] += w
    out /= out.sum(axis=1, keepdims=True)
    return np.where(out > 0, np.log(np.where(out > 0, out, 1)), LOG_ZERO)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, *inputs):
    return model.apply(params, *inputs)


def call(model, params, tokens, past=None, first=0):
    position = np.broadcast_to(np.arange(first, first + tokens.shape[1], dtype=np.int32), tokens.shape)
    return apply(model, params, tokens.astype(np.int32), position, np.ones(tokens.shape, bool), past)


@pytest.fixture
def distribution():
    table = np.array(list(itertools.permutations((1, 2, 3))) + [(1, 1, 1)])
    return table, np.arange(1, len(table) + 1, dtype=np.float64)


def test_every_partial_reveal_equals_enumeration(distribution):
    table, weights = distribution
    model, params = table_denoiser(table, weights, vocab_size=V, mask=MASK, start=2)
    assert isinstance(model, Model)
    reveals = list(itertools.product((1, 2, 3, 4, MASK), repeat=3))
    tokens = np.array([(5, 6, *reveal) for reveal in reveals])
    logits = np.asarray(model.head(params, call(model, params, tokens).hidden))
    want = np.stack([enumerated(table, weights, reveal) for reveal in reveals])
    np.testing.assert_allclose(logits[:, 2:], want, atol=1e-5)
    np.testing.assert_allclose(logits[:, :2], -np.log(V), atol=1e-6)
    np.testing.assert_allclose(np.exp(logits[:, 2:]).sum(-1), 1, atol=1e-5)


def test_cached_tokens_count_as_revealed(distribution):
    table, weights = distribution
    model, params = table_denoiser(table, weights, vocab_size=V, mask=MASK, start=1)
    tokens = np.array([[5, 2, MASK, MASK], [5, MASK, MASK, 1]])
    whole = call(model, params, tokens)
    front = call(model, params, tokens[:, :2])
    past = Past(front.kv, np.array([[0, 1], [0, 1]], np.int32), np.ones((2, 2), bool))
    back = call(model, params, tokens[:, 2:], past, first=2)
    np.testing.assert_allclose(np.asarray(back.hidden), np.asarray(whole.hidden[:, 2:]), atol=1e-6)


def test_tokens_that_are_not_valid_are_not_seen(distribution):
    table, weights = distribution
    model, params = table_denoiser(table, weights, vocab_size=V, mask=MASK, start=0)
    tokens, position = np.array([[2, MASK, MASK]], np.int32), np.arange(3, dtype=np.int32)[None]
    hidden = apply(model, params, tokens, position, np.array([[False, True, True]])).hidden
    np.testing.assert_allclose(np.asarray(hidden[0]), enumerated(table, weights, (MASK,) * 3), atol=1e-5)


def test_bad_laws_are_refused():
    with pytest.raises(InputError, match="mask"):
        table_denoiser([[MASK, 1]], vocab_size=V, mask=MASK)
    with pytest.raises(InputError, match="weights"):
        table_denoiser([[2, 1]], [0.0], vocab_size=V, mask=MASK)
