"""Filters by hand, against NumPy in float64, and against `transformers`; a number of each row, and neutral numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError
from jaxdlm.core import filters
from jaxdlm.core.filters import highest, likely, nucleus, typical
from jaxdlm.rules import sample
from jaxdlm.speculative.warp import warp
from tests.rules.hand import apply, row

HALVES = np.log(np.float32([[0.5, 0.25, 0.125, 0.125]]))
EVERY = {"top_k": jax.jit(highest), "top_p": jax.jit(nucleus), "min_p": jax.jit(likely), "typical_p": jax.jit(typical)}
RNG = np.random.default_rng(4)
RAW = (RNG.normal(size=(6, 13)) * 3).astype(np.float32)


def inside(filtered) -> list[list[int]]:
    return [np.flatnonzero(np.isfinite(each)).tolist() for each in np.asarray(filtered)]


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def oracle(name: str, logits: np.ndarray, number: float) -> set[int]:
    """Of one row in float64: token after token, as each paper says it."""
    p = softmax(logits)
    by_p = sorted(range(len(p)), key=lambda v: (-p[v], v))
    if name == "top_k":
        return set(by_p[:number])
    if name == "min_p":
        return {v for v in by_p if p[v] >= number * p.max()}
    if name == "typical_p":
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        by_p = sorted((v for v in by_p if p[v] > 0), key=lambda v: abs(-np.log(p[v]) - entropy))
    chosen, mass = set(), 0.0
    for v in by_p:
        chosen.add(v)
        mass += p[v]
        if mass >= number:
            break
    return chosen


@pytest.mark.slow
def test_by_hand():
    assert inside(EVERY["min_p"](HALVES, 0.5)) == [[0, 1]], "exactly at the bar stays"
    assert inside(EVERY["min_p"](HALVES, 0.51)) == [[0]] and inside(EVERY["min_p"](HALVES, 1.0)) == [[0]]
    # entropy 1.75 bits; surprises 1, 2, 3, 3 bits: nearest is 2, then 1
    assert inside(EVERY["typical_p"](HALVES, 0.2)) == [[1]], "the best token is not the most typical"
    assert inside(EVERY["typical_p"](HALVES, 0.7)) == [[0, 1]]
    assert inside(EVERY["typical_p"](HALVES, 0.8)) == [[0, 1, 2, 3]], "those as near as the last come with it"
    banned = np.float32([[1, -np.inf, 0.5, -np.inf]])
    for name, number in {"top_k": 3, "top_p": 0.99, "min_p": 0.01, "typical_p": 0.99}.items():
        assert set(inside(EVERY[name](banned, number))[0]) <= {0, 2}, "what is banned stays so"


@pytest.mark.parametrize("name", EVERY)
def test_it_is_the_oracle(name):
    for number in (1, 2, 5) if name == "top_k" else (0.05, 0.3, 0.6, 0.9):
        got = inside(EVERY[name](RAW, number))
        assert [set(each) for each in got] == [oracle(name, each, number) for each in RAW]


def test_a_neutral_number_keeps_every_bit():
    for name, one in EVERY.items():
        np.testing.assert_array_equal(one(RAW, filters.NEUTRAL[name]), RAW)


@pytest.mark.slow
def test_each_row_has_its_own_number_and_the_filters_follow_each_other():
    """Rows [B] of logits [B, T, V]; each reads what the one before has left."""
    numbers = {
        "temperature": np.float32([0, 0.7, 1, 1, 2, 1]), "top_k": np.int32([3, 0, 8, 0, 5, 0]),
        "top_p": np.float32([1, 0.9, 1, 0.7, 0.95, 1]), "min_p": np.float32([0, 0, 0.05, 0.02, 0, 0]),
        "typical_p": np.float32([0.2, 1, 1, 0.5, 0.3, 1]),
    }  # fmt: skip
    out = warp(np.float32(1)).of_rows(numbers).log_prob(jnp.stack([RAW, RAW[:, ::-1]], axis=1))
    for b in range(6):
        logits = RAW[b].astype(np.float64) / max(float(numbers["temperature"][b]), 1e-9)
        for name in EVERY:
            if numbers[name][b] != filters.NEUTRAL[name] and b:
                kept = oracle(name, logits, numbers[name][b])
                logits = np.where(np.isin(np.arange(13), list(kept)), logits, -np.inf)
        p = softmax(logits) if b else np.eye(13)[RAW[0].argmax()]
        np.testing.assert_allclose(np.exp(out[b, 0]), p, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(np.exp(out[b, 1][::-1]), p, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_the_same_set_in_a_diffusion_sampler():
    """Draws of a window's columns come from what the filter keeps; at T = 0 all propose the best token."""

    def proposed(seed, temperature, **numbers):
        bias = np.float32([0] * 12 + [numbers.pop("bias", 0)])
        rule = sample(jnp.float32(temperature), **{"logit_bias": bias} | filters.NEUTRAL | numbers)
        return apply(rule, RAW[:4], row([True] * 4), key=jax.random.key(seed)).token.tolist()

    for name, number in {"top_k": 2, "top_p": 0.6, "min_p": 0.3, "typical_p": 0.3}.items():
        inside = [oracle(name, each, number) for each in RAW[:4]]
        for seed in range(20):
            assert all(token in own for token, own in zip(proposed(seed, 1, **{name: number}), inside, strict=True))
        assert proposed(0, 0, **{name: number}) == RAW[:4].argmax(1).tolist()
    assert proposed(0, 1, bias=100) == [12] * 4
    with pytest.raises(InputError, match=r"logit_bias=.*one number per id"):
        sample(logit_bias=[1, 2])


