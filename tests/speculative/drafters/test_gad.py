"""Drafts of a masked diffusion model are its own at masks behind the text; relaxed verification is as loose as it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, load
from jaxdlm import speculative as S
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters import MaskedDraft
from jaxdlm.speculative.drafters.gad import _example
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Proposal
from jaxdlm.speculative.tree import chains
from jaxdlm.speculative.warp import warp
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, VOCAB, model, near, next_logits

DRAFT = near(TARGET, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["same", "next"])
def test_drafts_are_the_models_own_at_masks_behind_the_text(prediction):
    """No pad and nothing behind the masks is seen: a row of its own length and no more says the same."""
    drafter = _example(DRAFT, warp())
    config = dataclasses.replace(drafter.model.config, prediction=prediction)
    drafter = drafter.replace(model=dataclasses.replace(drafter.model, config=config))
    rows, _ = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    logits = jax.jit(drafter.filled)(rows)
    for row in (1, 3):
        tokens = jnp.array([[*PROMPTS[row], *[VOCAB - 1] * 3]], jnp.int32)
        position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden = drafter.model.apply(drafter.params, tokens, position, position >= 0).hidden
        own = drafter.model.head(drafter.params, hidden)[0]
        first = len(PROMPTS[row]) - (prediction == "next")
        np.testing.assert_allclose(logits[row, :, :-1], own[first : first + 3, :-1], rtol=1e-4, atol=1e-4)
    assert bool((logits[:, :, VOCAB - 1] == -jnp.inf).all()), "the mask is never a draft"


def relaxed(logits: np.ndarray, draft: list[int], beta: int, tau: float) -> list[int]:
    """The tokens that one round commits."""
    written = []
    for row, token in zip(logits, draft):
        rank = int((row > row[token]).sum())
        if rank >= beta or row.max() - row[token] > tau:
            break
        written.append(token)
    return [*written, int(logits[len(written)].argmax())]


def test_relaxed_verification_is_that_of_a_loop_and_one_best_is_greedy():
    rng, tree = np.random.default_rng(0), chains(1, 4)
    judge = jax.jit(
        lambda rule, logits, token: rule(logits, Proposal(token, token >= 0, None, tree), None), static_argnums=0
    )
    for _ in range(12):
        logits = rng.normal(size=(5, 6)).astype(np.float32)
        draft = [int(np.argsort(-row)[rng.integers(0, 3)]) for row in logits[:4]]
        counts = []
        for rule in (verify.greedy, verify.Relaxed(1, 9.0), verify.Relaxed(3, 0.5), verify.Relaxed(3, 9.0)):
            out = judge(rule, jnp.asarray(logits), jnp.asarray(draft, jnp.int32))
            beta, tau = (1, 0.0) if rule is verify.greedy else (rule.beta, rule.tau)
            assert [*draft[: int(out.count)], int(out.bonus)] == relaxed(logits, draft, beta, tau)
            counts.append(int(out.count))
        assert counts[0] == counts[1] and counts[1] <= counts[2] <= counts[3]


@pytest.mark.exhaustive
def test_relaxed_text_is_near_the_best_of_its_own_prefix():
    beta, tau = 3, 1.5
    policy = Speculation(S.speculative(near(TARGET, 0.1), k=3).drafter, warp(), verify.Relaxed(beta, tau))
    out = decode(TARGET, PROMPTS, policy, max_new=6, seed=5)
    moved = 0
    for row, prompt in enumerate(PROMPTS):
        for column in range(6):
            logits = next_logits(TARGET, [*prompt, *out.tokens[row, :column].tolist()])
            token = out.tokens[row, column]
            assert (logits > logits[token]).sum() < beta and logits.max() - logits[token] <= tau + 1e-4
            moved += int(logits.argmax() != token)
            if token == TARGET.config.tokens.eos[0]:
                break
    assert moved, "some token is not the best"


def test_drafts_that_fill_no_masks_are_refused():
    with pytest.raises(
        InputError, match="draft toy does not fill masks on both sides of a text: use a model such as 'tiny'"
    ):
        S.gad(model(8))
    with pytest.raises(InputError, match="draft tiny is a diffusion model: use an autoregressive one"):
        S.speculative(load("tiny"))
    with pytest.raises(InputError, match=r"different vocabularies"):
        decode(TARGET, PROMPTS, S.gad(load("tiny")), max_new=4)
    with pytest.raises(InputError, match="beta=5: relaxed verification is of temperature 0"):
        S.gad(load("tiny"), beta=5, temperature=1.0)
    with pytest.raises(InputError, match=r"tau=1.0 means nothing with beta=1"):
        S.gad(load("tiny"), tau=1.0)
    assert isinstance(S.gad(load("tiny"), k=3).drafter, MaskedDraft)
