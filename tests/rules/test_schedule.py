"""LLaDA's split and Dream's grid: counts per forward against the published loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.core.carry import Update
from jaxdlm.rules import select_on_grid, select_top_k
from tests.rules.hand import row, scored


def counts(rule, masks: int, blocks: int = 1, limit: int = 600) -> list[int]:
    """Commits per forward until one block of `masks` columns is written."""
    can, state, seen = np.ones(masks, bool), None, []
    for tick in range(limit):
        if not can.any():
            return seen
        commit, state = scored(rule, np.zeros(masks), row(can, tick=tick, blocks=blocks), state)
        assert not (commit & ~can).any()
        seen.append(int(commit.sum()))
        can &= ~commit
    raise AssertionError("does not end")


def llada(masks: int, steps: int) -> list[int]:
    base, remainder = divmod(masks, steps)
    return [base + (i < remainder) for i in range(steps)]


def dream(masks: int, steps: int, eps: float = 1e-3) -> list[int]:
    t = np.linspace(1, eps, steps + 1, dtype=np.float32)
    left, seen = masks, []
    for i in range(steps):
        k = int(np.float32(left) * (np.float32(1) - t[i + 1] / t[i])) if i < steps - 1 else left
        seen.append(k)
        left -= k
    return seen


@pytest.mark.parametrize(("masks", "steps"), [(8, 8), (8, 3), (32, 16), (7, 4), (5, 1), (32, 30)])
def test_llada_split_with_its_remainder_first(masks, steps):
    assert counts(select_top_k(steps), masks) == llada(masks, steps)


@pytest.mark.slow
def test_llada_steps_are_shared_by_blocks_and_default_to_one_column_each():
    assert counts(select_top_k(12), 8, blocks=3) == llada(8, 4)
    assert counts(select_top_k(), 6) == [1] * 6
    assert counts(select_top_k(99), 4) == [1] * 4, "more steps than masks: no empty forwards"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("masks", "steps", "expected"),
    [
        (64, 64, [0, *[1] * 62, 2]),
        (256, 256, [0, *[1] * 254, 2]),
        (256, 128, [1, *[2] * 126, 3]),
    ],
)
def test_dream_grid_as_released(masks, steps, expected):
    assert counts(select_on_grid(steps), masks) == expected == dream(masks, steps)


@pytest.mark.parametrize(("masks", "steps"), [(32, 16), (32, 32), (10, 3), (5, 1), (12, 12)])
def test_dream_grid_against_its_loop(masks, steps):
    assert counts(select_on_grid(steps), masks) == dream(masks, steps)


def test_the_best_columns_go_first_and_only_open_ones():
    score = [0.5, 0.1, 0.9, 0.7]
    commit, masks = scored(select_top_k(2), score, row([True, True, False, True]))
    assert int(masks) == 3
    np.testing.assert_array_equal(commit, [True, False, False, True])
    commit, _ = scored(select_top_k(2), score, row([True, True, False, False], tick=1), masks)
    np.testing.assert_array_equal(commit, [True, False, False, False])


@pytest.mark.slow
def test_nothing_open_commits_nothing():
    for rule in (
        select_top_k(2),
        select_on_grid(2),
        select_on_grid(2, bernoulli=True),
        select_on_grid(2, alg_temp=0.5),
    ):
        assert not scored(rule, [0.0] * 4, row([False] * 4))[0].any()


@pytest.mark.slow
def test_alg_temp_zero_is_the_ranking_and_a_high_one_is_not():
    score = np.arange(8, dtype=np.float32)
    ranked, _ = scored(select_on_grid(2), score, row([True] * 8))
    cold, _ = scored(select_on_grid(2, alg_temp=jnp.float32(0)), score, row([True] * 8))
    np.testing.assert_array_equal(ranked, cold)
    hot = [scored(select_on_grid(2, alg_temp=100.0), score, row([True] * 8), key=key)[0] for key in range(8)]
    assert all(int(commit.sum()) == int(ranked.sum()) for commit in hot), "the number is the grid's"
    assert any((commit != ranked).any() for commit in hot)


@pytest.mark.slow
def test_alg_temp_from_as_good_as_zero_to_uniform():
    """Sure scores that differ in their last bits keep their order; whatever is added to all of them does not matter."""
    score = -np.arange(8, dtype=np.float32) / 2**20
    ranked, _ = scored(select_on_grid(3), score, row([True] * 8))
    for cold in (1e-30, np.float32(1e-30), np.float32(1e-8)):
        np.testing.assert_array_equal(scored(select_on_grid(3, alg_temp=cold), score, row([True] * 8))[0], ranked)
    rule = select_on_grid(2, eps=0.0, alg_temp=jnp.float32(np.inf))
    drawn = np.array([scored(rule, [0, -1e9, 0, -1e9], row([True] * 4), key=key)[0] for key in range(200)])
    assert (np.abs(drawn.mean(0) - 0.5) < 4 * np.sqrt(0.25 / 200)).all()
    tepid = select_on_grid(2, alg_temp=np.float32(1e-3))
    near = np.arange(8, dtype=np.float32) / 1024
    moved = [scored(tepid, near + shift, row([True] * 8))[0] for shift in (0, 4096)]
    np.testing.assert_array_equal(*moved)


@pytest.mark.slow
def test_alg_temp_draws_by_the_softmax_of_the_scores():
    """One of two columns, scores log 3 apart, temperature 1: the better one three times in four (3 sigma of 800)."""
    rule, view = select_on_grid(2, eps=0.0, alg_temp=1.0), row([True, True])
    update = Update(jnp.zeros((2, 5)), token=jnp.zeros(2, jnp.int32), score=jnp.log(jnp.float32([3, 1])))
    keys = jax.random.split(jax.random.key(0), 800)
    drawn = np.asarray(jax.vmap(lambda key: rule.apply(update, jnp.int32(0), view, key)[0].commit)(keys))
    assert (drawn.sum(1) == 1).all()
    assert abs(drawn[:, 0].mean() - 0.75) < 3 * np.sqrt(0.75 * 0.25 / 800)


def test_origin_commits_with_the_grids_probability():
    """S = 2: half of 4000 columns in the first forward, within three standard deviations; the rest in the second."""
    first, masks = scored(select_on_grid(2, bernoulli=True), np.zeros(4000), row([True] * 4000))
    share = 1 - (1 + (1e-3 - 1) / 2)
    assert abs(first.mean() - share) < 3 * np.sqrt(share * (1 - share) / 4000)
    second, _ = scored(select_on_grid(2, bernoulli=True), np.zeros(4000), row(~first, tick=1), masks)
    np.testing.assert_array_equal(second, ~first)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: select_top_k(0), "steps=0"),
        (lambda: select_top_k(1.5), "whole number"),
        (lambda: select_on_grid(0), "steps=0"),
        (lambda: select_on_grid(4, eps=2), "eps=2"),
        (lambda: select_on_grid(4, alg_temp=-1), "alg_temp=-1"),
        (lambda: select_on_grid(4, alg_temp=1e31), "alg_temp=1e[+]31: must be a number from 0 to 1e[+]30"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(InputError, match=text):
        make()
