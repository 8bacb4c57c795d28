"""DAWN: a slow loop after the released one, what always holds, the attention it reads, and where there is none to read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, chain, policies
from jaxdlm.caches.none import NoCache
from jaxdlm.core.attended import Attention
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Update
from jaxdlm.layout import lay_out
from jaxdlm.models.layers import project, rms_norm
from jaxdlm.rules import guidance, sample, select_above, select_independent
from tests.caches.toys import toy
from tests.conformance.toys import GRID, PROMPTS, model
from tests.rules.hand import call, row

WIDTH, PROMPT = 12, 3  # `hand.row` stands behind three tokens
BARS = {"tau": 0.9, "tau_induce": 0.7, "tau_low": 0.5, "tau_edge": 0.12, "tau_sink": 0.09}


def slow(p, top, weight, can, tau, tau_induce, tau_low, tau_edge, tau_sink, strict=False):
    """p of the window's columns, top of all positions, weight [L, L]."""
    length, at = len(top), lambda i: i + PROMPT
    sinks = {j for j in range(length) if weight[:, j].mean() > tau_sink}
    needs = lambda i, j: i != j and j not in sinks and weight[i, j] >= tau_edge  # noqa: E731
    masks = [i for i in range(WIDTH) if can[i]]
    written = [j for j in range(length) if j < PROMPT or not can[j - PROMPT]]
    first = {i for i in masks if p[i] >= tau}
    second = {i for i in masks if p[i] >= tau_induce and any(top[j] >= tau and needs(at(i), j) for j in written)}
    parents = first | second if strict else first & second
    rest = [i for i in masks if p[i] >= tau_low and i not in first | second]
    rest = [i for i in rest if not any(needs(at(i), at(j)) for j in parents)]
    third = []
    for i in sorted(rest, key=lambda i: (-p[i], i)):
        if not any(needs(at(i), at(j)) or needs(at(j), at(i)) for j in third):
            third.append(i)
    chosen = first | second | set(third)
    if not chosen and masks:
        chosen = {max(masks, key=lambda i: (p[i], -i))}
    return np.isin(np.arange(WIDTH), list(chosen)), third, needs


def draws(count=40):
    generator = np.random.default_rng(0)
    for _ in range(count):
        weight = generator.dirichlet(np.full(WIDTH + PROMPT, 0.5), WIDTH + PROMPT)
        top = np.round(generator.uniform(0.3, 1, WIDTH + PROMPT), 3)
        yield top[PROMPT:], top, weight, generator.random(WIDTH) < 0.7


def selected(rule, p, top, weight, can):
    seen = Attention(weight[PROMPT:], weight.mean(0), np.log(top))
    seen = Attention(*(np.asarray(x, np.float32) for x in seen))
    update = Update(
        np.zeros((WIDTH, 5), np.float32), token=np.full(WIDTH, 2, np.int32), score=np.float32(np.log(p)), attention=seen
    )
    return np.asarray(call(rule, update, (), row(can))[0].commit)


@pytest.mark.parametrize("strict", [False, True])
def test_slow_oracle(strict):
    bars = {name: bar + 1e-5 for name, bar in BARS.items()}
    differ, all_third = 0, 0
    for p, top, weight, can in draws():
        commit = selected(select_independent(**bars, strict=strict), p, top, weight, can)
        expected, third, needs = slow(p, top, weight, can, **bars, strict=strict)
        np.testing.assert_array_equal(commit, expected)
        assert not any(needs(i + PROMPT, j + PROMPT) for i in third for j in third)
        assert not (commit & ~can).any()
        differ += (slow(p, top, weight, can, **bars, strict=not strict)[0] != expected).any()
        all_third += len(third)
    assert differ and all_third > 40, "the case would show nothing"


