"""Texts of languages without a bound out of whole decodes: they belong, end in time, and are the row's own."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

import jaxdlm as jd
from jaxdlm import InputError, decode, grammar, policies
from jaxdlm.core.carry import Status
from tests.conformance.spelling import greedy, logits_behind, spelling_model
from tests.conformance.test_families import FAMILIES, SMALL, busy
from tests.conformance.test_languages import ALLOWED
from tests.conformance.toys import meets, temperatures
from tests.grammar.test_checked import BRACKETS, TREE, spelled
from tests.marks import usual

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("llguidance"), reason="needs llguidance")
GRID = {"max_new": 16, "block": 8, "rows_per_program": 3, "raw": True}
PROMPTS = ["ab", "name", "Paris, 1"]
HOT = 8.0


def languages(lm):
    return [
        grammar.lark(BRACKETS, lm, depth=None),
        grammar.json_schema(TREE, lm, depth=None),
        grammar.json(lm, depth=None, objects=True),
    ]


def holds(lm, policy, cache="none", **more):
    """Every text belongs, and is the one that the row has in any batch."""
    made, fixed = languages(lm), GRID | more
    batch = decode(lm, PROMPTS, policy, cache, ids=[0, 1, 2], grammar=made, **fixed)
    for language, row, status in zip(made, batch.tokens, batch.status, strict=True):
        assert language.accepts(row), lm.tokenizer.decode(row.tolist())
        assert status in (Status.FINISHED, Status.EOS, Status.EXIT)
    order = [2, 0, 1]
    moved = decode(lm, [PROMPTS[i] for i in order], policy, cache, ids=order, grammar=[made[i] for i in order], **fixed)
    alone = decode(lm, PROMPTS[1:2], policy, cache, ids=[1], grammar=made[1:2], **fixed)
    np.testing.assert_array_equal(moved.tokens, batch.tokens[order])
    np.testing.assert_array_equal(alone.tokens[0], batch.tokens[1])
    return batch


@pytest.mark.slow
def test_a_diffusion_model_writes_texts_of_any_depth():
    lm = spelling_model("same")
    for temperature in (0.0, 1.0):
        holds(lm, jd.threshold(0.05, temperature=jnp.float32(temperature)))
    made, mask = languages(lm)[0], lm.config.tokens.mask
    canvas = [[mask] * 16 for _ in range(3)]
    canvas[0][9] = canvas[1][15] = spelled(lm, ")")[0]  # pinned: the texts are ten and sixteen tokens long, or more
    canvas[2][0] = spelled(lm, "a")[0]
    out = decode(lm, PROMPTS, jd.threshold(0.05, temperature=jnp.float32(1.0)), canvas=canvas, grammar=made, **GRID)
    for row, pinned in zip(out.tokens[:2], canvas[:2], strict=True):
        assert made.accepts(row)
        assert all(now == before for now, before in zip(row.tolist(), pinned, strict=True) if before != mask)
    assert out.status[2] is Status.INFEASIBLE


@pytest.mark.slow
def test_an_autoregressive_model_is_masked_and_drafts_change_nothing():
    """With drafts, against a loop on the host over the same masks and logits of the whole text."""
    lm, room = spelling_model("causal"), 16
    made = languages(lm)
    out = decode(lm, PROMPTS, jd.lookup(k=3), grammar=made, max_new=room, raw=True)
    for prompt, language, row in zip(PROMPTS, made, out.tokens, strict=True):
        allowed = lambda text, own=language: own.allowed(tuple(text), room - len(text))  # noqa: E731
        text = greedy(lm, prompt, room, allowed, language.ends)
        assert row.tolist()[: len(text)] == text and language.accepts(row)


def likelihoods(lm, prompt, language, room, text=()):
    """P of every text that the checker allows, by the model alone at a high temperature; one of `room` tokens needs no end."""
    ends = language.ends
    if text and (text[-1] in ends or len(text) == room):
        return {text: 1.0}
    logits = logits_behind(lm, prompt, text).astype(np.float64) / HOT
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    law = {}
    for token in np.flatnonzero(language.allowed(text, room - len(text))).tolist():
        for whole, mass in likelihoods(lm, prompt, language, room, (*text, token)).items():
            law[whole] = p[token] * mass
    return law


@pytest.mark.slow
def test_aligned_samples_need_no_automaton():
    """Their law is the model's on what the checker allows, and the mass is that of all texts once each was read."""
    lm, room = spelling_model("causal"), 4
    free = grammar.lark(BRACKETS, lm, depth=None)
    law = likelihoods(lm, "ab", free, room)
    out = jd.asap(lm, ["ab"], free, samples=300, max_new=room, batch=20, temperature=HOT, raw=True)
    total = sum(law.values())
    texts = [tuple(row[: 1 + min([at for at, token in enumerate(row) if token in free.ends], default=room)].tolist())
             for row in out.tokens[0]]  # fmt: skip
    assert set(texts) == set(law) and out.mass[0] == pytest.approx(total, rel=1e-4)
    counts = [texts[100:].count(text) for text in law]
    assert chisquare(counts, [200 * mass / total for mass in law.values()]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", usual(ALLOWED, "saber"))  # which counts on writing more than it masks again
def test_every_policy_writes_texts_that_belong(recipe):
    for family in ("same", "next", "sdar"):
        for cache in policies.CACHES:
            if meets(recipe, cache, family):
                for temperature in temperatures(recipe):
                    made = policies.CACHES[cache](**SMALL.get(cache, {}))
                    holds(spelling_model(family), busy(recipe, temperature), made, block=4)
                break
    assert set(FAMILIES.values()) > {"same", "next", "sdar"}


def test_what_has_no_automaton_is_refused_where_one_is_needed():
    lm = spelling_model("same")
    made = languages(lm)[0]
    with pytest.raises(InputError, match="plan sums over the texts of an automaton, and depth=None makes none"):
        decode(lm, PROMPTS, jd.chain(jd.rules.plan(), jd.rules.select_above(0.9)), grammar=made, **GRID)
    with pytest.raises(InputError, match="grammar needs at least 13 tokens and max_new is 8: raise it"):
        decode(lm, PROMPTS, grammar=languages(lm)[1], max_new=8, raw=True)
