"""CCD: the paper's reading against a slow oracle, the released code's counts, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import neg_entropy, sample
from jaxdlm.rules.ccd import select_coherent, select_stable
from tests.rules.hand import row

W, VOCAB = 12, 6


def decode(rule, draw, steps: int = W):
    """Commits per forward and the tokens, with logits draw(t) [W, V]."""
    rule = chain(sample(measure=neg_entropy), rule)
    at = lambda update, state, can, tick: rule.apply(  # noqa: E731
        update, state, row(np.ones(W))._replace(open=can, pending=can, tick=tick), jax.random.key(0)
    )
    act, state = jax.jit(at), rule.init(W, VOCAB)
    can, tokens, history = np.ones(W, bool), np.full(W, -1), []
    for tick in range(steps):
        update, state = act(Update(jnp.asarray(draw(tick), jnp.float32)), state, jnp.asarray(can), jnp.int32(tick))
        commit = np.asarray(update.commit)
        assert (commit <= can).all() and commit.any()
        tokens, can = np.where(commit, np.asarray(update.token), tokens), can & ~commit
        history.append(np.flatnonzero(commit).tolist())
        if not can.any():
            break
    return history, tokens


def noise(seed):
    return lambda tick: np.random.default_rng((seed, tick)).normal(size=(W, VOCAB)) * 2


def constant(tick):
    """Distinct confidences, the surest column first."""
    return np.eye(VOCAB)[np.arange(W) % VOCAB] * np.linspace(6, 2, W)[:, None]


def soft(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def h(p):
    return -(p * np.log(p)).sum(-1)


def slow(draw, dynamic, depth, top_v, rule="any", source="pbar"):
    can, tokens, rows, history = np.ones(W, bool), np.full(W, -1), [], []
    tick = 0
    while can.any():
        p = soft(draw(tick))
        leading = lambda mask: [i for i in np.argsort(h(p), kind="stable") if mask[i]][:top_v]  # noqa: E731
        found = {}
        for j in leading(can):
            hits = [r[j] for r in rows if j in r]
            if hits and (rule == "any" or len(hits) == depth):
                found[j] = np.mean([p[j], *hits], axis=0)
        order = sorted(found, key=lambda j: h(found[j]))
        chosen = (order if dynamic else order[:1]) or leading(can)[:1]
        for j in chosen:
            tokens[j] = int(np.argmax(found[j] if j in found and source == "pbar" else p[j]))
            can[j] = False
        rows = [{j: p[j] for j in leading(can)}, *rows][:depth]
        history.append(sorted(chosen))
        tick += 1
    return history, tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dynamic", "depth", "top_v", "rule", "source"),
    [(True, 3, 4, "any", "pbar"), (False, 2, 3, "any", "current"), (True, 2, 3, "all", "pbar")],
)
def test_slow_oracle(dynamic, depth, top_v, rule, source):
    published = select_coherent(dynamic=dynamic, depth=depth, top_v=top_v, history_rule=rule, token_source=source)
    for seed in range(4):
        expected = slow(noise(seed), dynamic, depth, top_v, rule, source)
        got = decode(published, noise(seed))
        assert got[0] == expected[0]
        np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.slow
def test_limits_of_the_paper_mode():
    plain, tokens = decode(select_stable(), constant)  # the warm-up and CCD with unchanged proposals: one by one
    assert plain == [[i] for i in range(W)]
    for rule in (
        select_coherent(depth=0),
        select_coherent(depth=0, dynamic=True),
        select_coherent(top_v=1, token_source="current"),
    ):
        history, same = decode(rule, constant)
        assert history == plain
        np.testing.assert_array_equal(same, tokens)
    history, same = decode(select_coherent(dynamic=True, top_v=4), constant)
    assert [len(step) for step in history] == [1, 4, 4, 3]  # 1 + ceil((W - 1) / V) forwards
    np.testing.assert_array_equal(same, np.arange(W) % VOCAB)


def test_a_column_unknown_to_history_waits():
    """The surest column was not among the two best before: the paper puts it off."""
    first, second = constant(0), constant(1)
    second[9] = first[9] * 9
    assert decode(select_coherent(top_v=2), lambda t: second if t else first, steps=2)[0] == [[0], [1]]
    assert decode(select_stable(), lambda t: second if t else first, steps=2)[0] == [[0], [9]]


def test_released_widths():
    """Five single commits, then as many unchanged columns as were saved before, the last tenth at most two."""
    history, _ = decode(select_stable(dynamic=True), constant)
    assert [len(step) for step in history] == [1, 1, 1, 1, 1, 2, 3, 2]
    assert [len(step) for step in decode(select_stable(dynamic=True, expand_ratio=0.0), constant)[0]] == [1] * W
    flipped = lambda t: constant(t) if t % 2 else np.roll(constant(t), 1, axis=1)  # noqa: E731
    assert [len(step) for step in decode(select_stable(dynamic=True), flipped)[0]] == [1] * W


def test_steps_set_the_budget():
    assert [len(s) for s in decode(select_coherent(steps=4), constant)[0]] == [3] * 4
    assert [len(s) for s in decode(select_stable(steps=4), constant)[0]] == [3] * 4


@pytest.mark.parametrize(
    ("factory", "wrong"),
    [
        (select_coherent, {"steps": 0}), (select_coherent, {"depth": -1}), (select_coherent, {"top_v": 0}),
        (select_coherent, {"eps": -1.0}),
        (select_coherent, {"history_rule": "most"}), (select_coherent, {"token_source": "old"}),
        (select_stable, {"steps": 0}),
        (select_stable, {"expand_ratio": -1.0}),
    ],
)  # fmt: skip
def test_bad_arguments(factory, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        factory(**wrong)
