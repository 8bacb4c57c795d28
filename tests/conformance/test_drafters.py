"""Every drafter there is: the target's own greedy tokens, and rows that depend on neither their batch nor their slot."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode, registry
from jaxdlm._load import LM
from jaxdlm.speculative import verify
from jaxdlm.speculative.causal import Causal
from jaxdlm.speculative.drafters import Nothing
from jaxdlm.speculative.pair import acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.tree import Grown
from jaxdlm.speculative.warp import NOISES, warp
from tests.marks import usual
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, expected, model, near, two_modes

DRAFTS = {"near": near(TARGET, 0.02), "wrong": model(8)}  # one shape, hence one program
TARGETS = dict.fromkeys(
    ("SelfDraft", "Quadratic"), two_modes(3)
)  # of another kind, with TARGET's weights and greedy tokens
FIELDS = ("tokens", "forwards", "draft_forwards", "drafted", "accepted", "commit_step")


def target(name: str) -> LM:
    return TARGETS.get(name, TARGET)


def policy(name: str, draft: str, temperature: float) -> Speculation:
    sampling = warp(jnp.float32(temperature))  # an array: every temperature runs the same program
    drafter = registry.drafters()[name].example(target(name), DRAFTS[draft], sampling)
    if isinstance(drafter.tree, Grown) or name == "Quadratic":  # matched with what plain sampling draws
        return Speculation(drafter, sampling.replace(shared=True), verify.greedy)
    return Speculation(drafter, sampling, verify.rejection if drafter.tree.is_chain else verify.k_sequence)


@functools.cache
def batch(name: str, draft: str, temperature: float):
    return decode(target(name), PROMPTS, policy(name, draft, temperature), max_new=MAX_NEW, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.drafters())
def test_greedy_tokens_are_those_of_plain_decoding(name):
    for draft in DRAFTS:
        out = batch(name, draft, 0.0)
        np.testing.assert_array_equal(out.tokens, expected(3))
        assert (out.forwards <= (out.commit_step >= 0).sum(1)).all()


@pytest.mark.parametrize("name", registry.drafters())
def test_a_row_does_not_depend_on_its_neighbours(name):
    """In another order; and one row among others that it has not met."""
    whole, order, others = batch(name, "near", 1.0), [3, 0, 4, 1, 2], [[5, 6, 5], PROMPTS[2], [8] * 9, [4, 2], [19]]
    moved = decode(
        target(name), [PROMPTS[i] for i in order], policy(name, "near", 1.0), ids=order, max_new=MAX_NEW, seed=5
    )
    among = decode(target(name), others, policy(name, "near", 1.0), ids=[7, 2, 9, 8, 6], max_new=MAX_NEW, seed=5)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(moved, field), getattr(whole, field)[order])
        np.testing.assert_array_equal(getattr(among, field)[1], getattr(whole, field)[2])
    assert (whole.tokens != expected(3)).any(), "at temperature 1 the tokens are drawn"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "noise"),
    usual([(name, noise) for name in registry.drafters() for noise in NOISES[1:]], ("DraftModel", "shared")),
)
def test_with_shared_noise_sampled_tokens_are_those_of_plain_sampling(name, noise):
    """Token by token, for a good draft and for a useless one."""
    run, sampling = {"max_new": MAX_NEW, "seed": 5}, warp(jnp.float32(1), noise=noise)
    plain_target = LM(Causal(TARGETS[name].model), TARGET.params, None, "toy") if name in TARGETS else TARGET
    alone = sampling if noise == "inverse_cdf" else warp(jnp.float32(1))
    plain = decode(plain_target, PROMPTS, Speculation(Nothing(), alone, acceptance(alone)), **run)
    saved = {}
    for draft, lm in DRAFTS.items():
        drafter = registry.drafters()[name].example(target(name), lm, sampling)
        out = decode(target(name), PROMPTS, Speculation(drafter, sampling, verify.greedy), **run)
        np.testing.assert_array_equal(out.tokens, plain.tokens)
        saved[draft] = int((plain.forwards - out.forwards).sum())
    if (
        drafter.model is not None and drafter.model.config.attention == "causal"
    ):  # others know nothing in their examples
        assert saved["near"] > max(saved["wrong"], 8)


COVER = ("Exits",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in COVER else pytest.mark.exhaustive) for name in registry.drafters()],
)
@pytest.mark.slow
def test_a_row_does_not_depend_on_its_slot(name):
    """Alone, and admitted into one of two slots behind a row that is done: other programs, the same bits."""
    whole = batch(name, "near", 1.0)
    pooled = decode(target(name), PROMPTS, policy(name, "near", 1.0).replace(slots=2), max_new=MAX_NEW, seed=5)
    alone = decode(target(name), [PROMPTS[3]], policy(name, "near", 1.0), ids=[3], max_new=MAX_NEW, seed=5)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(pooled, field), getattr(whole, field))
        np.testing.assert_array_equal(getattr(alone, field)[0], getattr(whole, field)[3])
