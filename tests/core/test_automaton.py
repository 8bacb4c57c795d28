"""Sums and maxima over the texts of a language, against the sum over every canvas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core import automaton as language
from jaxdlm.core import law as laws
from jaxdlm.core.automaton import NEG, Columns
from jaxdlm.core.carry import Automaton
from jaxdlm.core.law import FLOOR
from jaxdlm.grammar import Grammar

V, W = 5, 4


def toy(rng, states=4, symbols=4) -> Grammar:
    """A random automaton of few edges; class 0 and state 0 are dead."""
    table = rng.integers(0, states, (states, symbols)) * (rng.random((states, symbols)) < 0.9)
    table[0], table[:, 0] = 0, 0
    accepting = rng.random(states) < 0.7
    accepting[0] = False
    distance = np.where(accepting, 0, 2**30)
    for _ in range(states):
        distance = np.minimum(distance, np.where(table > 0, distance[table], 2**30).min(1) + 1)
    distance, undrafted = np.minimum(distance, 2**30), np.full(len(table), -1, np.int32)
    return Grammar("toy", "by hand", rng.integers(0, symbols, V), table, 1, accepting, distance, undrafted)


def one(toy: Grammar, columns: int = W) -> Automaton:
    """The toy's automaton without a leading axis, at the edges of a window that is the whole text."""
    packed = language.pack([toy], language.shape_of(toy), np.array([0]), np.array([columns]))
    return jax.tree.map(lambda x: jnp.asarray(x[0]), packed)


def belongs(toy: Grammar, text) -> bool:
    state = toy.start
    for token in text:
        state = toy.next[state, toy.classes[token]]
    return bool(toy.accepting[state])


def case(seed: int):
    """(toy, log-probabilities, columns that are written) of a random problem, and the law of every text."""
    rng = np.random.default_rng(seed)
    made = toy(rng)
    logits = rng.normal(0, 3, (W, V))
    logp = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    tokens, fixed = rng.integers(0, V, W).astype(np.int32), rng.random(W) < 0.2
    law = {}
    for text in itertools.product(range(V), repeat=W):
        if belongs(made, text) and all(text[i] == tokens[i] for i in range(W) if fixed[i]):
            law[text] = sum(float(logp[i, text[i]]) for i in range(W) if not fixed[i])
    return made, logp, tokens, fixed, law


@jax.jit
def tables(logp, tokens, fixed, automaton):
    columns = Columns(~fixed, fixed, tokens)
    every = jnp.ones(W, bool)
    sums = language.with_fixed(laws.law_of(logp, automaton).sums, columns, automaton)
    bests = language.with_fixed(laws.class_bests(logp, automaton), columns, automaton)
    sum_rest = language.backward(sums, every, automaton, language.segment_logsumexp)
    share, total = language.marginals(sums, every, automaton, sum_rest), sum_rest[0, automaton.state]
    rest = language.backward(bests, every, automaton, language.segment_best)
    path = laws.token_of(logp, language.walk(bests, every, rest, automaton), automaton)
    return share, total, jnp.where(fixed, tokens, path), rest[0, automaton.state]


