"""Every recipe with every cache on models of four families and of new ones: alone, batched and permuted a row decodes alike."""

import functools
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm
from jaxdlm import policies
from jaxdlm.core.carry import Status
from jaxdlm.rules import guided
from tests.conformance import halves
from tests.conformance.toys import (
    ALIKE,
    MASK,
    OWN,
    PROMPTS,
    RULES,
    meets,
    model,
    parameters,
    policy,
    temperatures,
    untrained,
)
from tests.marks import usual

# LLaDA: full attention; Dream: rows predict the next column, grouped heads, biases; SDAR: block-causal, grouped heads
# with norms; LLaDA2: block-causal, a mixture of experts
FAMILIES = {"llada": "same", "dream": "next", "sdar": "sdar", "llada2": "llada2", **{name: name for name in OWN}}
# small windows and periods, so that on twelve columns something lies outside and is kept
SMALL = {
    "refresh": {"before": 2, "after": 1, "warmup": 2}, "delayed": {"every": 5}, "recap": {"local": 2},
    "adaptive": {"prompt_every": 5, "response_every": 3}, "layer_reuse": {"keys": (0, 2)}, "sub_block": {"size": 2},
}  # fmt: skip
# the random models are a tenth sure: at such bars and in fewer steps one column is written here and several there
BUSY = {
    "steps": 6, "tau": 0.07, "kappa": 0.1, "threshold": 3.5, "factor": 3.0, "tau_mask": 0.07, "max_post_steps": 3,
}  # fmt: skip
# steps of a block; a bar of entropy, in nats; one of a filter of its own
OTHERS = {
    "llada2": {"steps": 2}, "sdar": {"steps": 2}, "d3llm": {"tau": 3.5}, "learn2pd": {"tau": 0.3}, "eb": {"gamma": 7.0},
    "klass": {"eps": 9.0}, "hierarchical": {"low": 0.05}, "daedal": {"initial": 4, "expand": 2, "look": 2, "low": 0.2},
}  # fmt: skip


def busy(recipe: str, temperature: float | None, **arguments):
    chosen = {name: value for name, value in BUSY.items() if name in parameters(recipe)}
    return policy(recipe, temperature, **{**chosen, **OTHERS.get(recipe, {}), **arguments})


def kept(cache: str):
    return policies.CACHES[cache](**SMALL.get(cache, {}))


def same(a, row: int, b, other: int, where: str) -> None:
    for field in a._fields:
        np.testing.assert_array_equal(getattr(a, field)[row], getattr(b, field)[other], f"{where}: {field}")


def decodes_alike(family: str, rule, cache: str, where: str) -> int:
    """Holds a row alone and in another order to the row in its batch. The most columns that one forward wrote."""
    kind, order = FAMILIES[family], (2, 0, 1)
    batch = halves.decode(kind, rule, kept(cache))
    permuted = halves.decode(kind, rule, kept(cache), order)
    for place, row in enumerate(order):
        same(permuted, place, batch, row, where)
    same(halves.decode(kind, rule, kept(cache), alone=1), 1, batch, 1, where)
    assert (batch.tokens != MASK).all(), f"{where}: a mask is left, or was proposed"
    return max(np.bincount(steps[steps >= 0]).max() for steps in batch.commit_step)


def ends_where_nothing_can_be_said(rule, where: str) -> None:
    """NaN or infinity in one row harm no other; where every logit is -inf no row writes anything."""
    sound = halves.one_step("same", rule, kept("none"))
    assert (sound.after.status != int(Status.NONFINITE)).all(), where
    for value in (np.nan, np.inf):
        hurt = halves.one_step("same", rule, kept("none"), row=1, hidden=value)
        np.testing.assert_array_equal(hurt.after.status == int(Status.NONFINITE), [False, True, False], where)
        assert hurt.after.done[1], where
        np.testing.assert_array_equal(hurt.after.tokens[1], hurt.before.tokens[1], where)
        np.testing.assert_array_equal(hurt.after.tokens[[0, 2]], sound.after.tokens[[0, 2]], where)
    mute = halves.one_step("same", rule, kept("none"), head=-np.inf)
    assert (mute.after.status == int(Status.NONFINITE)).all() and mute.after.done.all(), where
    np.testing.assert_array_equal(mute.after.tokens, mute.before.tokens, where)


def chosen(family: str, recipe: str, among: Iterable[str] = FAMILIES) -> list[str]:
    """Caches for a family and a recipe such that every recipe meets every cache on one family, and every family."""
    found = []
    for number, cache in enumerate(policies.CACHES):
        takes = [name for name in among if meets(recipe, cache, FAMILIES[name])]
        if takes and takes[(number + RULES.index(recipe)) % len(takes)] == family:
            found.append(cache)
    return found or ["none"]


def every(family: str, recipe: str, among: Iterable[str] = FAMILIES) -> list[str]:
    return [cache for cache in policies.CACHES if meets(recipe, cache, FAMILIES[family])]


