"""Several answers of one prompt, and the log-probabilities of what was written."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm._load import LM
from jaxdlm.core.guide import OfRow
from jaxdlm.layout import arrange_rows
from jaxdlm.models import Backbone
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.pool import generate_pool
from tests.conformance.toy_models import model as diffusion
from tests.speculative.toys import PROMPTS, distribution_of, fit, model, near, next_logits

HOT = np.float32(1)
RUN = {"max_new": 6, "seed": 5}


@functools.cache
def three(policy: str = "autoregressive"):
    return decode(model(0), PROMPTS, policies(policy), n=3, top_logprobs=4, **RUN)


def policies(name: str):
    return jd.autoregressive(HOT) if name == "autoregressive" else jd.speculative(near(model(0), 0.02), 2, HOT)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["autoregressive", pytest.param("speculative", marks=pytest.mark.exhaustive)])
def test_samples_of_a_prompt_are_its_own(policy):
    """The first is that of n=1; no sample depends on how many there are, or on which other prompts are there."""
    out = three(policy)
    assert out.tokens.shape == (15, 6)
    np.testing.assert_array_equal(out.tokens[::3], decode(model(0), PROMPTS, policies(policy), **RUN).tokens)
    alone = decode(model(0), [PROMPTS[2]], policies(policy), n=3, top_logprobs=4, ids=[2], **RUN)
    np.testing.assert_array_equal(alone.tokens, out.tokens[6:9])
    assert len({tuple(row) for row in out.tokens[6:9].tolist()}) > 1
    assert out.text is None or len(out.text) == 15


@pytest.mark.slow
def test_samples_have_the_law_of_the_model():
    """1000 of one prompt: texts of two tokens, against the enumeration of them all."""
    out = decode(model(0), [PROMPTS[1]], jd.autoregressive(HOT), n=1000, max_new=2)
    assert fit(out.tokens, distribution_of(model(0), PROMPTS[1], 2)) > 1e-3


@pytest.mark.slow
def test_the_prompt_is_read_once_for_all(monkeypatch):
    rows = []

    class Counting(Backbone):
        def apply(self, params, tokens, *args, **named):
            rows.append(tokens.shape)
            return super().apply(params, tokens, *args, **named)

    lm = LM(Counting(model(0).config), model(0).params, None, "toy")
    out = decode(lm, PROMPTS[:2], jd.autoregressive(HOT), n=4, **RUN)
    assert (2, 16) in rows and (8, 16) not in rows and (8, 1) in rows
    np.testing.assert_array_equal(out.tokens, decode(model(0), PROMPTS[:2], jd.autoregressive(HOT), n=4, **RUN).tokens)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_pool_of_slots_and_programs_of_a_size():
    policy = dataclasses.replace(jd.autoregressive(HOT), slots=4)
    np.testing.assert_array_equal(decode(model(0), PROMPTS, policy, n=3, **RUN).tokens, three().tokens)
    sized = decode(model(0), PROMPTS, jd.autoregressive(HOT), n=3, rows_per_program=6, **RUN)
    np.testing.assert_array_equal(sized.tokens, three().tokens)
    with pytest.raises(InputError, match="rows_per_program=8: the 3 rows of a prompt"):
        decode(model(0), PROMPTS, jd.autoregressive(HOT), n=3, rows_per_program=8)


@pytest.mark.slow
def test_a_diffusion_model_draws_each_by_itself():
    run = {"max_new": 8, "block": 4, "policy": "threshold,tau=0.05,temperature=1"}
    prompts = [[3, 9, 4], [7, 2, 5, 6, 11]]
    out = decode(diffusion("same"), prompts, n=3, **run)
    np.testing.assert_array_equal(out.tokens[::3], decode(diffusion("same"), prompts, **run).tokens)
    np.testing.assert_array_equal(out.tokens[3:], decode(diffusion("same"), prompts[1:], n=3, ids=[1], **run).tokens)
    assert len({tuple(row) for row in out.tokens[:3].tolist()}) > 1 and out.logprobs is None


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["autoregressive", pytest.param("speculative", marks=pytest.mark.exhaustive)])
def test_log_probabilities_are_the_models_own(policy):
    """Of each token and of the likeliest beside it: log softmax of a forward over everything before."""
    out = three(policy)
    assert out.top_tokens.shape == out.top_logprobs.shape == (15, 6, 4)
    for row in (0, 4, 14):
        text, written = list(PROMPTS[row // 3]), out.commit_step[row] >= 0
        for at in np.flatnonzero(written):
            logits = next_logits(model(0), text).astype(np.float64)
            logp = logits - np.log(np.exp(logits).sum())
            best = np.argsort(-logp, kind="stable")[:4]
            assert out.logprobs[row, at] == pytest.approx(logp[out.tokens[row, at]], abs=2e-4)
            np.testing.assert_array_equal(out.top_tokens[row, at], best)
            np.testing.assert_allclose(out.top_logprobs[row, at], logp[best], atol=2e-4)
            text.append(int(out.tokens[row, at]))
        assert (out.logprobs[row, ~written] == 0).all()
    bent = decode(model(0), PROMPTS, jd.autoregressive(guide=jd.guides.presence(2.0)), max_new=4)
    assert bent.logprobs[0, 0] == pytest.approx(three().top_logprobs[0, 0, 0], abs=1e-5), (
        "before guides and temperature"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n": 0}, "n=0: must be"), ({"n": 2.0}, "n=2.0"), ({"top_logprobs": 21}, "top_logprobs=21: must be"),
     ({"n": 2, "policy": "autoregressive"}, "n=2: at temperature 0"), ({"top_logprobs": 3, "save": "none"}, "save='none'")],
)  # fmt: skip
def test_what_means_nothing_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        decode(model(0), PROMPTS, **{"policy": jd.autoregressive(HOT), "max_new": 4} | wrong)


@pytest.mark.slow
def test_more_than_the_vocabulary_has():
    assert decode(model(0), [[3]], "autoregressive", max_new=2, top_logprobs=20).top_tokens.shape == (1, 2, 20)
    assert jax.tree.leaves(dataclasses.replace(jd.autoregressive(), samples=3, top=2)) == [0.0], "static"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_numbers_of_rows_follow_them_into_slots():
    """Rows with temperatures, filters and penalties of their own, admitted as others end, write what they write together."""
    own = [(0.0, 0, 0.0), (1.0, 3, 0.0), (2.0, 0, 0.2), (1.0, 0, 0.0), (0.5, 9, 0.0)]
    numbers = [dict(zip(("temperature", "top_k", "min_p"), each, strict=True)) for each in own]
    guides = [jd.guides.frequency(penalty) for penalty in (0.0, 2.0, 0.0, -1.0, 0.5)]
    texts = [np.asarray(prompt, np.int32) for prompt in PROMPTS]
    rows, prompt = arrange_rows(model(0), texts, max_new=6, seed=5, ids=range(5), guides=guides, numbers=numbers)
    policy = jd.autoregressive(HOT).guided(OfRow())
    decoding = Decoding(model(0).model, model(0).params, policy)
    together = generate(rows, decoding, prompt, 6, "commit")
    pooled = generate_pool(rows, dataclasses.replace(decoding, policy=policy.replace(slots=2)), prompt, 6, "commit")
    np.testing.assert_array_equal(together[0].tokens, pooled[0].tokens)
    np.testing.assert_array_equal(together[1].commit_step, pooled[1].commit_step)
    for row, (heat, top_k, min_p) in enumerate(own):
        policy = jd.autoregressive(np.float32(heat), top_k, min_p=min_p, guide=guides[row])
        alone = decode(model(0), [PROMPTS[row]], policy, ids=[row], **RUN)
        start, count = len(PROMPTS[row]), int(alone.forwards[0])
        assert together[0].tokens[row, start : start + count].tolist() == alone.tokens[0, :count].tolist()
