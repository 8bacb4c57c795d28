"""Samples that are drawn apart: the points, what of them is a row's, the laws, and rows that depend on nothing else."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

import jaxdlm as jd
from jaxdlm import InputError, chain, decode
from jaxdlm.core.keys import Group, row_keys
from jaxdlm.core.low_discrepancy import invert, uniform_at
from jaxdlm.resolve import check_uniforms
from jaxdlm.rules import sample, select_top_k, uniform
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, distribution_of, fit, model, near

HOT, N = np.float32(1), 8
U = jd.low_discrepancy(N, 12, seed=3)


class Twice(jd.Stage):
    """A rule that says that it may take back what is written."""

    declares = jd.Traits(reads=("score",), writes=("commit", "reopen"))

    def apply(self, update, state, row, key):
        raise AssertionError("never asked")


def even(measure=uniform, u=U):
    return chain(sample(HOT, draw="inverse_cdf", uniforms=u, measure=measure), select_top_k())


def test_every_column_has_one_point_in_each_part_and_pairs_of_columns_fill_the_square():
    assert U.shape == (8, 12) and U.dtype == np.float32
    assert (np.sort((N * U).astype(int), axis=0) == np.arange(N)[:, None]).all()
    u = jd.low_discrepancy(16, 2)
    assert len(set(map(tuple, (4 * u).astype(int).tolist()))) == 16
    np.testing.assert_array_equal(U, jd.low_discrepancy(N, 12, seed=3))
    assert (jd.low_discrepancy(N, 12, seed=4) != U).any()


@pytest.mark.parametrize("kind", ["lattice", "digital_net"])
def test_the_kinds_of_qmcpy(kind):
    pytest.importorskip("qmcpy")
    u = jd.low_discrepancy(16, 5, kind, seed=1)
    assert u.shape == (16, 5) and (np.sort((16 * u).astype(int), axis=0) == np.arange(16)[:, None]).all()
    np.testing.assert_array_equal(u, jd.low_discrepancy(16, 5, kind, seed=1))


def test_without_qmcpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qmcpy", None)
    with pytest.raises(InputError, match=r"'lattice' needs the extra qmc: .*, or use 'sobol'"):
        jd.low_discrepancy(16, 5, "lattice")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [((12, 4), "n=12: .* use 16"), ((0, 4), "n=0"), ((8, 21202), "columns=21202"), ((8, 9126, "lattice"), "columns=9126"),
     ((8, 4, "sobl"), "did you mean 'sobol'"), ((8, 4, "sobol", -1), "seed=-1")],
)  # fmt: skip
def test_what_no_points_are_made_of(wrong, message):
    with pytest.raises(InputError, match=message):
        jd.low_discrepancy(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [[[0.5]], np.ones((2, 2)), np.zeros(3), np.zeros((2, 2), int), np.full((2, 2), np.nan), "sobol", np.zeros((0, 2)),
     jnp.ones(2)],
    ids=repr,
)  # fmt: skip
def test_numbers_that_are_none_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=r"uniforms=.*jd.low_discrepancy"):
        sample(1.0, draw="inverse_cdf", uniforms=wrong)
    if not isinstance(wrong, str | list):
        with pytest.raises(InputError, match=r"noise=.*jd.low_discrepancy"):
            jd.autoregressive(1.0, noise=wrong)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match=r"uniforms=.* means nothing with another draw"):
        sample(1.0, uniforms=U)
    with pytest.raises(InputError, match="did you mean 'inverse_cdf'"):
        sample(1.0, draw="inverse_cdff")
    for n, max_new in ((9, 12), (8, 13)):
        with pytest.raises(
            InputError, match=r"uniforms are for 8 samples of 12 columns.*low_discrepancy\((8|16), (12|13)\)"
        ):
            check_uniforms(even(), n, max_new)
    with pytest.raises(InputError, match="uniforms are for 8 samples"):
        decode(model(0), PROMPTS, jd.speculative(near(model(0), 0.02), 2, HOT, noise=U), n=9, max_new=4)
    twice = chain(sample(HOT, draw="inverse_cdf", uniforms=U, measure=uniform), Twice())
    with pytest.raises(InputError, match="uniforms: this policy writes columns twice"):
        decode(diffusion("same"), [[3, 9]], twice, n=4, max_new=8, block=4)


def test_the_inverse_is_a_search_in_the_sums():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(30, 0.3), 64) * (rng.random((64, 30)) < 0.7)
    u = rng.random(64)
    sums = np.cumsum(p, axis=1)
    wanted = [np.searchsorted(row, x * row[-1], side="right") for row, x in zip(sums, u, strict=True)]
    made = np.asarray(invert(jnp.float32(3 * p), jnp.float32(u)))
    assert (made == wanted).mean() > 0.95 and (p[np.arange(64), made] > 0).all(), "rounding of sums aside"
    assert invert(jnp.float32([0, 0, 1, 0]), jnp.float32(0)) == 2 == invert(jnp.float32([0, 0, 1, 0]), 1 - 2**-24)


def numbers(prompts, step=None, u=U):
    """u of the first two columns of all samples of some prompts, [prompt, sample, column]."""
    keys = row_keys(np.zeros(prompts, np.int32), np.arange(prompts, dtype=np.int32))
    one = lambda key, s, c: uniform_at(jnp.asarray(u), Group(key, s), c, c + 7, step)  # noqa: E731
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        one = jax.vmap(one, axes)
    return np.asarray(jax.jit(one)(keys, jnp.arange(len(u)), jnp.arange(2)))


def test_all_samples_of_a_prompt_are_moved_alike_and_other_prompts_and_steps_otherwise():
    still, moved = numbers(3), numbers(3, 5)
    apart = (still - U[None, :, :2]) % 1
    np.testing.assert_allclose(apart, np.broadcast_to(apart[:, :1], apart.shape), atol=3e-7)
    assert len(np.unique(apart[:, 0].round(5))) == 6 and (abs(moved - still) > 1e-4).all()
    assert ((still >= 0) & (still < 1)).all()
    more = numbers(2, u=U[:, :1])[:, :, 1]
    assert len(np.unique(more.round(5))) == 2 * N, "a column that the points do not have is drawn at random"


def drawn(p, u):
    return np.asarray(invert(jnp.broadcast_to(jnp.float32(p), (*u.shape, len(p))), jnp.asarray(u)))


def test_laws_are_what_they_were_and_counts_are_even():
    """One sample of each of 4000 prompts, two columns, 3 tokens: the product law; and of all samples of a prompt nearly n p."""
    p = np.array([0.5, 0.2, 0.3])
    tokens = drawn(p, numbers(4000))
    own = tokens[np.arange(4000), np.arange(4000) % N]
    seen = np.bincount(own[:, 0] * 3 + own[:, 1], minlength=9)
    assert chisquare(seen, 4000 * np.outer(p, p).ravel()).pvalue > 1e-3
    counts = np.stack([(tokens == token).sum(1) for token in range(3)], axis=-1)
    assert (abs(counts - N * p) < 2).all()
    again = drawn(p, numbers(4000, 1)[:, :1, :1])[:, 0, 0]
    both = np.bincount(tokens[:, 0, 0] * 3 + again, minlength=9)
    assert chisquare(both, 4000 * np.outer(p, p).ravel()).pvalue > 1e-3, "a column drawn twice is drawn twice"


@pytest.mark.slow
def test_a_diffusion_row_depends_on_its_prompt_id_and_number_alone():
    run = {"max_new": 8, "block": 4, "policy": even()}
    out = decode(diffusion("same"), [[3, 9, 4], [7, 2, 5, 6, 11]], n=4, **run)
    moved = decode(diffusion("same"), [[7, 2, 5, 6, 11], [1, 2]], ids=[1, 5], n=4, **run)
    np.testing.assert_array_equal(out.tokens[4:], moved.tokens[:4])
    assert len({tuple(row) for row in out.tokens[:4].tolist()}) > 1
    other = decode(diffusion("same"), [[3, 9, 4]] * 2, n=4, **run | {"policy": even(u=U[::-1].copy())})
    assert (other.tokens[:4] != out.tokens[:4]).any(), "the numbers are what is drawn by"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_under_a_draft_the_texts_are_those_of_the_target_alone():
    run = {"n": 4, "max_new": 6}
    plain = decode(model(0), PROMPTS, jd.autoregressive(HOT, noise=U), **run)
    draft = jd.speculative(near(model(0), 0.02), 2, HOT, noise=U)
    np.testing.assert_array_equal(decode(model(0), PROMPTS, draft, **run).tokens, plain.tokens)
    alone = decode(model(0), PROMPTS[2:] + PROMPTS[:2], jd.autoregressive(HOT, noise=U), ids=[2, 7, 8, 9, 6], **run)
    np.testing.assert_array_equal(alone.tokens[:4], plain.tokens[8:12])
    assert len({tuple(row) for row in plain.tokens[:4].tolist()}) > 1


@pytest.mark.slow
def test_texts_have_the_law_of_the_model():
    """One sample of each of 500 prompts that are alike but for their ids."""
    out = decode(model(0), [PROMPTS[0]] * 500, jd.autoregressive(np.float32(0.5), noise=U[:2]), n=2, max_new=2)
    own = out.tokens.reshape(500, 2, 2)[np.arange(500), np.arange(500) % 2]
    assert fit(own, distribution_of(model(0), list(PROMPTS[0]), 2, 0.5)) > 1e-3
