"""AdaDec against its rule in float64, each lookahead from forwards over everything; and its invariants."""

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from tests.guides import oracles
from tests.speculative.toys import PROMPTS, model, next_logits

RUN = {"max_new": 8}
EVEN = 1.6  # nats between sure and unsure steps of these models


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def searched(lm, prompt, threshold, k=3, length=5, official=False, bend=lambda logits, text: logits):
    """(text, forwards, tokens read ahead)."""
    text, forwards, ahead, (end,) = [], 0, 0, lm.config.tokens.eos
    logp_of = lambda text: log_softmax(bend(next_logits(lm, [*prompt, *text]), text))  # noqa: E731
    over = lambda text: text[-1] == end or len(text) == 8  # noqa: E731
    while not text or not over(text):
        logp, forwards = logp_of(text), forwards + 1
        best = int(logp.argmax())
        if -(np.exp(logp) * np.where(np.exp(logp) > 0, logp, 0)).sum() >= threshold:
            tries = [[*text, int(v)] for v in np.argsort(-logp, kind="stable")[:k]]
            total, count, done = [float(logp[each[-1]]) for each in tries], [0] * k, [over(each) for each in tries]
            for _ in range(length):
                if all(done):
                    break
                forwards += 1
                for i in range(k):
                    if done[i] and (not official or len(tries[i]) >= 8):
                        continue
                    step = logp_of(tries[i])
                    tries[i] = [*tries[i], int(step.argmax())]
                    total[i] += float(step.max())
                    count[i] += not done[i]
                    ahead += not done[i]
                    done[i] = done[i] or over(tries[i])
            mean = [t / (c + 1) for t, c in zip(total, count, strict=True)]
            best = tries[int(np.argmax(mean))][len(text)]
        text.append(best)
    return text + [end] * (8 - len(text)), forwards, ahead


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, EVEN, 2.2])
def test_it_is_the_rule(threshold):
    """Rows that pause and rows that do not, in one batch."""
    for seed in (0, 3):
        out = decode(model(seed), PROMPTS, jd.adadec(np.float32(threshold)), **RUN)
        wanted = [searched(model(seed), prompt, threshold) for prompt in PROMPTS]
        assert out.tokens.tolist() == [text for text, *_ in wanted]
        assert out.forwards.tolist() == [forwards for _, forwards, _ in wanted]
        assert out.drafted.tolist() == [ahead for *_, ahead in wanted]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_as_released_what_follows_an_end_counts():
    """A model whose candidates end soon, so that it makes a difference."""
    lm, rows = model(3, end=7), PROMPTS[:3]
    wanted = [[searched(lm, prompt, 0.0, official=official)[0] for prompt in rows] for official in (True, False)]
    assert wanted[0] != wanted[1]
    for official, texts in zip((True, False), wanted, strict=True):
        assert decode(lm, rows, jd.adadec(0.0, official=official), **RUN).tokens.tolist() == texts


@pytest.mark.slow
def test_without_a_pause_a_choice_or_a_look_it_is_greedy():
    plain = decode(model(0), PROMPTS, "autoregressive", **RUN)
    for policy in (jd.adadec(100.0), jd.adadec(0.0, k=1), jd.adadec(0.0, length=0)):
        np.testing.assert_array_equal(decode(model(0), PROMPTS, policy, **RUN).tokens, plain.tokens)
    np.testing.assert_array_equal(decode(model(0), PROMPTS, jd.adadec(100.0), **RUN).forwards, plain.forwards)


@pytest.mark.slow
def test_rows_do_not_depend_on_each_other():
    whole = decode(model(3), PROMPTS, jd.adadec(np.float32(EVEN)), **RUN)
    for row in (0, 2):
        alone = decode(model(3), [PROMPTS[row]], jd.adadec(np.float32(EVEN)), **RUN)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        assert (alone.forwards[0], alone.drafted[0]) == (whole.forwards[row], whole.drafted[row])


@pytest.mark.slow
def test_a_guide_bends_every_look():
    bend = lambda prompt: lambda logits, text: oracles.penalised(logits, [*prompt, *text], np.float32(2))  # noqa: E731
    out = decode(model(0), PROMPTS, jd.adadec(np.float32(EVEN), guide=jd.guides.repetition(2.0)), **RUN)
    assert out.tokens.tolist() == [searched(model(0), prompt, EVEN, bend=bend(prompt))[0] for prompt in PROMPTS]


def test_what_is_out_of_range_is_refused():
    for wrong, message in [({"threshold": -1}, "threshold=-1"), ({"k": 0}, "k=0"), ({"length": 65}, "length=65")]:
        with pytest.raises(InputError, match=message):
            jd.adadec(**wrong)
