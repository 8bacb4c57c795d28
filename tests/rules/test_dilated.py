"""DUS: its rounds by hand and from the paper's definition, and what follows from them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, policies
from jaxdlm.rules import select_dilated
from tests.rules.drive import blocks_of_draws, drive, slowly
from tests.rules.hand import row, scored


def published(columns, base):
    """Groups of the paper's rounds: those of the stride of round t that no round before has taken."""
    count = max(1, next(r for r in range(64) if base**r >= columns))  # ceil(log K), without rounding
    groups, taken = [], set()
    for t in range(1, count + 1):
        stride = max(1, math.floor(columns / base**t))
        groups.append([k for k in range(columns) if k % stride == 0 and k not in taken])
        taken |= set(groups[-1])
    return [group for group in groups if group]


def test_eight_columns_by_hand():
    assert published(8, 2) == [[0, 4], [2, 6], [1, 3, 5, 7]]
    run = drive(select_dilated(), next(blocks_of_draws(1, 8)))
    assert run.when.tolist() == [0, 2, 1, 2, 0, 2, 1, 2]


@pytest.mark.parametrize("base", [2, 3, 4, 8, 40])
@pytest.mark.parametrize("columns", [1, 2, 7, 8, 12, 32])
def test_the_rounds_are_those_of_the_paper(columns, base):
    groups = published(columns, base)
    assert sorted(k for group in groups for k in group) == list(range(columns))
    run = drive(select_dilated(jnp.int32(base)), next(blocks_of_draws(1, columns)))
    assert [np.flatnonzero(run.when == t).tolist() for t in range(len(run.masks))] == groups
    if base == 2 and columns in (8, 32):
        assert all(min(np.diff(group)) > 1 for group in groups[:-1]), "neighbours in an early round"
        assert [len(group) for group in groups] == [2, *(2**t for t in range(1, len(groups)))]
    if base >= columns:
        assert len(groups) == 1


def oracle(columns, base, theta):
    groups = published(columns, base)

    def step(p, token, left, tokens, tick):
        due = {k for group in groups[: tick + 1] for k in group}
        return [i for i in left if i in due and (p[i].max() >= theta or tick == len(groups) - 1)], [], False

    return step


@pytest.mark.parametrize("theta", [0.5, 0.8, 1.0])
def test_what_is_not_sure_waits_for_the_next_round(theta):
    for draws in blocks_of_draws(5, 12):
        run = drive(select_dilated(jnp.int32(2), jnp.float32(theta)), draws)
        run.same(slowly(oracle(12, 2, theta), draws))


def test_rounds_with_nothing_open_cost_no_forward_and_columns_count_from_the_block():
    rule, score = select_dilated(), np.log(np.full(8, 0.5))
    view = row([False, True, False, False, False, True, False, False])
    np.testing.assert_array_equal(np.flatnonzero(scored(rule, score, view)[0]), [1, 5])
    inside = np.arange(8) >= 4
    view = row(inside)._replace(active=inside)
    np.testing.assert_array_equal(np.flatnonzero(scored(rule, score, view)[0]), [4, 6])


@pytest.mark.parametrize("wrong", [{"base": 1}, {"base": 2.5}, {"theta": -0.1}, {"theta": 1.5}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["dus"](**wrong)
