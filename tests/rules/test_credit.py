"""CreditDecoding: the update by hand, its limits, and what earns nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import add_credit, sample, select_above
from jaxdlm.rules.credit import select_above_or_tied
from tests.rules.hand import call, row, scored


def run(rule, distributions, can=None):
    """Fused logits and credit after each step; distributions [T, W, V]."""
    distributions = np.asarray(distributions, np.float64)
    window, vocab = distributions.shape[1:]
    state, seen = rule.init(window, vocab), []
    for tick, p in enumerate(distributions):
        view = row([True] * window if can is None else can[tick], tick=tick)
        update, state = call(rule, Update(np.log(p).astype(np.float32)), state, view)
        seen.append((np.asarray(update.logits), np.asarray(state)))
    return seen


def test_three_steps_by_hand():
    p = np.array([[[0.6, 0.3, 0.1]], [[0.2, 0.7, 0.1]], [[0.55, 0.35, 0.1]]])
    fused, earned = run(add_credit(0.65, 0.7, 0.2), p)[-1]
    expected = np.array([0.49 * 0.6**0.2 + 0.55**0.2, 0.7 * 0.7**0.2, 0.0])
    np.testing.assert_allclose(earned[0], expected, rtol=1e-5)
    np.testing.assert_allclose(fused[0], np.log(p[-1, 0]) + 0.65 * np.log1p(expected), rtol=1e-5)


def test_constant_evidence_rises_to_its_limit():
    p = np.tile([0.8, 0.1, 0.1], (60, 1, 1))
    best = [float(jax.nn.softmax(jnp.asarray(fused[0]))[0]) for fused, _ in run(add_credit(), p)]
    np.testing.assert_allclose(best[:3], [0.861, 0.882, 0.893], atol=1e-3)
    assert (np.diff(best[:20]) > 0).all()
    assert best[-1] == pytest.approx(0.910, abs=1e-3)
    assert max(earned.max() for _, earned in run(add_credit(), p)) <= 1 / (1 - 0.7) + 1e-5


def test_memoryless_crossing():
    """beta = 0: a raw probability of 0.853 is enough for tau = 0.9, 0.852 is not."""
    rule = chain(add_credit(beta=0.0), sample(), select_above(0.9))
    for p, expected in ((0.8535, True), (0.8520, False)):
        raw = np.log(np.float32([[p, 1 - p], [0.999, 0.001]]))
        update, _ = call(rule, Update(raw), rule.init(2, 2), row([True, True]))
        assert bool(update.commit[0]) is expected


def test_nothing_for_written_columns_and_a_fresh_start_per_block():
    p = np.tile([0.5, 0.3, 0.2], (3, 2, 1))
    can = [[True, True], [True, False], [True, False]]
    seen = run(add_credit(), p, can)
    first = 0.5**0.2
    np.testing.assert_allclose([earned[1, 0] for _, earned in seen], [first, 0.7 * first, 0.49 * first], rtol=1e-5)
    rule, dirty = add_credit(), jnp.full((2, 3), 9.0)
    _, fresh = call(rule, Update(np.log(p[0]).astype(np.float32)), dirty, row([True, True]))
    np.testing.assert_allclose(fresh, seen[0][1])


def test_no_strength_is_no_change_and_adaptive_starts_so():
    p = np.random.default_rng(0).dirichlet(np.ones(5), (4, 3))
    for fused, p_t in zip(run(add_credit(alpha=0.0), p), p, strict=True):
        np.testing.assert_array_equal(fused[0], np.log(p_t).astype(np.float32))
    fused, _ = run(add_credit(adaptive=True), p)[0]
    np.testing.assert_array_equal(fused, np.log(p[0]).astype(np.float32))
    half = run(add_credit(adaptive=True), p[:2], [[True] * 3, [True, False, False]])[1]
    top = p[1, 0].argmax()
    earned = half[1][0, top]
    np.testing.assert_allclose(half[0][0, top], np.log(p[1, 0, top]) + np.log1p(earned) * 2 / 3, rtol=1e-5)


def test_near_ties_come_along():
    score = np.log([0.6, 0.6 - 5e-6, 0.59])
    np.testing.assert_array_equal(scored(select_above_or_tied(0.9), score, row([True] * 3))[0], [True, True, False])
    np.testing.assert_array_equal(scored(select_above(0.9), score, row([True] * 3))[0], [True, False, False])


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"beta": 1.5}, {"gamma": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        add_credit(**wrong)


@pytest.mark.parametrize("adaptive", [False, True])
def test_slots_hold_what_the_whole_table_holds(adaptive):
    """Six columns, nine tokens, six forwards with columns written on the way, and then the next block."""
    draws = np.random.default_rng(3)
    distributions = draws.dirichlet(np.full(9, 0.4), (6, 6)) + 1e-4
    can = [[True] * (6 - tick) + [False] * tick for tick in range(6)]
    dense, sparse = add_credit(adaptive=adaptive), add_credit(adaptive=adaptive, sparse=True)
    wholes = [dense.init(6, 9), sparse.init(6, 9)]
    for tick in (*range(6), 0):
        view, raw = row(can[tick], tick=tick), np.log(distributions[tick]).astype(np.float32)
        updates = []
        for at, rule in enumerate((dense, sparse)):
            update, wholes[at] = call(rule, Update(raw), wholes[at], view)
            updates.append(update.logits)
        np.testing.assert_allclose(updates[0], updates[1], rtol=1e-5, atol=1e-5)
    assert len({int(token) for token in distributions[:, 0].argmax(1)}) > 2, "one best token would test no slot"
