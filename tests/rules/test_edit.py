"""Token editing: a slow loop from the published one, a model that wavers, and what may never be touched."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain, decode, policies
from jaxdlm.core.carry import Geometry, Update
from jaxdlm.rules import sample
from jaxdlm.rules.block_diffusion import select_scheduled
from jaxdlm.rules.edit import edit
from tests.conformance.toys import MASK, PROMPTS, model
from tests.rules.hand import call, row
from tests.rules.test_oracle_runs import confidences

LENGTH, BLOCK = 8, 4


def forward(rule, token, p, view, post=0):
    """(commit, fill, hold, forwards since the last mask) of one forward with these proposals."""
    score = np.log(np.float32(p))
    update = Update(np.zeros((len(token), 8), np.float32), token=np.int32(token), score=score)
    update, state = call(rule, update, np.int32(post), view)
    return np.asarray(update.commit).tolist(), np.asarray(update.fill).tolist(), bool(update.hold), int(state)


def test_masks_and_edits_of_one_forward():
    """Column 0 is written and stays below tau_edit, 1 is rewritten, 2 and 3 are masks, 4 was given."""
    view = row([0, 0, 1, 1, 0], tokens=[1, 1, 7, 7, 1], prefilled=[False] * 4 + [True], tick=3)
    commit, fill, hold, post = forward(edit(0.7, 0.5), [2, 2, 2, 2, 2], [0.5, 0.6, 0.71, 0.7, 0.99], view)
    assert commit == [False, False, True, False, False]
    assert fill == [1, 2, 7, 7, 1]
    assert hold
    assert post == 0


def test_at_least_n_masks_are_written_surest_first():
    view = row([1, 1, 1])
    assert forward(edit(0.9, 1.0, num_to_transfer=2), [2, 2, 2], [0.1, 0.3, 0.3], view)[0] == [False, True, True]


def test_a_block_closes_when_nothing_changes_or_its_budget_is_spent():
    view = row([0, 0], tokens=[1, 2], tick=5)
    rule = edit(0.7, 0.5, max_post_steps=3)
    assert forward(rule, [1, 2], [0.9, 0.9], view)[2:] == (False, 1)
    assert forward(rule, [2, 2], [0.9, 0.9], view)[2:] == (True, 1)
    assert forward(rule, [2, 2], [0.9, 0.9], view, post=2)[2:] == (False, 3)
    last = row([0, 1], tokens=[1, 7], tick=2)  # the last mask is written now: edits may follow, with a budget
    assert forward(rule, [1, 2], [0.9, 0.9], last)[2]
    assert not forward(edit(max_post_steps=0), [1, 2], [0.9, 0.9], last)[2]
    assert not forward(rule, [2], [0.9], row([0], tokens=[1], prefilled=[True])._replace(active=jnp.zeros(1, bool)))[2]


def oracle(lm, prompt, tau_mask, tau_edit, most, least):
    """The released loop, block by block, float64: (tokens, forwards)."""
    tokens, forwards = [*prompt, *[MASK] * LENGTH], 0
    for start in range(len(prompt), len(tokens), BLOCK):
        block, post = range(start, start + BLOCK), 0
        while True:
            masks = [i for i in block if tokens[i] == MASK]
            post += not masks
            if post > most:
                break
            token, score = confidences(lm, tokens)
            forwards += 1
            sure = [i for i in masks if np.exp(score[i]) > tau_mask]
            write = sure if len(sure) >= least else sorted(masks, key=lambda i: (-score[i], i))[:least]
            change = [i for i in block if i not in masks and np.exp(score[i]) > tau_edit and token[i] != tokens[i]]
            for i in (*write, *change):
                tokens[i] = int(token[i])
            if not masks and not change:
                break
    return tokens[len(prompt) :], forwards


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau_mask", "tau_edit", "most", "least"), [(0.3, 0.2, 4, 1), (0.2, 0.0, 3, 2), (0.5, 0.9, 0, 1)]
)
def test_decodes_like_the_released_loop(tau_mask, tau_edit, most, least):
    lm = model("same")
    # arrays, so that the three cases run one program
    rule = edit(*(jnp.float32(x) for x in (tau_mask, tau_edit)), *(jnp.int32(x) for x in (most, least)))
    out = decode(lm, PROMPTS, chain(sample(), rule), max_new=LENGTH, block=BLOCK)
    for at, prompt in enumerate(PROMPTS):
        tokens, forwards = oracle(lm, prompt, tau_mask, tau_edit, most, least)
        assert out.tokens[at].tolist() == tokens
        assert out.forwards[at] == forwards
        assert out.forwards[at] <= rule.forwards(Geometry(32, BLOCK, LENGTH // BLOCK))


@pytest.mark.slow
def test_without_edits_it_is_the_threshold_and_one_more_forward_per_block():
    lm, run = model("same"), {"max_new": LENGTH, "block": BLOCK}
    out = decode(lm, PROMPTS, chain(sample(), edit(0.3, 1.0)), **run)
    plain = decode(lm, PROMPTS, chain(sample(), select_scheduled(tau=0.3)), **run)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    np.testing.assert_array_equal(out.forwards, plain.forwards + LENGTH // BLOCK)


def test_bad_arguments():
    for wrong in ({"tau_mask": -1}, {"tau_edit": -0.1}, {"max_post_steps": -1}, {"num_to_transfer": 0}):
        with pytest.raises(InputError, match="must be"):
            policies.RECIPES["llada21"](**wrong)
