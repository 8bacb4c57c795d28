"""WINO: a slow loop from the released one, what the shadow sees and what it leaves alone, and where there can be none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, chain, policies
from jaxdlm.caches.none import NoCache
from jaxdlm.core.cache import Context
from jaxdlm.core.carry import Update
from jaxdlm.layout import lay_out
from jaxdlm.rules import guidance, sample, select_and_verify
from tests.caches.toys import toy
from tests.conformance.toys import GRID, PROMPTS, model
from tests.rules.drive import MASK, VOCAB, Run, blocks_of_draws, probabilities, sorted_by
from tests.rules.hand import call, row

WIDTH = 16


def drive(tau, tau_back, draws, blinds):
    """The rule on draws[forward] and, of the shadow, blinds[forward]."""
    rule = chain(sample(), select_and_verify(jnp.float32(tau), jnp.float32(tau_back)))
    out, pending, state = Run(WIDTH), np.ones(WIDTH, bool), rule.init(WIDTH, VOCAB)
    for tick, (raw, blind) in enumerate(zip(draws.astype(np.float32), blinds.astype(np.float32))):
        out.masks.append(pending.copy())
        view = row(pending, tokens=np.where(pending, MASK, out.tokens), tick=tick)
        update, state = call(rule, Update(raw, blind=blind), state, view)
        commit, again = np.asarray(update.commit), np.asarray(update.reopen)
        out.tokens = np.where(commit, np.asarray(update.token), np.where(again, MASK, out.tokens))
        out.when, pending = np.where(commit, tick, out.when), (pending & ~commit) | again
        if not pending.any():
            return out
    raise AssertionError("the block does not end")


def slowly(tau, tau_back, draws, blinds):
    out, left, accepted = Run(WIDTH), set(range(WIDTH)), 30
    for tick, (raw, blind) in enumerate(zip(draws, blinds)):
        out.masks.append(np.isin(np.arange(WIDTH), list(left)))
        p, q = probabilities(raw), probabilities(blind)
        top, most = p.max(1), min(max(int(len(left) * 0.7), 5), 20)
        write = sorted_by([i for i in left if top[i] > tau], top)[:most] or sorted_by(left, top)[:1]
        doubt = sorted((q[i, out.tokens[i]], i) for i in range(WIDTH) if i not in left)
        doubt = [i for v, i in doubt if v < tau_back] if len(write) > 1 else []
        again = doubt if len(doubt) < accepted else doubt[: accepted - 1]
        for i in write:
            out.tokens[i], out.when[i] = p[i].argmax(), tick
        for i in again:
            out.tokens[i] = MASK
        left, accepted = (left - set(write)) | set(again), len(write)
        if not left:
            return out
    raise AssertionError("the block does not end")


@pytest.mark.parametrize(("tau", "tau_back"), [(0.6, 0.9), (0.5, 0.3), (0.0, 0.6), (0.9, 0.0)])
def test_slow_oracle(tau, tau_back):
    again = 0
    for draws, blinds in zip(blocks_of_draws(5, WIDTH), blocks_of_draws(5, WIDTH, seed=0, settling=0.9)):
        run = drive(tau, tau_back, draws, blinds)
        run.same(slowly(tau, tau_back, draws, blinds))
        assert len(run.masks) <= WIDTH
        again += any((after & ~before).any() for before, after in zip(run.masks, run.masks[1:]))
    assert bool(again) == (tau_back > 0), "the case would show nothing"


@pytest.mark.slow
def test_the_shadow_sees_all_but_its_own_column_and_no_column_sees_the_shadow():
    lm = toy(1, "same", "full")
    batch = lay_out(lm, PROMPTS[:1], max_new=8, block=4, seed=0, ids=None)
    rows, geometry = batch.rows._replace(policy=(), key=()), batch.geometry
    start = jnp.full_like(rows.block, geometry.prompt)
    cache = NoCache()
    alone = cache.refresh(Context(lm.model, lm.params, geometry, 4), rows, start, ()).hidden
    blind = Context(lm.model, lm.params, geometry, 4, blind=True)
    both = np.asarray(cache.refresh(blind, rows, start, ()).hidden)
    np.testing.assert_allclose(both[:, :4], alone, atol=1e-5)
    changed = rows._replace(tokens=rows.tokens.at[0, geometry.prompt + 1].set(7))
    moved = np.abs(np.asarray(cache.refresh(blind, changed, start, ()).hidden) - both).max(2)[0]
    assert (moved[:4] > 1e-4).all(), "columns see it"
    np.testing.assert_allclose(moved[4 + 1], 0, atol=1e-6)
    assert (np.delete(moved[4:], 1) > 1e-4).all()


@pytest.mark.slow
def test_without_doubt_it_is_a_threshold_and_a_bar_of_one_writes_one_by_one():
    lm = model("same")
    sure = jd.decode(lm, PROMPTS, policies.RECIPES["wino"](jnp.float32(0.05), jnp.float32(0.0)), **GRID)
    slow = jd.decode(lm, PROMPTS, policies.RECIPES["wino"](jnp.float32(1.0), jnp.float32(0.9)), **GRID)
    plain = jd.decode(lm, PROMPTS, policies.RECIPES["llada2"](tau=0.05), **GRID)  # the same with its schedule of one
    np.testing.assert_array_equal(sure.tokens, plain.tokens)
    np.testing.assert_array_equal(sure.commit_step, plain.commit_step)
    assert (slow.forwards == GRID["max_new"]).all() and (sure.forwards < slow.forwards).all()


@pytest.mark.parametrize(
    ("kind", "policy", "cache", "message"),
    [
        ("next", "wino", "none", "predicts a column in its own row"),
        ("same", "wino", "dual", "cache='none'"),
        ("same", "freedave,host=wino", "none", "leave the other policy out"),
        ("same", "prophet,host=wino", "none", "leave the other policy out"),
        ("same", chain(guidance(1.0), sample(), select_and_verify()), "none", "leave the other policy out"),
    ],
)
def test_what_has_no_shadow_is_refused(kind, policy, cache, message):
    with pytest.raises(InputError, match=message):
        jd.decode(model(kind), PROMPTS, policy, cache, **GRID)


@pytest.mark.slow
def test_outside_the_loop_there_is_no_shadow():
    rule = chain(sample(), select_and_verify())
    raw = np.zeros((2, VOCAB), np.float32)
    with pytest.raises(InputError, match="needs shadow columns"):
        rule.apply(Update(raw), rule.init(2, VOCAB), row([True, True]), jax.random.key(0))


@pytest.mark.parametrize("wrong", [{"tau": 2}, {"tau_back": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        policies.RECIPES["wino"](**wrong)
