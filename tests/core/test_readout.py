"""One pass over tiles of the vocabulary finds what the whole logits say: tokens exactly, statistics bit for bit."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import chain, decode, layout
from jaxdlm._load import LM
from jaxdlm.core import loop
from jaxdlm.core.carry import LogitsAccess, Update
from jaxdlm.core.keys import column_gumbel
from jaxdlm.core.model import Tiling
from jaxdlm.core.readout import (
    Drawn,
    Readout,
    dense_logits,
    first_best,
    mask_invalid,
    merge,
    proposable,
    relative,
    summarise,
)
from jaxdlm.core.rule import Decoding
from jaxdlm.models import Backbone
from jaxdlm.models.config import TokenIds
from jaxdlm.policies import CACHES, RECIPES
from jaxdlm.quant import quantize_params
from jaxdlm.rules import log_prob, margin, neg_entropy, sample, select_above, uniform
from tests.conformance.toys import model
from tests.marks import usual
from tests.models.weights import loud_params
from tests.rules.hand import row

VOCAB, W, KNOWN, MASK = 300, 5, 290, 289
TILINGS = [Tiling(VOCAB, 64), Tiling(VOCAB, 60), Tiling(VOCAB, 64, 4), Tiling(VOCAB, 97)]
VIEW = row([True] * W)
KEY = jax.random.key(4)


def raw(seed: int = 0):
    """Random logits with ties at the top of two columns, banned ids and a sure column."""
    logits = np.random.default_rng(seed).normal(0, 3, (W, VOCAB)).astype(np.float32)
    logits[0, [7, 130, 255]] = 20
    logits[1, [299, 64]] = 11
    logits[2, 100] = 60
    logits[:, 200:270] = -np.inf
    return logits


@functools.partial(jax.jit, static_argnums=1)
def summary(logits, tiling=None):
    return summarise(dense_logits(logits, tiling))


def oracle(logits):
    """The statistics of each column in float64, from their definitions."""
    wide = np.asarray(logits, np.float64)
    token = wide.argmax(1)
    top = wide.max(1)
    others = wide.copy()
    others[np.arange(W), token] = -np.inf
    ratio = np.exp(wide - top[:, None])
    weighted = np.where(ratio > 0, ratio * np.where(ratio > 0, wide - top[:, None], 0), 0).sum(1)
    return {"token": token, "top": top, "own": top, "second": others.max(1),
            "rest": np.exp(others - top[:, None]).sum(1), "weighted": weighted}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_every_id_is_in_one_tile_and_the_summary_is_that_of_all(tiling):
    found = summary(raw(), tiling)
    for name, expected in oracle(raw()).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5, err_msg=name)
    begins = range(0, tiling.count * tiling.run, tiling.run)
    seen = [i for b in begins for i in np.asarray(tiling.ids(tiling.first(b))) if i % tiling.span >= b]
    assert sorted(seen) == list(range(VOCAB))


@pytest.mark.parametrize("width", [1, 7, 48, 300, 512])
def test_arg_max_in_parts_is_that_of_numpy(width):
    """Ties to the lowest id, within a part and across parts; columns of nothing but -inf; NaN above everything."""
    x = np.random.default_rng(width).integers(-3, 4, (40, 2, width)).astype(np.float32)
    x[x == -3] = -np.inf
    x[:2], x[2, :, width // 2 :], x[3, 0, width // 3] = -np.inf, np.nan, np.nan
    np.testing.assert_array_equal(jax.jit(first_best)(x), np.argmax(x, axis=-1))


def test_merging_with_nothing_changes_no_bit():
    one, empty = summary(raw()), summary(np.full((W, VOCAB), -np.inf, np.float32))
    for pair in ((one, empty), (empty, one)):
        merged = jax.jit(merge)(*pair)
        for name in ("token", "own", "top", "second", "rest", "weighted"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(one, name), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_nan_and_infinity_and_nothing_at_all_are_found_in_any_tile(tiling):
    can = jnp.ones(W, bool)
    for at in (0, 150, 299):
        for bad in (jnp.nan, jnp.inf):
            logits = raw()
            logits[3, at] = bad
            top = summary(logits, tiling).top
            np.testing.assert_array_equal(np.isfinite(top), [True, True, True, False, True])
            assert not proposable(top, ~can), "whoever may be written"
    nothing = raw()
    nothing[3] = -np.inf
    top = summary(nothing, tiling).top
    assert not proposable(top, can)
    assert proposable(top, can.at[3].set(False)), "nobody writes there"
    assert proposable(summary(raw(), tiling).top, can)


def noise(ids):
    return column_gumbel(KEY, VIEW.position, ids)


@functools.partial(jax.jit, static_argnums=1)
def draws(logits, tiling, temperature):
    return summarise(dense_logits(logits, tiling), Drawn(temperature, noise, tempered=True))


@pytest.mark.slow
@pytest.mark.parametrize("tiling", [Tiling(VOCAB), *TILINGS], ids=str)
@pytest.mark.parametrize("temperature", [1e-8, 1e-3, 0.7, 50.0, 1e30])
def test_draws_in_tiles_are_those_of_all_logits_less_their_best(tiling, temperature):
    """Whatever is added to all logits: they are sixty-fourths, so that 65536 changes no bit of their differences."""
    logits = np.round(64 * raw()) / 64
    found, moved = (draws(x.astype(np.float32), tiling, jnp.float32(temperature)) for x in (logits, logits + 65536))
    below = (logits - logits.max(1, keepdims=True)).astype(np.float64) / np.float32(temperature)
    by = below + np.asarray(noise(VOCAB), np.float64)
    np.testing.assert_array_equal(found.token, by.argmax(1))
    np.testing.assert_allclose(found.rank, by.max(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(moved.token, found.token)
    np.testing.assert_array_equal(moved.rest, found.rest)
    seen = relative(found, jnp.float32(temperature))
    ratio = np.exp(below)
    np.testing.assert_allclose(1 + found.rest, ratio.sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.weighted, (ratio * np.where(ratio > 0, below, 0)).sum(1), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(seen.own, np.take_along_axis(below, by.argmax(1)[:, None], 1)[:, 0], rtol=1e-6)
    assert (seen.top == 0).all() and (seen.second <= 0).all()


@pytest.mark.slow
def test_noise_of_an_id_does_not_depend_on_the_others():
    position = jnp.arange(3, dtype=jnp.int32)
    whole, ids = column_gumbel(KEY, position, VOCAB), jnp.int32([250, 3, 17])
    np.testing.assert_array_equal(column_gumbel(KEY, position, ids), whole[:, ids])


@pytest.fixture(scope="module")
def toy():
    """A random backbone with 300 words, of which 290 are known, read in tiles of 64."""
    config = model("same").config
    config = dataclasses.replace(
        config, vocab_size=VOCAB, tokens=TokenIds(mask=MASK, pad=0, eos=(5,), tokenizer_size=KNOWN)
    )
    return config, loud_params(config, 2)


def update_of(config, params, tiled: bool, stripes: int = 1) -> Update:
    backbone = Backbone(config, tile=64, stripes=stripes)
    hidden = jnp.asarray(np.random.default_rng(1).normal(0, 2, (W, config.hidden_size)), jnp.float32)
    logits = mask_invalid(backbone.head(params, hidden), backbone)
    return Update(logits, readout=Readout(hidden, logits, params, backbone) if tiled else None)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "stripes"), [("capped", 1), ("tied and quantised", 4)])
def test_proposals_and_confidences_are_those_of_the_whole_logits(toy, variant, stripes):
    config, params = toy
    if variant == "capped":
        config = dataclasses.replace(config, final_softcap=3.0, logit_scale=0.5)
    else:
        config = dataclasses.replace(config, tie_embeddings=True)
        params = quantize_params(params, 8, include=("embed", "lm_head"))[0]
    rules = [
        sample(temperature, measure=measure, tempered=tempered)
        for temperature, tempered in ((0.0, False), (jnp.float32(0.7), True))
        for measure in (log_prob, margin, neg_entropy, uniform)
    ]

    @jax.jit
    def updates(params):
        pair = [update_of(config, params, tiled, stripes) for tiled in (True, False)]
        return [[rule.apply(update, (), VIEW, KEY)[0]._replace(readout=None) for update in pair] for rule in rules]

    for tiled, whole in updates(params):
        np.testing.assert_array_equal(tiled.token, whole.token)
        np.testing.assert_allclose(tiled.score, whole.score, rtol=3e-6, atol=1e-7)
        assert tiled.finite and (tiled.token < KNOWN).all() and (tiled.token != MASK).all()


@pytest.mark.slow
def test_tiles_of_the_head_and_tiles_of_its_logits_agree_bit_for_bit(toy):
    """The reductions have one order; only the matrix product is made in parts."""
    config, params = toy
    update = jax.jit(lambda p: update_of(config, p, True)._asdict())(params)
    tiling = update["readout"].tiling
    head, logits = (
        jax.jit(summarise)(source) for source in (update["readout"], dense_logits(update["logits"], tiling))
    )
    jax.tree.map(np.testing.assert_array_equal, head, logits)


@pytest.mark.slow
def test_a_rule_that_changes_the_logits_is_heard(toy):
    """The readout is that of the model's own logits alone."""
    config, params = toy
    update = update_of(config, params, True)
    changed = update._replace(logits=update.logits.at[:, 17].set(99.0))
    np.testing.assert_array_equal(sample().apply(changed, (), VIEW, KEY)[0].token, 17)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_decode_in_tiles_writes_the_same_text(toy, temperature):
    config, params = toy
    prompts = [[3, 9, 4, 1], [7, 2, 11, 5, 8, 13, 6]]
    policy = chain(sample(jnp.float32(temperature)), select_above(0.6))  # one program per tiling
    outs = [
        decode(LM(Backbone(config, tile), params, None, "toy"), prompts, policy, max_new=8, block=4, save="commit")
        for tile in (64, 8192)
    ]
    np.testing.assert_array_equal(outs[0].tokens, outs[1].tokens)
    np.testing.assert_array_equal(outs[0].commit_step, outs[1].commit_step)
    np.testing.assert_allclose(outs[0].score, outs[1].score, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", usual(["threshold", "prophet", "freedave", "credit", "best"], "threshold", "credit"))
def test_a_forward_reads_the_head_once_and_holds_the_vocabulary_only_for_rules_that_want_it(toy, recipe):
    config, params = toy
    policy, backbone = RECIPES[recipe](), Backbone(config, tile=64)
    lm = LM(backbone, params, None, "toy")
    batch = layout.lay_out(lm, [[1, 2, 3], [4, 5, 6, 7]], max_new=8, block=8, seed=0, ids=None)
    decoding = Decoding(backbone, params, policy, CACHES["none"](), batch.geometry)
    carry = loop.init(batch.rows, decoding, "none")
    one = jax.jit(lambda c, p: loop.step(c, decoding.replace(params=p)))
    text = one.lower(carry, params).compile().as_text()
    products = re.findall(rf"= f32\[\d+,(64|{VOCAB})\]\S* dot\(", text)
    held = set(re.findall(rf"f32\[(?:\d+,)*{VOCAB}\]", text)) - {f"f32[{config.hidden_size},{VOCAB}]"}
    assert products == (["64"] if policy.traits.logits_access is LogitsAccess.SUMMARY else [f"{VOCAB}"])
    assert bool(held) == (policy.traits.logits_access is LogitsAccess.WHOLE)
