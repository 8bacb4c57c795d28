"""Whole decodes against a slow loop in NumPy, float64, one row at a time, without masks of fixed size."""

import jax
import numpy as np
import pytest

from jaxdlm import decode, policies
from tests.conformance.toys import MASK, PROMPTS, model

LENGTH, BLOCK = 8, 4


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def confidences(lm, tokens):
    """Best token and its log-probability for every column, the mask never proposed."""
    padded = tokens + [0] * (32 - len(tokens))  # one compiled shape: pads stand right and are not attended to
    position = np.arange(32, dtype=np.int32)[None]
    raw = np.array(_raw(lm.model, lm.params, np.int32([padded]), position, position < len(tokens)))[0]
    raw[:, MASK] = -np.inf
    rows = log_softmax(raw)
    if lm.config.prediction == "next":
        rows = np.roll(rows, 1, axis=0)
    return rows.argmax(1), rows.max(1)


_raw = jax.jit(lambda model, params, *x: model.head(params, model.apply(params, *x).hidden), static_argnums=0)


def one_by_one(open_columns, score, tick, state):
    return {max(open_columns, key=lambda i: (score[i], -i))}


def split(steps_per_block):
    def select(open_columns, score, tick, state):
        masks = state.setdefault("masks", len(open_columns))
        k = masks // steps_per_block + (tick < masks % steps_per_block)
        return set(sorted(open_columns, key=lambda i: (-score[i], i))[:k])

    return select


def above(tau):
    return lambda open_columns, score, tick, state: (
        {i for i in open_columns if np.exp(score[i]) >= tau} | one_by_one(open_columns, score, tick, state)
    )


def joint(f):
    def select(open_columns, score, tick, state):
        order = sorted(open_columns, key=lambda i: (-score[i], i))
        count = 0
        while count < len(order) and (count + 2) * -np.expm1(score[order[count]]) < f:
            count += 1
        return set(order[: max(count, 1)])

    return select


def grid(steps, eps=1e-3):
    def select(open_columns, score, tick, state):
        t = np.linspace(1, eps, steps + 1, dtype=np.float32)
        left = len(open_columns)
        k = left if tick == steps - 1 else int(np.float32(left) * (1 - t[tick + 1] / t[tick]))
        return set(sorted(open_columns, key=lambda i: (-score[i], i))[:k])

    return select


def oracle(lm, prompt, select, block):
    tokens, step = [*prompt, *[MASK] * LENGTH], 0
    commit = [-1] * LENGTH
    for start in range(len(prompt), len(tokens), block):
        tick, state = 0, {}
        while left := [i for i in range(start, start + block) if tokens[i] == MASK]:
            token, score = confidences(lm, tokens)
            for i in select(left, score, tick, state):
                tokens[i], commit[i - len(prompt)] = int(token[i]), step
            tick, step = tick + 1, step + 1
    return tokens[len(prompt) :], commit, step


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["same", "next"])
@pytest.mark.parametrize(
    ("policy", "select", "block"),
    [
        (policies.RECIPES["low_confidence"](), one_by_one, BLOCK),
        (policies.RECIPES["low_confidence"](steps=6), split(3), BLOCK),
        (policies.RECIPES["threshold"](0.4), above(0.4), BLOCK),
        (policies.RECIPES["factor"](2.5), joint(2.5), BLOCK),
        (policies.RECIPES["maskgit_plus"](steps=5), grid(5), LENGTH),
    ],
    ids=["one", "split", "threshold", "factor", "grid"],
)
def test_the_library_decodes_like_the_slow_loop(prediction, policy, select, block):
    lm = model(prediction)
    out = decode(lm, PROMPTS, policy, max_new=LENGTH, block=block, stop=False)
    for row, prompt in enumerate(PROMPTS):
        tokens, commit, forwards = oracle(lm, prompt, select, block)
        assert out.tokens[row].tolist() == tokens
        assert out.commit_step[row].tolist() == commit
        assert out.forwards[row] == forwards
