"""DAEDAL: a slow loop over lists from the released one, its bounds, and what it does not go together with."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, policies
from jaxdlm.core.carry import Geometry
from tests.conformance.toys import MASK, PROMPTS, model
from tests.rules.test_oracle_runs import _raw, log_softmax

LENGTH, BLOCK, END = 16, 4, 26  # a token that the toy model is fond of
NAMES = ("tau", "low", "initial", "expand", "look", "enough", "certain")
CASES = [(0.3, 0.2, 3, 2, 2, 0.15, 0.9), (0.1, 0.2, 4, 3, 1, 0.0, 1.0), (0.2, 0.15, 2, 4, 4, 0.5, 0.5)]


def ending_toy():
    lm = model("same")
    tokens = dataclasses.replace(lm.config.tokens, eos=(END,))
    return dataclasses.replace(
        lm, model=dataclasses.replace(lm.model, config=dataclasses.replace(lm.config, tokens=tokens))
    )


def read(lm, text):
    """(likeliest tokens, their probabilities) of every column."""
    padded, at = text + [0] * (32 - len(text)), np.arange(32, dtype=np.int32)[None]
    raw = np.array(_raw(lm.model, lm.params, np.int32([padded]), at, at < len(text)))[0]
    raw[:, MASK] = -np.inf
    rows = log_softmax(raw)
    return rows.argmax(1).tolist(), np.exp(rows.max(1)).tolist()


def oracle(lm, prompt, tau, low, initial, expand, look, enough, certain, most=LENGTH):
    """(text, forwards, length after each)."""
    begin, lengths = len(prompt), []

    def trust(token, p):
        last = [p[i] for i in reversed(range(begin, len(text))) if token[i] == END][:look]
        return sum(last) / look

    text = [*prompt, *[MASK] * initial]
    while True:
        lengths.append(len(text) - begin)
        if not (trust(*read(lm, text)) < enough and len(text) - begin < most):
            break
        text = [*text, *[MASK] * expand][: begin + most]
    text = [*text, *[END] * (look // 2)][: begin + most]
    while MASK in text:
        lengths.append(len(text) - begin)
        token, p = read(lm, text)
        start = begin + (text.index(MASK) - begin) // BLOCK * BLOCK
        masks = [i for i in range(start, min(start + BLOCK, len(text))) if text[i] == MASK]
        write = [i for i in masks if p[i] > tau] or [max(masks, key=lambda i: (p[i], -i))]
        rest = [i for i in masks if i not in write]
        certainly = trust(token, p) >= certain or len(text) - begin >= most
        for i in write:
            text[i] = token[i]
        if rest and not certainly and p[least := min(rest, key=lambda i: (p[i], i))] < low:
            text = [*text[:least], *[MASK] * expand, *text[least + 1 :]][: begin + most]
    return text[begin:], lengths


@pytest.mark.slow
@pytest.mark.parametrize("numbers", CASES)
def test_decodes_like_the_released_loop(numbers):
    lm = ending_toy()
    policy = jd.daedal(**{n: jnp.int32(x) if isinstance(x, int) else jnp.float32(x) for n, x in zip(NAMES, numbers)})
    out = jd.decode(lm, PROMPTS, policy, max_new=LENGTH, block=BLOCK)
    grown = inserted = 0
    for row, prompt in enumerate(PROMPTS):
        text, lengths = oracle(lm, prompt, *numbers)
        assert out.tokens[row, : len(text)].tolist() == text
        assert (out.tokens[row, len(text) :] == END).all()
        assert out.forwards[row] == len(lengths) + 1 <= int(policy.forwards(Geometry(16, BLOCK, LENGTH // BLOCK)))
        assert (np.diff(lengths) >= 0).all() and lengths[-1] <= LENGTH
        grown += lengths[0] < lengths[-1]
        inserted += MASK not in text and len(text) > lengths[0]
    assert grown and inserted, "the case would show nothing"


@pytest.mark.slow
def test_given_text_stays_where_it_is():
    canvas = [[MASK] * 6 + [7] + [MASK] * 9] * 3
    policy = jd.daedal(**dict(zip(NAMES, (0.1, 0.9, 2, 4, 1, 0.0, 1.0))))
    out = jd.decode(ending_toy(), PROMPTS, policy, max_new=LENGTH, block=BLOCK, canvas=canvas)
    assert (out.tokens[:, 6] == 7).all() and (out.tokens != MASK).all()


@pytest.mark.parametrize(
    ("policy", "cache", "message"),
    [
        ("daedal", "prefix", "cache='none'"),
        ("freedave,host=daedal", "none", "leave the policy around it out"),
        ("prophet,host=daedal", "none", "leave the policy around it out"),
    ],
)
def test_what_keeps_columns_in_place_is_refused(policy, cache, message):
    with pytest.raises(InputError, match=message):
        jd.decode(model("same"), PROMPTS, policy, cache, max_new=LENGTH, block=BLOCK)


def test_a_model_without_an_end_is_refused():
    lm = model("same")
    tokens = dataclasses.replace(lm.config.tokens, eos=())
    lm = dataclasses.replace(
        lm, model=dataclasses.replace(lm.model, config=dataclasses.replace(lm.config, tokens=tokens))
    )
    with pytest.raises(InputError, match="names no end-of-text token"):
        jd.decode(lm, PROMPTS, "daedal", max_new=8, block=4)


@pytest.mark.parametrize("wrong", [{"tau": 2}, {"low": -1}, {"initial": 0}, {"expand": 0}, {"look": 0}, {"enough": 2}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["daedal"](**wrong)
