"""Chains that contradict themselves fail when they are built, with a message that says why."""

import re

import pytest

import jaxdlm
from jaxdlm import InputError, Stage, chain, policies, sample, threshold, top_k
from jaxdlm.rules.block_diffusion import entropy_bound
from jaxdlm.rules.credit import credit
from jaxdlm.rules.dparallel import entropy_threshold
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.learn2pd import eotp
from jaxdlm.rules.local_leap import local_leap
from jaxdlm.rules.prophet import prophet
from jaxdlm.rules.sample import neg_entropy, uniform
from jaxdlm.steppers.freedave import freedave
from tests.conformance.toys import GRID, PROMPTS, model

HOST = chain(sample(), threshold())


class Own(Stage):
    """A rule that does not say what it writes."""

    def apply(self, draft, state, row, key):
        return draft, state


CONTRADICTIONS = [
    (lambda: chain(sample(), threshold(), local_leap()), "local_leap overwrites the commit of threshold"),
    (lambda: chain(sample(), sample(0.5), threshold()), "sample overwrites the token of sample"),
    (lambda: chain(sample(), credit(), threshold()), "credit changes logits that sample has already read"),
    (lambda: chain(threshold(), sample()), "threshold needs the token of sample: put sample before it"),
    (lambda: chain(sample(), stop_at_eos(), threshold()), "stop_at_eos needs the commit of threshold"),
    (
        lambda: chain(sample(), entropy_threshold()),
        "compares a negative entropy, and the score of sample is a log-prob",
    ),
    (lambda: chain(sample(measure=neg_entropy), threshold()), "threshold compares a log-probability"),
    (lambda: chain(sample(measure=uniform), entropy_bound()), "is a random number"),
    (lambda: chain(sample(), prophet(HOST)), "prophet overwrites the token of sample"),
    (lambda: chain(freedave(HOST), stop_at_eos()), "put the chain inside it"),
    (lambda: prophet(freedave(HOST)), "put prophet inside it"),
    (lambda: freedave(freedave(HOST)), "steps on its own"),
    (lambda: prophet(chain(threshold())), "threshold needs draft.token: put sample"),
    (lambda: freedave(sample()), "freedave's host writes no column"),
    (lambda: policies.RECIPES["freedave"](host="freedave"), "must be a rule or one of"),
]


@pytest.mark.parametrize(("build", "why"), CONTRADICTIONS, ids=[why for _, why in CONTRADICTIONS])
def test_a_contradiction_is_refused_and_explained(build, why):
    with pytest.raises(InputError, match=re.escape(why)) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (chain(threshold()), "threshold needs draft.token"),
        (chain(sample(), eotp()), "eotp needs draft.commit"),
        (chain(credit(), sample()), "the policy writes no column"),
    ],
)
def test_a_fragment_is_no_policy(rule, why):
    """A chain may be a part of another one; decoding it alone is refused before anything is traced."""
    before = jaxdlm._decode._run._cache_size()
    with pytest.raises(InputError, match=re.escape(why)):
        jaxdlm.decode(model("same"), PROMPTS, rule, **GRID)
    assert jaxdlm._decode._run._cache_size() == before


def test_what_fits_is_let_through():
    full = chain(credit(), sample(), local_leap(), eotp(), stop_at_eos())
    assert chain(chain(credit(), sample()), chain(local_leap(), eotp()), stop_at_eos()) == full
    assert full.writes == ("logits", "token", "score", "commit", "cut", "halt", "status")
    chain(sample(), Own(), threshold(), stop_at_eos())
    chain(Own(), threshold())
    chain(sample(measure=uniform), top_k())
    chain(prophet(HOST), stop_at_eos())


def test_two_ends_of_text_keep_the_earlier_one():
    """The cut of the first rule is not forgotten by the second."""
    import jax.numpy as jnp

    from jaxdlm.core.carry import Draft
    from tests.rules.hand import IDS, row

    tokens = jnp.asarray([1, IDS.eos[0], IDS.eos[0], 1], jnp.int32)
    draft = Draft(jnp.zeros((4, 8)), token=tokens, commit=jnp.zeros(4, bool), cut=jnp.int32(1))
    after, _ = stop_at_eos().apply(draft, (), row([False] * 4, tokens=tokens), None)
    assert int(after.cut) == 1
    assert bool(after.halt)
