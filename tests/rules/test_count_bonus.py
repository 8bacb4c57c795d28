"""The bonus of tokens that are due: by hand, a slow oracle, and what is no weight and no count."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import count_bonus, sample, select_above
from tests.rules.hand import apply, call, row

RNG = np.random.default_rng(4)
RAW = RNG.normal(0, 2, (4, 6)).astype(np.float32)


def test_what_is_due_gains_and_what_is_there_often_enough_does_not():
    counts = np.array([0, 1, 2, 0.25, 1, 0], np.float32)
    view = row([True, False, False, True], tokens=[7, 2, 5, 7])
    bent = np.asarray(apply(count_bonus(2.0, counts), RAW, view).logits) - RAW
    due = [0, 2, 2, 0.5, 2, -2]  # 2 is due once more, 5 is there and was never expected
    np.testing.assert_allclose(bent, [due, [0] * 6, [0] * 6, due], atol=1e-5)


def oracle(raws, pending, tokens, weight):
    """From the definition, in float64: counts of the block at its first forward, the written ones at each."""
    expected, out = None, []
    for raw, open_, text in zip(raws, pending, tokens, strict=True):
        own = np.array(
            [sum(t == v for t, o in zip(text, open_, strict=True) if not o) for v in range(raw.shape[1])], float
        )
        if expected is None:
            p = np.exp(raw.astype(float))
            expected = own + (p / p.sum(1, keepdims=True))[np.array(open_)].sum(0)
        out.append(raw + weight * np.clip(expected - own, -1, 1) * np.array(open_)[:, None])
    return out


def test_the_models_own_counts_against_the_oracle():
    raws = RNG.normal(0, 2, (3, 4, 6)).astype(np.float32)
    pending = [[True, True, False, True], [True, False, False, True], [False, False, False, True]]
    tokens = [[7, 7, 3, 7], [7, 1, 3, 7], [3, 1, 3, 7]]
    rule, wanted = count_bonus(1.5), oracle(raws, pending, tokens, 1.5)
    state = rule.init(4, 6)
    for tick in range(3):
        update, state = call(rule, Update(raws[tick]), state, row(pending[tick], tokens=tokens[tick], tick=tick))
        np.testing.assert_allclose(update.logits, wanted[tick], rtol=1e-5, atol=1e-5)


def test_a_weight_of_0_changes_nothing_and_a_name_is_not_written_twice():
    view = row([True, True], tick=0)
    np.testing.assert_array_equal(apply(count_bonus(0.0), RAW[:2], view).logits, RAW[:2])
    raw = np.log([[0.01, 0.5, 0.49], [0.01, 0.5, 0.49]]).astype(np.float32)
    rule = chain(count_bonus(1.0), sample(), select_above(0.9))
    update, state = call(rule, Update(raw), rule.init(2, 3), view)
    first = int(np.asarray(update.token)[0])
    update, _ = call(rule, Update(raw), state, row([False, True], tokens=[first, 7], tick=1))
    assert first == 1 and int(np.asarray(update.token)[1]) == 2


@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.ones((2, 2)), "counts", np.array(["a"])], ids=repr)
def test_counts_are_an_array(wrong):
    with pytest.raises(InputError, match=r"counts=.*must be an array with one number per id"):
        count_bonus(1.0, wrong)


def test_a_weight_is_a_number_from_0_on():
    for wrong in (-1, "2", np.nan):
        with pytest.raises(InputError, match="weight="):
            count_bonus(wrong)
    assert count_bonus(jnp.float32(2)).weight == 2
