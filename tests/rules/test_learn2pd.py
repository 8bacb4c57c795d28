"""The learned filter by hand, and where the canvas is cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.core.carry import Update
from jaxdlm.rules import select_above
from jaxdlm.rules.learn2pd import end_at_text, select_by_filter
from tests.rules.hand import IDS, row, scored

K = 6
END = IDS.eos[0]


def weights(seed: int = 0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in ((K, K), (K,), (K, K), (K,))]


def test_slow_oracle():
    for seed in range(5):
        w1, b1, w2, b2 = weights(seed)
        generator = np.random.default_rng(seed + 10)
        c, can = generator.uniform(0.1, 1, K), generator.random(K) < 0.7
        can[2] = True
        exists = np.arange(K) < 5
        seen = np.where(exists, c, 0)
        yes = 1 / (1 + np.exp(-(w2 @ np.maximum(w1 @ seen + b1, 0) + b2))) > 0.6
        expected = (can & exists) & yes
        expected[np.argmax(np.where(can & exists, c, 0))] = True
        view = row(can & exists, exists=exists)
        np.testing.assert_array_equal(scored(select_by_filter(weights(seed), 0.6), np.log(c), view)[0], expected)


def test_limits():
    can, score = [True, True, False, True, True, True], np.log([0.5, 0.9, 0.99, 0.2, 0.3, 0.4])
    one = scored(select_above(1.0), score, row(can))[0]
    np.testing.assert_array_equal(scored(select_by_filter(weights(), 1.0), score, row(can))[0], one)
    zero = [np.zeros((K, K)), np.zeros(K), np.zeros((K, K)), np.zeros(K)]  # sigmoid(0) = 1/2 everywhere
    np.testing.assert_array_equal(scored(select_by_filter(zero, 0.5), score, row(can))[0], one)
    np.testing.assert_array_equal(scored(select_by_filter(zero, 0.49), score, row(can))[0], can)


def test_written_columns_are_heard():
    w1, w2 = np.zeros((K, K)), np.eye(K)
    w1[0, 5] = 10.0
    rule, can = select_by_filter([w1, np.zeros(K), w2, np.full(K, -5.0)], 0.6), [True] * 5 + [False]
    for c, expected in ((0.9, True), (0.1, False)):
        assert scored(rule, np.log([0.2, 0.3, 0.2, 0.2, 0.2, c]), row(can))[0][0] == expected


def cut(rule, token, score, commit, view) -> int:
    update = Update(
        jnp.zeros((K, 8)), token=jnp.asarray(token, jnp.int32), score=jnp.asarray(score, jnp.float32),
        commit=jnp.asarray(commit, bool),
    )  # fmt: skip
    return int(rule.apply(update, (), view, None)[0].cut)


def test_where_the_canvas_is_cut():
    can = [False, True, True, True, True, True]
    token, score = [1, 2, END, 2, END, END], np.log([0.9, 0.3, 0.2, 0.2, 0.8, 0.5])
    none, second = [False] * K, [False, True, True, False, False, False]
    fourth = [False, False, False, False, False, True]
    assert cut(end_at_text(), token, score, none, row(can)) == K + 1
    assert cut(end_at_text(), token, score, fourth, row(can)) == K + 1  # columns before it are open
    assert cut(end_at_text(), token, score, second, row(can)) == 3
    fast = end_at_text(aggressive=True)
    assert cut(fast, token, score, second, row(can)) == 3
    assert cut(fast, token, score, fourth, row(can)) == 6
    assert cut(fast, token, score, none, row(can)) == 5  # the surest guess
    assert cut(fast, [2] * K, score, none, row(can)) == K + 1


def test_a_given_end_of_text_does_not_cut():
    view = row([False] + [True] * 5, tokens=[END] + [IDS.mask] * 5, prefilled=[True] + [False] * 5)
    assert cut(end_at_text(), [2] * K, np.zeros(K), [False] * K, view) == K + 1


def test_bad_arguments():
    with pytest.raises(InputError, match="tau"):
        select_by_filter(weights(), -1)
    with pytest.raises(InputError, match="four"):
        select_by_filter(weights()[:3])
    with pytest.raises(InputError, match="shapes"):
        select_by_filter([np.zeros((K, 2)), *weights()[1:]])
    with pytest.raises(InputError, match="block=6"):
        select_by_filter(weights())
        scored(select_by_filter([np.zeros((4, 4)), np.zeros(4)] * 2), np.zeros(K), row([True] * K))