def test_the_chosen_caches_cover_every_pair():
    pairs = {(recipe, cache) for recipe in RULES for family in FAMILIES for cache in chosen(family, recipe)}
    assert pairs == {(recipe, cache) for recipe in RULES for family in FAMILIES for cache in every(family, recipe)}
    seen = {(family, cache) for recipe in RULES for family in FAMILIES for cache in chosen(family, recipe)}
    assert seen == {(family, cache) for recipe in RULES for family in FAMILIES for cache in every(family, recipe)}


MET = [(family, recipe) for family in FAMILIES for recipe in RULES if meets(recipe, "none", FAMILIES[family])]


def in_turn() -> list[tuple[str, str]]:
    """Every recipe on the first family, and those that differ in more than the columns that they choose on another."""
    turns = [family for family in FAMILIES if family != "llada"]
    unlike = [recipe for recipe in RULES if recipe not in ALIKE]
    more = [(turns[number % len(turns)], recipe) for number, recipe in enumerate(unlike, 2)]
    return [case for case in MET if case[0] == "llada" or case in more]


def test_in_turn_every_cache_is_met_on_some_family_and_every_family_by_many():
    caches = {cache for family, recipe in in_turn() for cache in chosen(family, recipe)}
    assert caches == {cache for family, recipe in MET for cache in every(family, recipe)}
    assert all([family for family, _ in in_turn()].count(family) >= 4 for family in FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("caches", [chosen, pytest.param(every, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("family", "recipe"), usual(MET, *in_turn()))
def test_alone_batched_and_permuted(family, recipe, caches):
    """One program for all three, as rows that are done from the start take no part; other numbers of rows and other
    buckets: test_rows."""
    most = 0
    for cache in caches(family, recipe):
        for temperature in temperatures(recipe):
            where = f"{family}, {recipe}, {cache}, temperature {temperature}"
            most = max(most, decodes_alike(family, busy(recipe, temperature), cache, where))
    for temperature in temperatures(recipe) if family == "llada" else ():
        ends_where_nothing_can_be_said(busy(recipe, temperature), f"{recipe}, temperature {temperature}")
    assert most > 1, "one column per forward at the most: the bars are too high to see more"


@pytest.mark.slow
def test_released_drafts_end_where_nothing_can_be_said():
    """A block that several columns complete at once is read once more, one that broke is not."""
    ends_where_nothing_can_be_said(
        busy("freedave", None, host=busy("threshold", None), steps=None, official=True), "official"
    )


@pytest.mark.slow
@pytest.mark.parametrize("caches", [chosen, pytest.param(every, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_alone_batched_and_permuted_with_guidance(family, caches):
    """Rows doubled, with a state for each; experts would change nothing of it."""
    for cache in caches(family, "low_confidence", ("llada", "dream", "sdar")):
        rule = busy("low_confidence", 0.0, cfg_scale=jnp.float32(1.5))
        decodes_alike(family, rule, cache, f"{family}, guidance, {cache}")


@functools.cache
def usual_pairs(kind: str) -> tuple[list[int], ...]:
    """Two tokens of each row that `threshold` writes side by side."""
    free = halves.decode(kind, busy("threshold", 0.0), kept("none"))
    first = halves.GEOMETRY.block  # behind the prompt's tail, in whichever family
    return tuple(row[first : first + 2].tolist() for row in free.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("caches", [chosen, pytest.param(every, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_alone_batched_and_permuted_under_guides(family, caches):
    """A rule that reads the text outside its window, prompts included; no row holds what it may not, and would have."""
    kind = FAMILIES[family]
    pairs = usual_pairs(kind)
    guides = [jaxdlm.guides.repetition(jnp.float32(1.3)), jaxdlm.guides.banned(list(pairs), untrained(kind))]
    holds = lambda row: any(list(both) in pairs for both in zip(row, row[1:]))  # noqa: E731
    for cache in caches(family, "threshold", ("llada", "dream", "sdar")):
        for temperature in (0.0, 1.0):
            rule = guided(busy("threshold", temperature), guides)
            decodes_alike(family, rule, cache, f"{family}, guided, {cache}, temperature {temperature}")
            out = halves.decode(kind, rule, kept(cache))
            assert not any(holds(row.tolist()) for row in out.tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "recipe", "cache"),
    [("llada", "threshold", "dual"), ("dream", "freedave", "prefix"), ("sdar", "credit", "block_exact")],
)
def test_the_halves_are_the_decode(family, recipe, cache):
    lm, rule = model(FAMILIES[family]), busy(recipe, 1.0)
    new = halves.MAX_NEW[lm.config.attention]
    whole = jaxdlm.decode(lm, PROMPTS, rule, kept(cache), max_new=new, block=halves.GEOMETRY.block, seed=5)
    cut = halves.decode(FAMILIES[family], rule, kept(cache))
    for row, prompt in enumerate(PROMPTS):
        tail = len(prompt) % halves.GEOMETRY.block if lm.config.attention == "block_causal" else 0
        for field in ("tokens", "commit_step"):
            np.testing.assert_array_equal(getattr(cut, field)[row, tail : tail + new], getattr(whole, field)[row])
    np.testing.assert_array_equal(cut.forwards, whole.forwards)
