"""Chains that contradict themselves fail when they are built, with a message that says why."""

import re

import pytest

import jaxdlm
from jaxdlm import InputError, Stage, chain, policies
from jaxdlm.rules import sample, select_above, select_top_k
from jaxdlm.rules.block_diffusion import select_within_entropy
from jaxdlm.rules.credit import add_credit
from jaxdlm.rules.dparallel import select_below_entropy
from jaxdlm.rules.eos import stop_at_eos
from jaxdlm.rules.learn2pd import end_at_text
from jaxdlm.rules.local_leap import select_near_anchors
from jaxdlm.rules.prophet import finish_when_clear
from jaxdlm.rules.sample import neg_entropy, uniform
from jaxdlm.steppers.freedave import draft_and_verify
from tests.conformance.toys import GRID, PROMPTS, model

HOST = chain(sample(), select_above())


class Own(Stage):
    """A rule that does not say what it writes."""

    def apply(self, update, state, row, key):
        return update, state


CONTRADICTIONS = [
    (
        lambda: chain(sample(), select_above(), select_near_anchors()),
        "select_near_anchors overwrites the commit of select_above",
    ),
    (lambda: chain(sample(), sample(0.5), select_above()), "the chain has sample twice: a method such as"),
    (lambda: chain(sample(), add_credit(), select_above()), "add_credit changes logits that sample has already read"),
    (lambda: chain(select_above(), sample()), "select_above needs the token of sample: put sample before it"),
    (lambda: chain(sample(), stop_at_eos(), select_above()), "stop_at_eos needs the commit of select_above"),
    (
        lambda: chain(sample(), select_below_entropy()),
        "compares a negative entropy, and the score of sample is a log-prob",
    ),
    (lambda: chain(sample(measure=neg_entropy), select_above()), "select_above compares a log-probability"),
    (lambda: chain(sample(measure=uniform), select_within_entropy()), "is a random number"),
    (lambda: chain(sample(), finish_when_clear(HOST)), "finish_when_clear overwrites the token of sample"),
    (lambda: chain(draft_and_verify(HOST), stop_at_eos()), "put the chain inside it"),
    (lambda: finish_when_clear(draft_and_verify(HOST)), "put finish_when_clear inside it"),
    (lambda: draft_and_verify(draft_and_verify(HOST)), "steps on its own"),
    (lambda: finish_when_clear(chain(select_above())), "select_above needs update.token: put sample"),
    (lambda: draft_and_verify(sample()), "freedave's host writes no column"),
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
        (chain(select_above()), "select_above needs update.token"),
        (chain(sample(), end_at_text()), "end_at_text needs update.commit"),
        (chain(add_credit(), sample()), "the policy writes no column"),
    ],
)
def test_a_fragment_is_no_policy(rule, why):
    """A chain may be a part of another one; decoding it alone is refused before anything is traced."""
    before = jaxdlm._decode._run._cache_size()
    with pytest.raises(InputError, match=re.escape(why)):
        jaxdlm.decode(model("same"), PROMPTS, rule, **GRID)
    assert jaxdlm._decode._run._cache_size() == before


def test_what_fits_is_let_through():
    full = chain(add_credit(), sample(), select_near_anchors(), end_at_text(), stop_at_eos())
    assert chain(chain(add_credit(), sample()), chain(select_near_anchors(), end_at_text()), stop_at_eos()) == full
    assert full.traits.writes == ("logits", "token", "score", "commit", "cut", "halt", "status")
    chain(sample(), Own(), select_above(), stop_at_eos())
    chain(Own(), select_above())
    chain(sample(measure=uniform), select_top_k())
    chain(finish_when_clear(HOST), stop_at_eos())


def test_two_ends_of_text_keep_the_earlier_one():
    """The cut of the first rule is not forgotten by the second."""
    import jax.numpy as jnp

    from jaxdlm.core.carry import Update
    from tests.rules.hand import IDS, row

    tokens = jnp.asarray([1, IDS.eos[0], IDS.eos[0], 1], jnp.int32)
    update = Update(jnp.zeros((4, 8)), token=tokens, commit=jnp.zeros(4, bool), cut=jnp.int32(1))
    after, _ = stop_at_eos().apply(update, (), row([False] * 4, tokens=tokens), None)
    assert int(after.cut) == 1
    assert bool(after.halt)
