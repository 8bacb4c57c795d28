"""Sorted drafts: exits never change a token of the target, and keys that were skipped are made up for exactly."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, load, speculative
from jaxdlm._load import ASSETS
from jaxdlm.eval.task import make
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.s2d import Exits
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.train.recipes import s2d as recipe
from tests.speculative.test_methods import HOT, SMALL, p_value
from tests.speculative.toys import MAX_NEW, PROMPTS, greedy_decode, model, near

EXITS, K = (1, 2, 4), 3
TARGET = model(7, layers=4)
DRAFT = near(TARGET, 0.02)
RUN = {"max_new": MAX_NEW, "seed": 5}


@functools.cache
def expected() -> np.ndarray:
    return np.array([greedy_decode(TARGET, prompt) for prompt in PROMPTS])


def policy(thresholds, lm=DRAFT, exits=EXITS, k=K, temperature=None):
    sampling = warp() if temperature is None else warp(temperature)
    drafter = Exits(lm.params, sampling, tuple(jnp.float32(t) for t in thresholds), lm.model, exits, k)
    return Speculation(drafter, sampling, verify.greedy if temperature is None else verify.rejection)


def exit_choice(lm, tokens: list[int], thresholds) -> int:
    """The token that follows, from a fresh forward over everything: no cache, no waiting states."""
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(tokens)] = tokens
    found = every_exit(lm.params, jnp.asarray(padded))
    for logits, tau in zip(found, (*thresholds, -1.0), strict=True):
        row = np.asarray(logits[0, len(tokens) - 1], np.float64)
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        if p.max() > tau:
            return int(row.argmax())
    raise AssertionError


@jax.jit
def every_exit(params, tokens):
    return recipe.exit_logits(DRAFT.model, params, tokens, EXITS, 0, 32)


def slow(prompt: list[int], answer: list[int], thresholds) -> list[int]:
    """Target forwards at which greedy verification of the slow drafts commits each token of the answer."""
    rounds, done = [], 0
    while done < len(answer):
        text, drafts = prompt + answer[:done], []
        for _ in range(min(K, MAX_NEW - done)):
            drafts.append(exit_choice(DRAFT, text + drafts, thresholds))
        right = 0
        while right < len(drafts) and done + right < len(answer) and drafts[right] == answer[done + right]:
            right += 1
        rounds += [len(set(rounds))] * min(right + 1, len(answer) - done)
        done += right + 1
    return rounds


@pytest.mark.exhaustive
@pytest.mark.slow
def test_one_draft_serves_several_targets():
    """A target of its own layers, and one that the draft hardly ever foresees: each writes its own greedy tokens."""
    accepted = []
    for target in (TARGET, model(3), model(8, layers=4)):
        out = decode(target, PROMPTS, policy((0.2, 0.3)), **RUN)
        np.testing.assert_array_equal(out.tokens, [greedy_decode(target, prompt) for prompt in PROMPTS])
        accepted.append(out.accepted.mean())
    assert accepted[0] > max(accepted[1:])


@pytest.mark.parametrize("thresholds", [(0.2, 0.3), (1.0, 1.0), (-1.0, -1.0)])
def test_drafts_are_those_of_a_fresh_forward_and_tokens_those_of_plain_decoding(thresholds):
    """Mixed exits; never early; always at the first. `slow` knows neither caches nor catching up."""
    out = decode(TARGET, PROMPTS, policy=policy(thresholds), **RUN)
    np.testing.assert_array_equal(out.tokens, expected())
    for row, prompt in enumerate(PROMPTS):
        written = int((out.commit_step[row] >= 0).sum())
        wanted = slow(list(prompt), expected()[row, :written].tolist(), thresholds)
        np.testing.assert_array_equal(out.commit_step[row, :written], wanted)


def test_never_leaving_early_is_the_whole_draft():
    whole = decode(TARGET, PROMPTS, policy=speculative.speculative(DRAFT, k=K), **RUN)
    out = decode(TARGET, PROMPTS, policy=policy((1.0, 1.0)), **RUN)
    for name in ("tokens", "forwards", "commit_step"):
        np.testing.assert_array_equal(getattr(out, name), getattr(whole, name))


@pytest.mark.exhaustive
def test_sampled_tokens_have_the_targets_distribution():
    draft = near(SMALL, 0.1)
    assert p_value(policy((0.4,), draft, (1, 2), 2, HOT), 1.0) > 1e-3


@pytest.mark.slow
def test_the_loss_is_the_mean_over_exits():
    lm, rng = DRAFT, np.random.default_rng(0)
    batch = {
        "tokens": jnp.asarray(rng.integers(2, 20, (2, 32)), jnp.int32),
        "target": jnp.asarray(rng.integers(2, 20, (2, 4)), jnp.int32),
        "weight": jnp.full((2, 4), 1 / 8, jnp.float32),
    }
    logits = [np.asarray(part, np.float64)[:, 27:31] for part in every_exit(lm.params, batch["tokens"])]
    wanted = 0.0
    for part in logits:
        log_p = part - np.log(np.exp(part).sum(-1, keepdims=True))
        wanted -= np.take_along_axis(log_p, np.asarray(batch["target"])[..., None], -1).sum() / 8 / len(EXITS)
    assert float(recipe.sorted_loss(lm.model, lm.params, batch, exits=EXITS)) == pytest.approx(wanted, rel=1e-4)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="no exits are shipped for draft"):
        speculative.s2d(DRAFT)
    with pytest.raises(InputError, match="is no file"):
        speculative.s2d(DRAFT, weights=tmp_path / "none")
    with pytest.raises(InputError, match="k=0"):
        speculative.s2d(DRAFT, k=0)
    with pytest.raises(InputError, match="must rise to the 4 layers"):
        recipe.run(DRAFT, tmp_path, exits=(2, 1, 4))


@pytest.mark.slow
def test_the_shipped_exits_belong_to_the_shipped_draft():
    record = json.loads((ASSETS / "tiny-draft" / "s2d.json").read_text())
    target, draft = load("tiny-ar"), load("tiny-draft")
    assert record["fingerprint"] == fingerprint(draft.params)
    assert record["loss_of_each_exit"]["after"][0] < 0.5 * record["loss_of_each_exit"]["before"][0]
    moved = draft.params | {"final_norm": draft.params["final_norm"] * 2}
    with pytest.raises(InputError, match="trained for another draft"):
        speculative.s2d(type(draft)(draft.model, moved, draft.tokenizer, "tiny-draft"))
    prompts = [example.prompt for name in ("sort", "reverse") for example in make(name, 4, seed=5)]
    plain = decode(target, prompts, "autoregressive", max_new=16)
    out = decode(target, prompts, "s2d", max_new=16)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    assert out.forwards.sum() < 0.6 * plain.forwards.sum()
