"""The entropy bound on masks: a slow loop from the paper's, its limits, and the orders that it may follow."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, policies
from jaxdlm.rules import log_prob, margin, neg_entropy, sample, select_within_entropy
from tests.rules.drive import VOCAB, blocks_of_draws, drive, probabilities, slowly
from tests.rules.hand import apply, row

WIDTH = 10
MEASURES = {"entropy": neg_entropy, "confidence": log_prob, "margin": margin}


def entropies(p):
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=-1)


def oracle(gamma, order):
    def step(p, token, left, tokens, tick):
        two, entropy = np.sort(p, axis=1)[:, -2:], entropies(p)
        error = {"entropy": entropy, "confidence": -two[:, 1], "margin": two[:, 0] - two[:, 1]}[order]
        ranked = sorted(left, key=lambda i: (error[i], i))
        bounds = np.cumsum(entropy[ranked]) - np.maximum.accumulate(entropy[ranked])
        return ranked[: max(1, int(np.sum(bounds <= gamma)))], [], False

    return step


def rule_of(gamma, order):
    return select_within_entropy(jnp.float32(gamma), ranked="entropy" if order == "entropy" else "score")


@pytest.mark.parametrize("order", MEASURES)
def test_slow_oracle(order):
    for gamma in (0.0, 0.1, 1.0, 3.0):
        for draws in blocks_of_draws(2, WIDTH):
            run = drive(rule_of(gamma, order), draws, MEASURES[order])
            run.same(slowly(oracle(gamma, order), draws))


@pytest.mark.parametrize("order", MEASURES)
def test_limits(order):
    """gamma = 0: one by one; the sum of all entropies: all at once; between, a larger one commits no less."""
    draws = next(blocks_of_draws(1, WIDTH))
    one_by_one = drive(rule_of(0.0, order), draws, MEASURES[order])
    assert len(one_by_one.masks) == WIDTH
    total = float(entropies(probabilities(draws[0])).sum())
    assert len(drive(rule_of(total, order), draws, MEASURES[order]).masks) == 1
    before = np.zeros(WIDTH, bool)
    for gamma in np.linspace(0, total, 6):
        policy = chain(sample(measure=MEASURES[order]), rule_of(gamma, order))
        commit = np.asarray(apply(policy, draws[0].astype(np.float32), row([True] * WIDTH)).commit)
        assert (before <= commit).all()
        before = commit


def test_columns_that_are_certain_cost_nothing():
    raw = np.full((4, VOCAB), -1e9, np.float32)
    raw[:, 2] = 0
    raw[3] = 0
    for order, measure in MEASURES.items():
        update = apply(chain(sample(measure=measure), rule_of(0.0, order)), raw, row([True] * 4))
        np.testing.assert_array_equal(update.commit, [True] * 4, order)  # the last one's own entropy does not count


@pytest.mark.parametrize("wrong", [{"gamma": -0.1}, {"order": "luck"}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["eb"](**wrong)
