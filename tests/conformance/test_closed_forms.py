"""Policies on the exact denoiser reach what an ideal model reaches (arXiv 2510.04767 and the laws derived from it)."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from jaxdlm import Stage, chain, decode, struct
from jaxdlm._load import LM
from jaxdlm.core.keys import column_gumbel
from jaxdlm.eval import closed_forms
from jaxdlm.models.denoiser import table_denoiser
from jaxdlm.rules import sample, select_above, select_top_k, uniform

N, ROWS, NEW = 4, 2000, 20
ITEMS = np.arange(2, 2 + N)
PERMUTATIONS = np.array(list(itertools.permutations(ITEMS)))
REPLACED = np.array([[NEW if i == j else item for i, item in enumerate(ITEMS)] for j in range(N)])
ROTATIONS = np.array([np.roll(ITEMS, r) for r in range(N)])
COINS = np.array(list(itertools.product((2, 3), repeat=N)))
ALIKE = COINS.min(1) == COINS.max(1)


@struct.dataclass
class Jitter(Stage):
    """Breaks exact ties at random, as the closed forms assume."""

    scale: Any = 1e-4

    def apply(self, update, state, row, key):
        noise = column_gumbel(jax.random.fold_in(key, 9), row.position, update.logits.shape[1])
        return update._replace(logits=update.logits + self.scale * noise), state


def run(answers, *rules, weights=None):
    """(rate of decodes that are one of the answers, forwards of each row, tokens) on rows that differ by id only."""
    model, params = table_denoiser(answers, weights, vocab_size=32, mask=31, start=1)
    out = decode(LM(model, params, None, "exact"), [[1]] * ROWS, chain(*rules), max_new=N, block=N, seed=7)
    right = (out.tokens[:, None] == np.asarray(answers)[None]).all(2).any(1)
    return right.mean(), out.forwards, out.tokens


def near(rate: float, expected: float) -> bool:
    """Within three standard deviations of a binomial over the rows; certainty is exact."""
    return abs(rate - expected) <= 3 * np.sqrt(expected * (1 - expected) / ROWS) + 1e-12


def at_once(temperature):
    return (sample(temperature), select_above(0.0)) if temperature else (Jitter(), sample(), select_above(0.0))


def by(k):
    return Jitter(), sample(), select_top_k(N // k)


def above(tau):
    return Jitter(), sample(), select_above(tau)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
def test_one_answer_comes_at_once(temperature):
    """copy, reverse, sort, sudoku: every distribution is 1, in one forward."""
    rate, forwards, _ = run(ITEMS[None], *at_once(temperature))
    assert rate == 1
    assert (forwards == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
def test_shuffle_at_once(temperature):
    rate, forwards, _ = run(PERMUTATIONS, *at_once(temperature))
    assert near(rate, closed_forms.shuffle_all_at_once(N))
    assert (forwards == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_shuffle_k_per_step(k):
    rate, forwards, _ = run(PERMUTATIONS, *by(k))
    assert near(rate, closed_forms.shuffle_top_k(N, k))
    assert (forwards == N // k).all()


def test_shuffle_by_threshold_never_fails_and_goes_one_by_one():
    rate, forwards, _ = run(PERMUTATIONS, *above(0.6))
    assert rate == 1
    # with one item left before the last column, it is certain: the last two forwards cannot merge
    assert (forwards == N).all()


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_replace_random_k_per_step(k):
    rate, _, _ = run(REPLACED, *by(k))
    assert near(rate, closed_forms.replace_random_top_k(N, k))


@pytest.mark.slow
@pytest.mark.parametrize(("tau", "expected"), [(0.6, 0.0), (0.9, 1.0)])
def test_replace_random_by_threshold(tau, expected):
    """Each old item has (n - 1) / n = 0.75: below it every column keeps its item and nothing is replaced."""
    assert run(REPLACED, *above(tau))[0] == expected


@pytest.mark.slow
def test_replace_random_at_once():
    assert near(run(REPLACED, *at_once(1))[0], closed_forms.replace_random_all_at_once(N))
    assert run(REPLACED, *at_once(0))[0] == 0


@pytest.mark.parametrize("k", [1, 2, 4])
def test_rotate_any_k_per_step(k):
    assert near(run(ROTATIONS, *by(k))[0], closed_forms.rotate_any_top_k(N, k))


@pytest.mark.parametrize("tau", [0.3, 0.6, 0.99])
def test_rotate_any_by_threshold_is_right_in_two_steps(tau):
    rate, forwards, _ = run(ROTATIONS, *above(tau))
    assert rate == 1
    assert (forwards == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_couple_at_once_forgets_the_coupling(rho):
    weights = closed_distribution(rho)
    kept = weights > 0
    _, _, tokens = run(COINS[kept], *at_once(1), weights=weights[kept])
    assert near((tokens.min(1) == tokens.max(1)).mean(), 2.0 ** (1 - N))


@pytest.mark.slow
def test_couple_one_by_one_samples_the_distribution():
    """In random order: an order by confidence prefers likely draws, and the distribution is lost."""
    _, forwards, tokens = run(COINS, sample(1.0, measure=uniform), select_top_k(), weights=closed_distribution(0.5))
    assert near((tokens.min(1) == tokens.max(1)).mean(), closed_forms.couple_alike(N, 0.5))
    assert (forwards == N).all()


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 4])
def test_coupled_coins_k_per_step(k):
    assert near(run(COINS[ALIKE], *by(k))[0], closed_forms.couple_top_k(k))


@pytest.mark.slow
def test_coupled_coins_by_threshold_take_two_steps():
    rate, forwards, _ = run(COINS[ALIKE], *above(0.6))
    assert rate == 1
    assert (forwards == 2).all()


def closed_distribution(rho: float) -> np.ndarray:
    """Probability of each of the 2^n answers: alike with probability rho, else independent."""
    return np.where(ALIKE, rho / 2, 0.0) + (1 - rho) * 2.0**-N
