"""Contrastive search against its definition in float64: one forward over everything for each candidate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from tests.guides import oracles
from tests.speculative.toys import END, PROMPTS, model

RUN = {"max_new": 8}


@functools.partial(jax.jit, static_argnums=0)
def _rows(module, params, tokens):
    position = jnp.arange(tokens.shape[0], dtype=jnp.int32)[None]
    hidden = module.apply(params, tokens[None], position, jnp.ones_like(position, bool)).hidden
    return module.head(params, hidden)[0], hidden[0]


def rows_of(lm, tokens):
    """(logits behind the last token, hidden rows), without a cache."""
    padded = np.zeros(32, np.int32)
    padded[: len(tokens)] = tokens
    logits, hidden = _rows(lm.model, lm.params, padded)
    return np.float64(logits)[len(tokens) - 1], np.float64(hidden)[: len(tokens)]


def searched(lm, prompt, k, alpha, bend=lambda logits, text: logits):
    text = []
    while len(text) < 8 and END not in text:
        logits, before = rows_of(lm, [*prompt, *text])
        logits = np.float64(bend(logits, text))
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        scores = {}
        for v in np.argsort(-p, kind="stable")[:k]:
            own = rows_of(lm, [*prompt, *text, int(v)])[1][-1]
            cosine = before @ own / np.linalg.norm(before, axis=1) / np.linalg.norm(own)
            scores[int(v)] = (1 - alpha) * p[v] - alpha * cosine.max()
        text.append(max(scores, key=scores.get))
    return text + [END] * (8 - len(text))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
def test_it_is_the_definition(alpha):
    out = decode(model(0), PROMPTS, jd.contrastive(4, np.float32(alpha)), **RUN)
    assert out.tokens.tolist() == [searched(model(0), prompt, 4, alpha) for prompt in PROMPTS]
    if alpha == 0:
        np.testing.assert_array_equal(out.tokens, decode(model(0), PROMPTS, "autoregressive", **RUN).tokens)


@pytest.mark.slow
def test_rows_do_not_depend_on_each_other():
    whole = decode(model(3), PROMPTS, jd.contrastive(4, np.float32(0.6)), **RUN)
    for row in (1, 3):
        alone = decode(model(3), [PROMPTS[row]], jd.contrastive(4, np.float32(0.6)), **RUN)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        assert (alone.forwards[0], alone.status[0]) == (whole.forwards[row], whole.status[row])
    back = decode(model(3), PROMPTS[::-1], jd.contrastive(4, np.float32(0.6)), **RUN)
    np.testing.assert_array_equal(back.tokens[::-1], whole.tokens)


@pytest.mark.slow
def test_a_guide_bends_the_candidates():
    bend = lambda prompt: lambda logits, text: oracles.penalised(logits, [*prompt, *text], np.float32(2))  # noqa: E731
    out = decode(model(0), PROMPTS, jd.contrastive(4, np.float32(0.3), guide=jd.guides.repetition(2.0)), **RUN)
    assert out.tokens.tolist() == [searched(model(0), prompt, 4, 0.3, bend(prompt)) for prompt in PROMPTS]


def test_what_means_nothing_is_refused():
    for wrong, message in [({"k": 0}, "k=0"), ({"alpha": 1.5}, "alpha=1.5"), ({"alpha": None}, "alpha=None")]:
        with pytest.raises(InputError, match=message):
            jd.contrastive(**wrong)
    with pytest.raises(InputError, match="n=2: this policy finds 1 per prompt"):
        decode(model(0), PROMPTS, jd.contrastive(), n=2)
