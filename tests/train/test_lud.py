"""A target is tuned on what it will be asked: pads behind the text, as at decoding, all units of a text at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.train.recipes import lud
from tests.speculative.test_loop import TARGET
from tests.speculative.test_lud import PAD, laws
from tests.train.test_ppd import TEXTS

KEY = jax.random.key(0)


def begins(sure, alpha, most=4, first=0):
    """Of one answer with these probabilities, from column `first` on."""
    sure = np.asarray(sure)[None]
    return lud.units(sure, np.array([first]), np.array([sure.shape[1]]), alpha, most)[0].tolist()


def test_a_unit_ends_where_the_target_was_not_sure():
    sure = [0.3, 0.95, 0.99, 0.2, 0.97]
    assert begins(sure, 0.9) == [0, 0, 0, 3, 3]
    assert begins(sure, 1.1) == [0, 1, 2, 3, 4]
    assert begins([1.0] * 10, 0.0) == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert begins([1.0] * 6, 0.9, most=2, first=3) == [0, 1, 2, 3, 3, 5], "a prompt has no units"


def unit_texts() -> lud.UnitTexts:
    """Units of one to four tokens; the second row's end at its stop."""
    begin = np.tile(np.arange(14), (2, 1))
    begin[0, 4:14] = [4, 4, 4, 4, 8, 9, 9, 11, 11, 11]
    begin[1, 7:12] = [7, 8, 8, 8, 11]
    return lud.UnitTexts(*TEXTS, jnp.asarray(begin, jnp.int32))


@pytest.mark.slow
def test_units_in_one_forward_are_those_of_a_forward_each():
    texts, tuning = unit_texts(), lud.Tuning(PAD, {})
    one = jax.jit(lambda: lud.said(tuning, texts, TARGET.model, TARGET.params))()
    for row in range(2):
        tokens, stop = np.asarray(texts.tokens)[row].tolist(), int(texts.stop[row])
        pads = [t for t in range(14) if int(texts.first[row]) <= t < stop and int(texts.begin[row, t]) < t]
        assert np.flatnonzero(np.asarray(one.learns_pads)[row]).tolist() == pads
        assert np.flatnonzero(np.asarray(one.learns_text)[row]).tolist() == list(range(int(texts.first[row]), stop))
        for t in range(int(texts.first[row]), stop):
            start = int(texts.begin[row, t])
            logits = laws(tokens[:start])[t - start]
            law = logits - np.log(np.exp(logits).sum())
            if t > start:
                np.testing.assert_allclose(one.pads[row, t], law[tokens[t]], rtol=1e-4)
                assert bool(one.right[row, t]) == (law.argmax() == tokens[t])
            law = laws(tokens[:t])[0]
            np.testing.assert_allclose(one.text[row, t], law[tokens[t]] - np.log(np.exp(law).sum()), rtol=1e-4)


@pytest.mark.slow
def test_what_the_target_is_sure_of_is_its_own_law():
    sure = lud.probabilities(TARGET.model, TARGET.params, TEXTS, batch=2)
    tokens = np.asarray(TEXTS.tokens)[0].tolist()
    for t in (1, 6, 13):
        law = np.exp(laws(tokens[:t])[0])
        np.testing.assert_allclose(sure[0, t], law[tokens[t]] / law.sum(), rtol=1e-4)


@pytest.mark.exhaustive
def test_fixed_phrases_are_learned_whole():
    """Text of blocks of four words: a toy that was tuned on it writes a block per forward, with every token right. (Its logits
    are small: of what it knows for certain it says 0.4 to 0.7.)"""
    import jaxdlm as jd
    from jaxdlm._load import LM
    from jaxdlm.models.low_rank import merge
    from jaxdlm.speculative.drafters.lexical import Pads
    from jaxdlm.speculative.lexical import Units
    from jaxdlm.speculative.policy import Speculation
    from jaxdlm.speculative.warp import warp
    from jaxdlm.train.recipes._written import fitted

    phrases = np.random.default_rng(0).permutation(np.arange(2, 22)).reshape(5, 4)
    follows = [phrases[[(start + i) % 5 for i in range(4)]].reshape(-1) for start in range(5)]
    tokens = jnp.asarray(np.stack(follows), jnp.int32)
    begin = jnp.asarray(np.tile(np.arange(16) // 4 * 4, (5, 1)), jnp.int32)
    texts = lud.UnitTexts(tokens, jnp.full(5, 4, jnp.int32), jnp.full(5, 16, jnp.int32), begin)
    value = lambda tuning, some, key: lud.loss(tuning, some, key, TARGET.model, TARGET.params, 1.0)  # noqa: E731
    begin_at = lud.untuned(TARGET, 8, 0)
    made, _ = fitted(value, begin_at, texts, texts, steps=600, batch=5, seed=0, rate=1e-2, clip=1.0)
    lm = LM(TARGET.model, merge(TARGET.params, made.update, 1.0), None, "toy")
    policy = Speculation(Pads(made.pad, {}, 23), warp(), search=Units(jnp.float32(0.3), jnp.bool_(True), 3))
    out = jd.decode(lm, [row[:4].tolist() for row in follows], policy, max_new=12)
    np.testing.assert_array_equal(out.tokens, tokens[:, 4:])
    assert (12 / out.forwards >= 3).all()
