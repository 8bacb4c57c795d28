"""Closed forms against brute force over all outcomes, and against the figures of the paper."""

import itertools
import math

import numpy as np
import pytest

from jaxdlm.eval import closed_forms as cf

SIZES = (3, 4, 5, 6)


def outcomes(task, n):
    """All equally likely answers of a list task over items 0..n-1, the new item being n."""
    items = list(range(n))
    return np.array(
        {
            "shuffle": lambda: list(itertools.permutations(items)),
            "rotate_any": lambda: [items[r:] + items[:r] for r in range(n)],
            "replace_random": lambda: [items[:i] + [n] + items[i + 1 :] for i in range(n)],
            "insert_random": lambda: [items[:i] + [n] + items[i:] for i in range(n + 1)],
            "remove_random": lambda: [items[:i] + items[i + 1 :] for i in range(n)],
        }[task]()
    )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("task", ["shuffle", "rotate_any", "replace_random", "insert_random", "remove_random"])
def test_total_correlation_and_parallel_sampling(task, n):
    table = outcomes(task, n)
    assert getattr(cf, task)(n) == pytest.approx(cf.total_correlation(table))
    formula = cf.rotate_any_top_k(n, n) if task == "rotate_any" else getattr(cf, f"{task}_all_at_once")(n)
    assert formula == pytest.approx(cf.all_at_once(table))


@pytest.mark.parametrize(("n", "g"), [(4, 2), (6, 2), (6, 3), (4, 1), (4, 4)])
def test_groups(n, g):
    group = list(itertools.permutations(range(g)))
    table = np.array(
        [np.ravel([np.array(p) + i * g for i, p in enumerate(c)]) for c in itertools.product(group, repeat=n // g)]
    )
    assert cf.gshuffle(n, g) == pytest.approx(cf.total_correlation(table))
    assert cf.gshuffle_all_at_once(n, g) == pytest.approx(cf.all_at_once(table))
    assert cf.gshuffle(n, n) == pytest.approx(cf.shuffle(n))


@pytest.mark.parametrize("n", (2, 4, 6))
@pytest.mark.parametrize("rho", (0.0, 0.25, 0.5, 1.0))
def test_couple(n, rho):
    table = np.array(list(itertools.product((0, 1), repeat=n)))
    alike = table.min(1) == table.max(1)
    weights = (1 - rho) * 2.0**-n + rho / 2 * alike
    assert cf.couple(n, rho) == pytest.approx(cf.total_correlation(table, weights))
    assert cf.couple_alike(n, rho) == pytest.approx(weights[alike].sum())
    assert all(column == pytest.approx({0: 0.5, 1: 0.5}) for column in cf.marginals(table, weights))


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (6, 2), (6, 4), (6, 6)])
def test_shuffle_in_steps_of_k(n, k):
    """Each step draws k of the left items independently: count the draws without a repeat."""

    def right(left):
        size = min(k, left)
        if not size:
            return 1.0
        distinct = sum(len(set(draw)) == size for draw in itertools.product(range(left), repeat=size))
        return distinct / left**size * right(left - size)

    assert cf.shuffle_top_k(n, k) == pytest.approx(right(n))


def test_figures_of_the_table():
    assert cf.shuffle_top_k(6, 2) == pytest.approx(0.3125)
    assert cf.insert_random(6) == pytest.approx(4.88, abs=0.005)
    assert cf.insert_random_all_at_once(6) == pytest.approx(0.056, abs=5e-4)
    assert cf.remove_random(6) == pytest.approx(1.55, abs=0.005)
    assert cf.remove_random_all_at_once(6) == pytest.approx(0.494, abs=5e-4)
    assert cf.couple(6, 0.5) == pytest.approx(1.60, abs=0.005) and cf.couple(6, 1.0) == pytest.approx(5.0)
    assert cf.replace_random(10**6) == pytest.approx(math.log2(math.e), abs=1e-5)
    assert cf.couple_alike(4, 0.5) == pytest.approx(0.5625)


def test_latin_squares():
    from jaxdlm.eval.tasks.puzzles import latin_squares

    table = np.array(latin_squares()).reshape(-1, 16)
    assert len(table) == 576
    assert cf.latin_square() == pytest.approx(cf.total_correlation(table))
    assert cf.latin_square() == pytest.approx(22.83, abs=0.005)
