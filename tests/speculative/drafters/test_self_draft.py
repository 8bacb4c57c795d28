"""One checkpoint drafts by diffusion and verifies from left to right: its autoregressive text, and drafts of a fresh canvas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode
from jaxdlm import speculative as S
from jaxdlm.core.model import Past
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import loop, verify
from jaxdlm.speculative.drafters.self_draft import SelfDraft
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.warp import warp
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, VOCAB, distribution_of, fit, two_modes

LM2, WIDTH, MASK = two_modes(3), 4, VOCAB - 1


@functools.partial(jax.jit, static_argnums=(3, 4))
def fresh(tokens: jax.Array, position: jax.Array, before: jax.Array, width: int, masks: bool = False) -> jax.Array:
    """Logits of a canvas behind a prefix that is read anew, both padded."""
    model, params = LM2.model, LM2.params
    kv = model.prefix(params, tokens, position, position >= 0).kv
    canvas = jnp.where((jnp.arange(width)[None] == 0) & (not masks), tokens[:, before, None], MASK)
    out = model.canvas(
        params, canvas, before + position[:, :width], position[:, :width] >= 0, Past(kv, position, position < before)
    )
    return model.head(params, out.hidden)[0]


@pytest.mark.slow
def test_drafts_are_those_of_a_canvas_behind_a_fresh_prefix():
    """Of every row, round after round; keys of columns that are not committed are poisoned first, and change nothing."""
    policy = Speculation(SelfDraft(warp(jnp.float32(0)), WIDTH), warp(jnp.float32(0)), verify.rejection)
    rows, prompt = lay_out_rows(LM2, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(LM2.model, LM2.params, policy)
    carry = jax.jit(lambda: loop.init(rows, decoding, prompt=prompt, max_new=MAX_NEW, save="none"))()

    @jax.jit
    def once(carry):
        column = jnp.arange(carry.kv.k[0][0].shape[2])[None, None, :, None, None]
        unseen = column >= carry.rows.length[None, :, None, None, None] - 1
        kv = jax.tree.map(lambda leaf: jnp.where(unseen, 1e3, leaf), carry.kv)
        proposal, _ = loop.drafter_of(decoding, kv).propose((), carry.rows, carry.rows.key)
        return proposal.token, loop.step(carry._replace(kv=kv), decoding)

    position = jnp.arange(32, dtype=jnp.int32)[None]
    for _ in range(4):
        before = carry.rows
        token, carry = once(carry)
        for row in np.flatnonzero(~np.asarray(before.done)):
            known = np.zeros((1, 32), np.int32)
            known[0, : before.tokens.shape[1]] = np.asarray(before.tokens)[row]
            logits = np.array(fresh(jnp.asarray(known), position, before.length[row] - 1, WIDTH))[1:]
            logits[:, MASK] = -np.inf
            assert np.asarray(token)[row].tolist() == logits.argmax(1).tolist()


@pytest.mark.slow
def test_quadratic_drafts_are_those_of_masks_behind_the_text_without_its_last_token():
    """After each round, as if nothing had been read before; the text meanwhile is that of plain decoding."""
    policy = S.self_speculation(WIDTH, "quadratic")
    rows, prompt = lay_out_rows(LM2, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(LM2.model, LM2.params, policy)
    carry = jax.jit(lambda: loop.init(rows, decoding, prompt=prompt, max_new=MAX_NEW, save="none"))()
    once, position = jax.jit(functools.partial(loop.step, decoding=decoding)), jnp.arange(32, dtype=jnp.int32)[None]
    grew = set()
    for _ in range(6):
        before, carry = carry.rows, once(carry)
        grew |= set(np.asarray(carry.rows.length - before.length).tolist())
        for row in np.flatnonzero(~np.asarray(carry.rows.done)):
            known, length = np.zeros((1, 32), np.int32), int(carry.rows.length[row])
            known[0, : length - 1] = np.asarray(carry.rows.tokens)[row, : length - 1]
            if int(carry.rows.stop[row]) - length < 2 * WIDTH:
                continue  # masks behind the row's limit are not read
            logits = np.array(fresh(jnp.asarray(known), position, jnp.int32(length - 1), WIDTH, True))[1:]
            logits[:, MASK] = -np.inf
            assert np.asarray(carry.drafter.token)[row].tolist() == logits.argmax(1).tolist()
    assert max(grew) > 1, "some round commits more than one token"


@pytest.mark.slow
def test_sampled_text_has_the_law_of_its_autoregressive_mode():
    """Three tokens, 3,000 times."""
    out = decode(LM2, [PROMPTS[0]] * 3000, S.self_speculation(4, temperature=jnp.float32(1)), max_new=3, seed=11)
    known = functools.partial(np.put, ind=MASK, v=-np.inf)

    def banned(logits, text):
        known(logits)
        return logits

    law = distribution_of(TARGET, PROMPTS[0], 3, least=2e-3, bend=banned)
    assert fit(out.tokens, law) > 1e-3
    assert out.accepted.mean() > 0.05, "drafts that are never accepted say nothing"


def test_models_of_one_mode_and_blocks_that_are_too_long_are_refused():
    with pytest.raises(InputError, match="toy does not draft for itself: self_speculation needs a checkpoint"):
        decode(TARGET, PROMPTS, S.self_speculation(4), max_new=4)
    with pytest.raises(InputError, match="width=9: toy was trained on blocks of 8, use at most that"):
        decode(LM2, PROMPTS, S.self_speculation(9), max_new=4)
    with pytest.raises(InputError, match="toy is a diffusion model: this policy needs an autoregressive target"):
        decode(LM2, PROMPTS, S.lookup(), max_new=4)
    with pytest.raises(InputError, match="noise='shared' means nothing with mode='quadratic'"):
        S.self_speculation(mode="quadratic", noise="shared")
    with pytest.raises(InputError, match="width=17"):
        S.self_speculation(17, "quadratic")
    with pytest.raises(InputError, match="width=1"):
        S.self_speculation(1)
