"""Fast-dLLM's two selections: known answers, limits, and the published loops in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import sample, select_above, select_within_factor
from tests.rules.hand import apply, logits, row, scored

OPEN = [True] * 4


def apply_both(rule, confidence, can) -> Update:
    return apply(chain(sample(), rule), logits(confidence), row(can))


def test_threshold_takes_the_sure_columns():
    update = apply_both(select_above(0.9), [0.95, 0.5, 0.91, 0.89], OPEN)
    np.testing.assert_array_equal(update.commit, [True, False, True, False])
    np.testing.assert_array_equal(update.token, [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("can", "expected"),
    [
        ([True] * 4, [False, False, True, False]),  # nobody is sure: the surest
        ([True, True, False, True], [False, True, False, False]),  # the surest is written already
        ([False, False, False, True], [False, False, False, True]),
        ([False] * 4, [False] * 4),
    ],
)
@pytest.mark.parametrize("rule", [select_above(0.9), select_within_factor(0.1)])
def test_always_one_of_the_open_columns(rule, can, expected):
    np.testing.assert_array_equal(apply_both(rule, [0.5, 0.6, 0.7, 0.3], can).commit, expected)


def test_a_probability_equal_to_tau_counts():
    score = np.log([0.5, 0.25, 0.75])
    commit, _ = scored(select_above(float(np.exp(np.float32(np.log(0.5))))), score, row([True] * 3))
    np.testing.assert_array_equal(commit, [True, False, True])


def test_ties_go_to_the_first_column():
    for rule in (select_above(0.9), select_within_factor(0.5)):
        np.testing.assert_array_equal(scored(rule, np.log([0.6] * 4), row(OPEN))[0], [True, False, False, False])


def test_limits():
    score = np.log([0.999, 0.2, 0.9, 0.1])
    np.testing.assert_array_equal(scored(select_above(0.0), score, row(OPEN))[0], OPEN)
    np.testing.assert_array_equal(scored(select_above(1.0), score, row(OPEN))[0], [True, False, False, False])
    np.testing.assert_array_equal(scored(select_within_factor(0.0), score, row(OPEN))[0], [True, False, False, False])
    np.testing.assert_array_equal(scored(select_within_factor(1e9), score, row(OPEN))[0], OPEN)


def test_factor_with_equal_confidences():
    """(n + 1)(1 - p) < 1 with p = 0.8: n + 1 < 5, so three; with p = 0.99, all four."""
    np.testing.assert_array_equal(
        scored(select_within_factor(1.0), np.log([0.79] * 4), row(OPEN))[0], [True, True, True, False]
    )
    np.testing.assert_array_equal(scored(select_within_factor(1.0), np.log([0.99] * 4), row(OPEN))[0], OPEN)


def test_sure_columns_keep_their_order_beyond_float32_probabilities():
    """1 - 1e-9 and 1 - 1e-12 are both 1.0 in float32; their logarithms are not."""
    commit, _ = scored(select_within_factor(0.0), [-1e-9, -1e-12, -1e-10], row([True] * 3))
    np.testing.assert_array_equal(commit, [False, True, False])


def paper_factor(p, can, f):
    order = sorted((i for i in range(len(p)) if can[i]), key=lambda i: (-p[i], i))
    count = 0
    while count < len(order) and (count + 2) * (1 - p[order[count]]) < f:
        count += 1
    return {*order[: max(count, 1)]}


def released_factor(p, can, f):
    """The released loop: thresholds 1 - f / (n + 1), the first is -1; an index off by one takes the last along."""
    order = sorted((i for i in range(len(p)) if can[i]), key=lambda i: (-p[i], i))
    if not order:
        return set()
    limits = [1 - f / (n + 1) for n in range(1, len(order) + 1)]
    limits[0] = -1
    for top in range(len(limits)):
        if p[order[top]] < limits[top]:
            break
    if top == 0 or top == len(limits) - 1:
        top += 1
    return {*order[:top]}


def published_threshold(p, can, tau):
    places = [i for i in range(len(p)) if can[i]]
    sure = {i for i in places if p[i] >= tau}
    return sure | ({max(places, key=lambda i: (p[i], -i))} if places else set())


@pytest.mark.parametrize(
    ("make", "oracle", "values"),
    [
        (select_above, published_threshold, (0.3, 0.5, 0.9)),
        (select_within_factor, paper_factor, (0.5, 1.0, 1.7)),
        (lambda f: select_within_factor(f, official=True), released_factor, (0.5, 1.0, 2.0)),
    ],
    ids=["threshold", "factor", "factor-official"],
)
def test_random_rows_against_the_published_loop(make, oracle, values):
    rng = np.random.default_rng(1)
    for trial in range(60):
        p = rng.beta(4, 1, 7)
        can = rng.random(7) < rng.choice([0.2, 0.7, 1.0])
        value = values[trial % len(values)]
        commit, _ = scored(make(value), np.log(p), row(can))
        assert set(np.flatnonzero(commit)) == oracle(p, can, value), (p, can, value)


def test_bad_arguments_and_missing_fields():
    with pytest.raises(InputError, match=r"tau=-0\.1"):
        select_above(-0.1)
    with pytest.raises(InputError, match=r"tau=1\.8: must be a number from 0 to 1"):
        select_above(1.8)  # no probability gets there
    with pytest.raises(InputError, match="factor=-1"):
        select_within_factor(-1)
    for rule in (select_above(), select_within_factor()):
        with pytest.raises(InputError, match=r"sample\(\.\.\.\) before it"):
            rule.apply(Update(jnp.zeros((4, 5))), (), row(OPEN), None)
