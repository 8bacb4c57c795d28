"""The Monte-Carlo bound of masked models: strata, unbiasedness against enumeration, independence of batch and order."""

import itertools

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm._load import LM
from jaxdlm.eval import likelihood
from jaxdlm.eval.likelihood import Pair
from jaxdlm.models.denoiser import table_denoiser

ANSWERS = np.array([[3, 4, 5], [4, 3, 5], [5, 4, 3], [3, 5, 4]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def exact():
    model, params = table_denoiser(ANSWERS, WEIGHTS, vocab_size=16, mask=15, start=1)
    return LM(model, params, None, "exact")


def enumerated(answer):
    """-E_l[(N / l) Σ CE] over every l and every set of l hidden columns."""
    n, total = len(answer), 0.0
    for size in range(1, n + 1):
        sets = list(itertools.combinations(range(n), size))
        for hidden in sets:
            agree = np.all([(ANSWERS[:, j] == answer[j]) | (j in hidden) for j in range(n)], axis=0)
            p = WEIGHTS * agree / (WEIGHTS * agree).sum()
            loss = -sum(np.log(p[ANSWERS[:, j] == answer[j]].sum()) for j in hidden)
            total += n / size * loss / len(sets) / n
    return -total


def test_the_mean_is_the_enumerated_bound(exact):
    (found,) = likelihood.score(exact, [Pair((1,), (3, 4, 5))], draws=4096, batch=512)
    assert 0 < found.se < 0.05
    assert abs(found.value - enumerated((3, 4, 5))) < 3 * found.se
    assert enumerated((3, 4, 5)) == pytest.approx(np.log(0.4)), "the bound is tight for exact conditionals"


def test_one_token_is_exact():
    model, params = table_denoiser(np.array([[3], [4]]), np.array([0.8, 0.2]), vocab_size=16, mask=15, start=1)
    (found,) = likelihood.score(LM(model, params, None, "exact"), [Pair((1,), (3,))])
    assert found.value == pytest.approx(np.log(0.8), rel=1e-5)
    assert found.se == 0


def test_value_depends_on_the_pair_alone(exact):
    pairs = [Pair((1,), tuple(answer)) for answer in ANSWERS.tolist()]
    together = likelihood.score(exact, pairs, draws=32, batch=16)
    backwards = likelihood.score(exact, pairs[::-1], draws=32, batch=5)[::-1]
    alone = likelihood.score(exact, pairs[2:3], draws=32, batch=64)
    assert [x.value for x in together] == pytest.approx([x.value for x in backwards], rel=1e-6)
    assert together[2].value == pytest.approx(alone[0].value, rel=1e-6)
    assert likelihood.score(exact, pairs[:1], draws=32, seed=1)[0].value != together[0].value


@pytest.mark.parametrize("length, draws", [(10, 4), (7, 16), (3, 16), (5, 1)])
def test_counts_are_spread_over_the_strata(length, draws):
    """As the released estimator wherever no half is rounded; every l as often as any other over the starts."""
    counts = np.array([likelihood.mask_counts(length, draws, start) for start in range(1, length + 1)])
    exact = np.array([start + np.arange(draws) * length / draws for start in range(1, length + 1)])
    official = (np.round(exact) - 1) % length + 1
    assert ((counts == official) | (exact % 1 == 0.5)).all()
    assert len(set(np.bincount(counts.ravel(), minlength=length + 1)[1:])) == 1


def test_exactly_l_tokens_are_hidden():
    found = likelihood.draw(9, 40, 0)
    assert np.array_equal(found.weight, 9 / found.hidden.sum(1))
    assert found.group.tolist() == [0] * 16 + [1] * 16 + [2] * 8


@pytest.mark.slow
def test_autoregressive_likelihood_is_exact():
    lm = jd.load("tiny-ar")
    pair = Pair(tuple(lm.tokenizer.encode_prompt("reverse : [ Alan , Kate ]")), tuple(lm.tokenizer.encode("[ Kate ]")))
    (found,) = likelihood.score(lm, [pair], batch=2)
    logits = np.asarray(lm.logits([[*pair.context, *pair.answer]]))[0].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first = len(pair.context)
    expected = sum(logp[first + i - 1, token] for i, token in enumerate(pair.answer))
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.se == 0


def test_rolling_is_the_sum_of_windows():
    lm = jd.load("tiny")
    ids = lm.tokenizer.encode("[ Kate , Alan , Omar , Fay ]")
    found = likelihood.rolling(lm, ids, 3, 6, draws=16)
    windows = likelihood.score(lm, [Pair((3,), tuple(ids[:5])), Pair((3,), tuple(ids[5:]))], draws=16)
    assert found.value == pytest.approx(sum(x.value for x in windows), rel=1e-5)


def test_bad_pairs_are_named(exact):
    with pytest.raises(jd.InputError, match="pair 1"):
        likelihood.score(exact, [Pair((1,), (3,)), Pair((1,), ())])
