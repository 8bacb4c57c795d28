"""Every drafter on 1,000 random cases of prompt, batch, tree and temperature, and its sampled texts by their law."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode, registry
from jaxdlm._load import LM
from jaxdlm.models import Backbone
from jaxdlm.speculative import verify
from jaxdlm.speculative.causal import Causal
from jaxdlm.speculative.drafters import Nothing, ppd
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.tree import Grown
from jaxdlm.speculative.warp import Warp, warp
from tests.conformance.test_drafters import DRAFTS, TARGETS, target
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, distribution_of, fit, model, near

CASES, MOST = 1000, 48  # in all, and rows of a batch
# two trees of each drafter, by what its example is changed in
TREES = {
    "Aded": ({"paths": 2}, {"paths": 6}), "Aggressive": ({"depth": 2}, {"depth": 7}), "DFlash": ({"width": 2}, {}),
    "DraftModel": ({"depth": 5}, {"width": 2, "depth": 2}), "Eagle2": ({"width": 2, "depth": 2, "nodes": 5}, {"nodes": 14}),
    "Eagle3": ({"width": 2, "depth": 2, "nodes": 5}, {"nodes": 14}), "Exits": ({"depth": 1}, {"depth": 4}),
    "Forced": ({}, {"depth": 6}), "Jacobi": ({"window": 2}, {"window": 7}), "Lexical": ({"k": 1}, {"k": 5}),
    "Lookup": ({"depth": 2}, {"depth": 7, "ngram": 3}), "MaskedDraft": ({"depth": 2}, {"depth": 5}),
    "Nothing": ({},), "Pearl": ({"chunk": 2}, {"chunk": 5}), "PromptTokens": ({"budget": 6}, {"budget": 20}),
    "Quadratic": ({"width": 2}, {"width": 4}), "SelfDraft": ({"width": 2}, {"width": 6}),
    "SpecDecPP": ({"least": 1}, {"least": 4}),
}  # fmt: skip


class Batch(NamedTuple):
    """Rows that are decoded together, each a case."""

    prompts: list[list[int]]
    ids: list[int]
    temperature: float


@functools.cache
def batches() -> tuple[Batch, ...]:
    """`CASES` rows in batches of 1 to `MOST`, half of them greedy; texts with repeats, so that something is found in them."""
    rng, made, left = np.random.default_rng(23), [], CASES
    while left:
        count = min(left, int(rng.integers(1, MOST + 1)))
        words = [rng.integers(2, 2 + int(rng.integers(2, 19)), int(rng.integers(1, 17))).tolist() for _ in range(count)]
        heat = 0.0 if len(made) % 2 else float(rng.uniform(0.3, 1.5))
        made.append(Batch(words, rng.integers(0, 10**6, count).tolist(), heat))
        left -= count
    return tuple(made)


def run(lm: LM, policy: Speculation, batch: Batch) -> np.ndarray:
    """Tokens; batches of any number of rows share a program."""
    how = {"max_new": MAX_NEW, "seed": 7, "rows_per_program": MOST, "save": "none"}
    return decode(lm, batch.prompts, policy, ids=batch.ids, **how).tokens


@functools.cache
def plain(two_modes: bool) -> list[np.ndarray]:
    """The target's own answers; of two modes its autoregressive one, which says no mask."""
    lm = LM(Causal(TARGETS["SelfDraft"].model), TARGET.params, None, "toy") if two_modes else TARGET
    policy = lambda heat: Speculation(Nothing(), warp(jnp.float32(heat)), verify.rejection)  # noqa: E731
    return [run(lm, policy(batch.temperature), batch) for batch in batches()]


def drafter(name: str, change: dict, sampling: Warp, lm: LM | None = None, draft: LM | None = None):
    lm = target(name) if lm is None else lm
    if "budget" in change:
        return ppd.untrained(lm, **change)
    return dataclasses.replace(
        registry.drafters()[name].example(lm, DRAFTS["near"] if draft is None else draft, sampling), **change
    )


def test_every_drafter_has_trees():
    assert set(TREES) == set(registry.drafters())


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TREES)
def test_a_thousand_random_cases_have_the_targets_own_text(name):
    """Greedy, and token by token under shared noise at random temperatures: no row differs."""
    wrong, cases = [], {0: 0, 1: 0}
    for number, batch in enumerate(batches()):
        for change in TREES[name]:
            sampling = warp(jnp.float32(batch.temperature), noise="shared")
            out = run(target(name), Speculation(drafter(name, change, sampling), sampling, verify.greedy), batch)
            wrong += [
                (change, batch.prompts[i]) for i in np.flatnonzero((out != plain(name in TARGETS)[number]).any(1))
            ]
            cases[int(batch.temperature > 0)] += len(out)
    print(f"{name}: {cases[0]} greedy and {cases[1]} sampled cases, {len(wrong)} mismatches")
    assert sum(cases.values()) == CASES * len(TREES[name]) and not wrong


WORDS, LENGTH, ROWS, START = 5, 3, 6000, [0, 2, 3, 0, 2]
SMALL = model(11, vocab=WORDS, end=1)
SMALL_DRAFT = near(SMALL, 0.1)


def small(name: str) -> LM:
    """The target; with a mask, its last word, where it has two modes or the draft is a model with one."""
    if name not in TARGETS:
        return SMALL
    tokens = dataclasses.replace(SMALL.config.tokens, mask=WORDS - 1)
    mode = {"attention": "prefix_canvas", "prediction": "same", "noise": "mask", "block_size": 8, "tokens": tokens}
    return LM(Backbone(dataclasses.replace(SMALL.config, **mode)), SMALL.params, None, SMALL.name)


@functools.cache
def law(masked: bool) -> dict[tuple[int, ...], float]:
    without = lambda logits, text: np.where(np.arange(WORDS) == WORDS - 1, -np.inf, logits)  # noqa: E731
    return distribution_of(SMALL, START, LENGTH, 1.0, **({"bend": without} if masked else {}))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TREES)
def test_sampled_texts_have_the_targets_law(name):
    """Chi-square over all texts of three tokens, by the drafter's own rule: rejection, SpecTr's, or matching."""
    sampling = warp(jnp.float32(1))
    made = drafter(name, TREES[name][-1], sampling, small(name), SMALL_DRAFT)
    if isinstance(made.tree, Grown) or name == "Quadratic":
        policy = Speculation(made, sampling.replace(shared=True), verify.greedy)
    else:
        policy = Speculation(made, sampling, verify.rejection if made.tree.is_chain else verify.k_sequence)
    out = decode(small(name), [START] * ROWS, policy, max_new=LENGTH, seed=1, save="none")
    chance = fit(out.tokens, law(name in TARGETS))
    print(f"{name}: p = {chance:.3f} of {ROWS} texts")
    assert set(map(tuple, out.tokens.tolist())) <= set(law(name in TARGETS)) and chance > 1e-3