def test_bars_that_nothing_reaches_leave_a_threshold():
    for p, top, weight, can in draws():
        of = lambda rule: selected(rule, p, top, weight, can)  # noqa: E731
        plain = of(select_above(0.9))
        alone = select_independent(0.9, tau_low=1.0, tau_edge=2.0)
        np.testing.assert_array_equal(of(alone), plain)
        assert (plain & ~of(select_independent(**BARS))).sum() == 0 or not (can & (p >= 0.9)).any()
        every_sink = select_independent(**{**BARS, "tau_sink": 0.0})  # nothing depends on anything
        np.testing.assert_array_equal(of(every_sink), of(select_above(0.5)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same", "next"])
def test_the_attention_is_that_of_the_last_layers_by_a_loop_over_heads(kind):
    """One layer alone, whose input is the embeddings: weights in float64, column by column."""
    lm = toy(1, kind, "full")
    batch = lay_out(lm, PROMPTS[:2], max_new=8, block=4, seed=0, ids=None)
    rows, geometry = batch.rows._replace(policy=(), key=()), batch.geometry
    start = jnp.full_like(rows.block, geometry.prompt)
    context = Context(lm.model, lm.params, geometry, 4, attention=4)
    window = NoCache().refresh(context, rows, start, ())
    alone = NoCache().refresh(Context(lm.model, lm.params, geometry, 4), rows, start, ())
    np.testing.assert_allclose(window.hidden, alone.hidden, atol=1e-5)
    config = lm.config
    (leaves,) = jax.tree.map(lambda x: x[0], lm.params["segments"][0])
    position, exists = context.columns(rows)
    from jaxdlm.models.backbone import _rotations

    x = rms_norm(lm.model.embed(lm.params, rows.tokens), leaves["attn_norm"], config)
    q, k, _ = (np.asarray(y, np.float64) for y in project(leaves, x, _rotations(config, position)["global"], config))
    group = q.shape[2] // k.shape[2]
    for b in range(2):
        real, mean = np.flatnonzero(np.asarray(exists)[b]), np.zeros(geometry.length)
        for i in real:
            heads = []
            for n in range(q.shape[2]):
                e = np.array([np.exp(q[b, i, n] @ k[b, j, n // group] * q.shape[3] ** -0.5) for j in real])
                heads.append(e / e.sum())
            own = np.zeros(geometry.length)
            own[real] = np.mean(heads, axis=0)
            mean += own / len(real)
            if 0 <= i - geometry.prompt < 4:
                np.testing.assert_allclose(window.attended.weight[b, i - geometry.prompt], own, atol=1e-5)
        np.testing.assert_allclose(window.attended.mean[b], mean, atol=1e-5)


@pytest.mark.slow
def test_it_sets_out_from_a_threshold_and_may_only_write_more():
    lm = model("same")
    none = jd.decode(lm, PROMPTS, jd.dawn(0.05, tau_low=1.0, tau_edge=2.0), **GRID)
    plain = jd.decode(lm, PROMPTS, jd.threshold(0.05), **GRID)
    np.testing.assert_array_equal(none.tokens, plain.tokens)
    np.testing.assert_array_equal(none.commit_step, plain.commit_step)
    more = jd.decode(lm, PROMPTS, jd.dawn(0.5, 0.02, 0.02, 0.5, 0.0), **GRID)
    fewer = jd.decode(lm, PROMPTS, jd.threshold(0.5), **GRID)
    assert (more.forwards <= fewer.forwards).all() and more.forwards.sum() < fewer.forwards.sum()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neighbours_and_order_do_not_matter_in_either_precision(dtype):
    lm = model("same")
    params = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, lm.params)
    config = dataclasses.replace(lm.config, param_dtype=dtype)
    lm = dataclasses.replace(lm, model=dataclasses.replace(lm.model, config=config), params=params)
    rule, order = jd.dawn(0.5, 0.06, 0.04, 0.05, 0.1), [2, 0, 1]
    batch = jd.decode(lm, PROMPTS, rule, ids=[0, 1, 2], **GRID)
    permuted = jd.decode(lm, [PROMPTS[i] for i in order], rule, ids=order, **GRID)
    alone = jd.decode(lm, PROMPTS[1:2], rule, ids=[1], **GRID)
    for field in ("tokens", "forwards", "commit_step"):
        whole = np.asarray(getattr(batch, field))
        np.testing.assert_array_equal(getattr(permuted, field), whole[order], field)
        np.testing.assert_array_equal(getattr(alone, field)[0], whole[1], field)
    assert 8 > batch.forwards.mean() > 2, "the case would show nothing"


@pytest.mark.parametrize(
    ("policy", "cache", "message"),
    [
        ("dawn", "dual", "DualCache does not read all columns.*cache='none'"),
        ("dawn", "prefix", "cache='none'"),
        ("freedave,host=dawn", "none", "leave the other policy out"),
        (chain(guidance(1.0), sample(), select_independent()), "none", "leave the other policy out"),
    ],
)
def test_where_attention_cannot_be_read_it_is_refused(policy, cache, message):
    with pytest.raises(InputError, match=message):
        jd.decode(model("same"), PROMPTS, policy, cache, **GRID)


def test_outside_the_loop_there_is_no_attention():
    rule = chain(sample(), select_independent())
    with pytest.raises(InputError, match="needs attention"):
        rule.apply(Update(np.zeros((2, 7), np.float32)), rule.init(2, 7), row([True, True]), jax.random.key(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 2},
        {"tau_induce": -1},
        {"tau_low": 1.5},
        {"tau_edge": -1},
        {"tau_sink": -0.1},
        {"layers": 0},
        {"strict": 3},
    ],
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["dawn"](**wrong)
