"""Proposals and confidences: known answers, NumPy in float64, and the distributions of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.filters import highest, nucleus
from jaxdlm.rules import guidance, log_prob, margin, neg_entropy, sample, uniform
from jaxdlm.rules.credit import add_credit
from jaxdlm.rules.sample import inverse_cdf
from tests.rules.hand import apply, logits, row

VIEW = row([True] * 4)
RNG = np.random.default_rng(2)
RAW = jnp.asarray(RNG.normal(0, 3, (4, 9)), jnp.float32)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_greedy_takes_the_first_of_the_best():
    update = apply(sample(), jnp.float32([[0, 2, 1], [5, 5, 5], [0, 1, 1], [-1, -2, -3]]), VIEW)
    np.testing.assert_array_equal(update.token, [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("measure", "oracle"),
    [
        (log_prob, lambda p: np.log(p.max(1))),
        (margin, lambda p: np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2]),
        (neg_entropy, lambda p: (p * np.log(p)).sum(1)),
    ],
)
def test_measures_against_float64(measure, oracle):
    np.testing.assert_allclose(
        apply(sample(measure=measure), RAW, VIEW).score, oracle(softmax(RAW)), rtol=2e-6, atol=1e-6
    )


def test_probability_of_any_token_not_only_the_best():
    token = jnp.int32([3, 0, 8, 5])
    expected = np.log(softmax(RAW))[np.arange(4), np.asarray(token)]
    np.testing.assert_allclose(log_prob(RAW, token, VIEW, None), expected, rtol=1e-5)


def test_measures_survive_banned_tokens_and_sure_rows():
    raw = jnp.full((4, 5), -jnp.inf).at[:, 1].set(2.0).at[1:, 3].set(-40.0)
    for measure in (log_prob, margin, neg_entropy):
        assert np.isfinite(apply(sample(measure=measure), raw, VIEW).score).all()
    score = apply(sample(), raw, VIEW).score
    assert score[0] == 0
    np.testing.assert_allclose(score[1], -np.exp(-42.0), rtol=1e-5)


def test_uniform_is_keyed_by_position_not_by_place():
    key = jax.random.key(3)
    a = uniform(RAW, None, VIEW, key)
    moved = VIEW._replace(position=VIEW.position[::-1])
    np.testing.assert_array_equal(uniform(RAW, None, moved, key), a[::-1])
    assert ((a >= 0) & (a < 1)).all()
    assert len(set(a.tolist())) == 4


def test_noise_is_keyed_by_position_not_by_place():
    rule, flat = sample(1.0), jnp.zeros((4, 50))
    a = apply(rule, flat, VIEW).token
    np.testing.assert_array_equal(apply(rule, flat, VIEW._replace(position=VIEW.position[::-1])).token, a[::-1])
    assert (apply(rule, flat, VIEW, key=1).token != a).any()


def test_temperature_as_an_array_of_zero_is_greedy():
    a, b = apply(sample(), RAW, VIEW), apply(sample(jnp.float32(0)), RAW, VIEW)
    np.testing.assert_array_equal(a.token, b.token)
    np.testing.assert_array_equal(a.score, b.score)


TIED = jnp.float32([[3, 7, 7, 1, 7], [-2, -2, -2, -2, -2], [900, 0, -900, 901, 901], [1e30, -3e38, 3e38, 3e38, 0]])
FORMS = {  # all ways that a token is drawn: in tiles, whole, filtered
    "tiled": {}, "tempered": {"tempered": True}, "inverse": {"draw": inverse_cdf}, "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 3, "tempered": True},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1e-30, 9e-9, np.float32(1e-30), np.float32(1e-45), jnp.float32(0)], ids=repr)
def test_a_tiny_temperature_is_greedy_to_the_lowest_of_equals(form, temperature):
    cold = apply(sample(temperature, **FORMS[form]), TIED, VIEW, key=1)
    np.testing.assert_array_equal(cold.token, [1, 0, 3, 2])
    np.testing.assert_array_equal(cold.score, apply(sample(0.0, **FORMS[form]), TIED, VIEW).score)
    assert cold.finite


@pytest.mark.parametrize("form", FORMS)
def test_the_smallest_temperature_that_draws_takes_a_best_token(form):
    """A gap of one is a factor of e^(10^8); equals are drawn from."""
    rule, tied = sample(jnp.float32(1e-8), **FORMS[form]), jnp.tile(TIED[:1], (64, 1))
    token = np.asarray(apply(rule, tied, row([True] * 64)).token)
    assert set(token.tolist()) == {1, 2, 4}


@pytest.mark.parametrize("form", ["tiled", "tempered", "inverse"])
@pytest.mark.parametrize("temperature", [1e30, jnp.float32(3e38), jnp.float32(np.inf)], ids=repr)
def test_a_huge_temperature_is_uniform_over_what_is_not_banned(form, temperature):
    raw = np.full((6000, 4), -np.inf, np.float32)
    raw[:, [0, 2]] = [3e38, -3e38] if temperature == 1e30 else [9, -9]
    update = apply(sample(temperature, **FORMS[form]), raw, row([True] * 6000))
    expected = softmax(np.array([3e38, -3e38]) / 1e30) if temperature == 1e30 else [0.5, 0.5]
    share = np.bincount(update.token, minlength=4) / 6000
    assert share[1] == share[3] == 0
    np.testing.assert_allclose(share[[0, 2]], expected, atol=4 * np.sqrt(0.25 / 6000))
    assert update.finite


@pytest.mark.parametrize("form", FORMS)
def test_what_adds_to_all_logits_changes_no_draw(form):
    """Multiples of 1/64, so that 65536 more of them are exact; noise of their size is not lost beside them."""
    raw, view = np.tile(np.round(np.asarray(RAW)) / 64, (8, 1)), row([True] * 32)
    tokens = [apply(sample(jnp.float32(0.03), **FORMS[form]), raw + np.float32(c), view).token for c in (0, 65536)]
    np.testing.assert_array_equal(*tokens)
    assert (tokens[0] != raw.argmax(1)).any()


@pytest.mark.parametrize("form", [*FORMS, "greedy"])
def test_where_nothing_can_be_proposed_is_said(form):
    """NaN and infinity in any column; nothing but -inf, and a temperature that is no number, where a token is due."""
    rule = sample() if form == "greedy" else sample(jnp.float32(0.7), **FORMS[form])
    closed = row([True, True, True, False])
    assert apply(rule, RAW, VIEW).finite
    for value in (np.nan, np.inf):
        assert not apply(rule, RAW.at[3, 8].set(value), closed).finite
    nothing = RAW.at[3].set(-np.inf)
    assert not apply(rule, nothing, VIEW).finite
    assert apply(rule, nothing, closed).finite
    if form != "greedy":
        assert not apply(sample(jnp.float32(np.nan), **FORMS[form]), RAW, VIEW).finite


def test_a_transform_that_breaks_the_logits_is_seen():
    for dense in (True, False):
        update = apply(chain(add_credit(jnp.float32(np.inf), sparse=not dense), sample()), RAW, VIEW)
        assert not update.finite


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_softmax_of_the_tempered_logits(temperature):
    """One row of four tokens in 8000 columns: every share within four standard deviations."""
    raw, n = np.array([1.0, 0.0, -1.0, 0.5]), 8000
    token = apply(sample(temperature), jnp.asarray(np.tile(raw, (n, 1)), jnp.float32), row([True] * n)).token
    share, p = np.bincount(token, minlength=4) / n, softmax(raw / temperature)
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


@pytest.mark.slow
def test_nucleus_keeps_the_token_that_crosses():
    raw = jnp.asarray(np.log([[0.4, 0.3, 0.2, 0.1]] * 3), jnp.float32)
    kept = [np.isfinite(nucleus(raw, p))[0].tolist() for p in (0.0, 0.39, 0.41, 0.75, 1.0)]
    assert kept == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.slow
@pytest.mark.parametrize(("k", "kept"), [(1, 1), (3, 3), (9, 9), (20, 9), (0, 9)])
def test_top_k_keeps_k(k, kept):
    assert (np.isfinite(highest(RAW, k)).sum(1) == kept).all()


@pytest.mark.slow
def test_filtered_tokens_are_never_drawn():
    for key in range(5):
        token = np.asarray(apply(sample(3.0, top_k=2), RAW, VIEW, key=key).token)
        assert all(t in np.argsort(-RAW[i])[:2] for i, t in enumerate(token))


@pytest.mark.slow
def test_tempered_scores_read_the_filtered_distribution():
    plain = apply(sample(2.0, top_k=1), RAW, VIEW).score
    tempered = apply(sample(2.0, top_k=1, tempered=True), RAW, VIEW).score
    np.testing.assert_array_equal(tempered, np.zeros(4))
    np.testing.assert_allclose(plain, np.log(softmax(RAW).max(1)), rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1.1e30},
        {"temperature": None},
        {"top_p": 1.1},
        {"top_p": -1},
        {"top_k": -1},
        {"top_k": 1.5},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))}=.*must be"):
        sample(**arguments)


def test_hand_made_confidences_come_back():
    confidence = [0.9, 0.3, 0.5, 0.99]
    score = apply(chain(sample()), logits(confidence), VIEW).score
    np.testing.assert_allclose(np.exp(score), confidence, rtol=1e-5)


def test_a_chain_asks_for_unconditional_logits_where_a_member_does():
    assert chain(guidance(1.0), sample()).traits.uncond
    assert not chain(sample()).traits.uncond