@pytest.mark.parametrize(
    "wrong",
    [{"min_p": 1.5}, {"min_p": "a"}, {"typical_p": 0}, {"typical_p": 1.1}, {"top_k": 1.5}, {"top_p": True}],
    ids=str,
)
def test_bad_numbers(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*must be"):
        warp(1.0, **wrong)


@pytest.mark.slow
def test_transformers_says_the_same():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers")
    raw = (np.random.default_rng(0).normal(size=(50, 40)) * 3).astype(np.float32)
    classes = {"top_k": "TopK", "top_p": "TopP", "min_p": "MinP", "typical_p": "Typical"}
    cases = {"top_k": (1, 7, 40), "top_p": (0.1, 0.8, 0.99), "min_p": (0.01, 0.3, 1.0), "typical_p": (0.1, 0.5, 0.95)}
    for name, numbers in cases.items():
        for number in numbers:
            process = getattr(theirs, f"{classes[name]}LogitsWarper")(number)
            np.testing.assert_array_equal(EVERY[name](raw, number), process(None, torch.tensor(raw)).numpy())
    chain = theirs.LogitsProcessorList(
        [theirs.TemperatureLogitsWarper(0.8), theirs.TopKLogitsWarper(20), theirs.TopPLogitsWarper(0.9),
         theirs.MinPLogitsWarper(0.02), theirs.TypicalLogitsWarper(0.8)]
    )  # fmt: skip
    law = torch.softmax(chain(None, torch.tensor(raw)), 1).numpy()
    ours = warp(0.8, 20, 0.9, min_p=0.02, typical_p=0.8).log_prob(raw)
    np.testing.assert_allclose(np.exp(ours), law, rtol=2e-5, atol=1e-7)


def test_ties_go_to_the_lowest_ids_and_zeros_are_equal():
    level = np.float32([[1, 2, 2, 2, 2, 0.5], [0.0, -0.0, 0.0, -0.0, -1, -np.inf], [-3, -3, -3, -3, -3, -3]])
    assert inside(EVERY["top_k"](level, 3)) == [[1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert inside(EVERY["top_p"](level, 0.45)) == [[1, 2, 3], [0, 1], [0, 1, 2]]
    assert inside(EVERY["top_p"](level, 0.0)) == [[1], [0], [0]]
    assert inside(EVERY["top_k"](level, 99)) == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