@pytest.mark.slow
@pytest.mark.parametrize("cases", [500, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_sums_maxima_and_marginals_are_those_of_enumeration(cases):
    checked = 0
    for seed in range(cases):
        made, logp, tokens, fixed, law = case(seed)
        share, total, best, value = map(np.asarray, tables(logp, tokens, fixed, one(made)))
        if not law:
            assert total < NEG / 2 and value < NEG / 2
            continue
        checked += 1
        z = np.logaddexp.reduce(list(law.values()))
        np.testing.assert_allclose(total, z, atol=2e-5)
        np.testing.assert_allclose(value, max(law.values()), atol=2e-5)
        np.testing.assert_allclose(law[tuple(best.tolist())], max(law.values()), atol=2e-5)
        expected = np.zeros((W, made.next.shape[1]))
        for text, weight in law.items():
            for column, token in enumerate(text):
                expected[column, made.classes[token]] += np.exp(weight - z)
        np.testing.assert_allclose(np.exp(np.maximum(share, -80))[:, : expected.shape[1]], expected, atol=2e-5)
        assert ((share > NEG / 2)[:, : expected.shape[1]] == (expected > 0)).all()
    assert checked >= cases // 2


@jax.jit
def nearest(logp, wish, mine, tokens, fixed, automaton):
    columns = Columns(~fixed, fixed, tokens)
    symbol = jnp.arange(automaton.next.shape[1])[None, :]
    wished = mine[:, None] & (automaton.classes[wish][:, None] == symbol)
    own = jnp.take_along_axis(logp, wish[:, None], axis=1)
    scores = language.with_fixed(jnp.where(wished, own, laws.class_bests(logp, automaton)), columns, automaton)
    return language.most(wished.astype(jnp.int32), scores, jnp.ones(W, bool), automaton)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [300, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_the_nearest_text_agrees_with_as_many_wishes_as_any(cases):
    for seed in range(cases):
        made, logp, tokens, fixed, law = case(seed)
        rng = np.random.default_rng(10_000 + seed)
        wish, mine = rng.integers(0, V, W).astype(np.int32), (rng.random(W) < 0.6) & ~fixed
        symbols, feasible = map(np.asarray, nearest(logp, wish, mine, tokens, fixed, one(made)))
        assert feasible == bool(law)
        if law:
            same = lambda text: sum(made.classes[text[i]] == made.classes[wish[i]] for i in range(W) if mine[i])  # noqa: E731
            agreed = sum(symbols[i] == made.classes[wish[i]] for i in range(W) if mine[i])
            assert agreed == max(map(same, law))
            assert any(all(made.classes[t] == s for t, s in zip(text, symbols)) for text in law)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_extreme_logits_leave_every_text_possible(scale):
    made, *_ = case(3)
    automaton = one(made)
    logits = jnp.asarray(np.random.default_rng(0).normal(0, scale, (W, V)), jnp.float32)
    sums = laws.law_of(logits, automaton).sums
    every = jnp.ones(W, bool)
    rest = language.backward(sums, every, automaton, language.segment_logsumexp)
    share, total = language.marginals(sums, every, automaton, rest), rest[0, automaton.state]
    assert np.isfinite(total) and total > NEG / 2 and not np.isnan(share).any()


def test_padded_states_classes_and_edges_change_no_bit():
    made, logp, tokens, fixed, _ = case(5)
    small = tables(logp, tokens, fixed, one(made))
    packed = language.pack([made], (64, 32, 128, 64), np.array([0]), np.array([W]))
    large = tables(logp, tokens, fixed, jax.tree.map(lambda x: jnp.asarray(x[0]), packed))
    for a, b in zip(small[1:], large[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(small[0], large[0][:, : small[0].shape[1]])


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [5000, 2048, 700])
@pytest.mark.parametrize("divisor", [1.0, 0.7])
def test_what_accelerators_run_tile_by_tile_is_what_cpus_run(vocab, divisor):
    """More ids than one tile has, and no whole number of tiles; rows whose best logit comes late, and impossible ids."""
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(0, 8, (3, vocab)).astype(np.float32), rng.integers(0, 7, vocab).astype(np.int32)
    logits[0, -1], logits[1, : vocab // 2] = 40, -np.inf
    args = logits, np.float32(divisor), classes, np.bincount(classes, minlength=8).astype(np.float32)
    once, tiled = jax.jit(laws.law_at_once)(*args), jax.jit(laws.law_by_tiles)(*args)
    for one, other in zip(once, tiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    exact = np.exp((logits.astype(np.float64) - logits.max(1, keepdims=True)) / divisor)
    sums = np.stack([exact[:, classes == c].sum(1) for c in range(8)], axis=1) / exact.sum(1, keepdims=True)
    np.testing.assert_allclose(tiled[2], sums, rtol=2e-5)
    gain = rng.normal(0, 3, (3, 8)).astype(np.float32)
    gain[1, 2], use = NEG, np.array([True, True, False])
    law = laws.Law(logits, args[1], *once)
    bent = [jax.jit(way)(law, gain, use, classes) for way in (laws.tilted_at_once, laws.tilted_by_tiles)]
    np.testing.assert_allclose(*bent, rtol=1e-6)
    logp = np.maximum((logits - logits.max(1, keepdims=True)) / divisor - np.log(exact.sum(1, keepdims=True)), FLOOR)
    for row in range(2):
        allowed = (classes != 2) | (row == 0)
        np.testing.assert_allclose(
            bent[0][row, allowed], divisor * (logp[row] + gain[row, classes])[allowed], rtol=1e-4, atol=1e-4
        )
        assert np.isneginf(np.asarray(bent[0])[row, ~allowed]).all()
    np.testing.assert_array_equal(bent[1][2], logits[2])
