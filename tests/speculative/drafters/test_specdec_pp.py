"""SpecDec++: when a draft stops, that the stop never changes a token, and the shipped head."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, decode, load, speculative
from jaxdlm._load import ASSETS
from jaxdlm.eval.task import make
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.drafters.specdec_pp import Head, acceptance, read_head
from jaxdlm.train.recipes import specdec_pp as recipe
from tests.speculative.test_loop import TARGET
from tests.speculative.test_methods import DRAFT, HOT, SMALL_DRAFT, p_value
from tests.speculative.toys import MAX_NEW, PROMPTS, expected

RUN = {"max_new": MAX_NEW, "seed": 5}
logits_of = jax.jit(recipe.logits_of, static_argnums=0)
SIZE, MOST = DRAFT.config.hidden_size, 5


def always(p: float) -> Head:
    """A head that says p whatever it reads."""
    return recipe.constant(p, recipe.init_head(SIZE, 2, 0))


def wild(seed: int = 0) -> Head:
    return jax.tree.map(lambda leaf: 20 * leaf, recipe.init_head(SIZE, 2, seed))


def run(head: Head, threshold: float, k_min: int = 2, draft=DRAFT):
    policy = speculative.specdec_pp(draft, jnp.float32(threshold), k_min, MOST, head)
    return decode(TARGET, PROMPTS, policy=policy, **RUN)


@pytest.mark.slow
def test_the_head_against_numpy():
    head, e = wild(3), np.random.default_rng(0).normal(size=(4, SIZE))
    x = e.copy()
    for w, b in zip(head.w, head.b, strict=True):
        inner = x @ np.asarray(w, np.float64) + np.asarray(b)
        x = x + inner / (1 + np.exp(-inner))
    logits = x @ np.asarray(head.out, np.float64) + np.asarray(head.bias)
    wanted = np.exp(logits[:, 1] - np.logaddexp(*logits.T))
    np.testing.assert_allclose(acceptance(head, jnp.asarray(e, jnp.float32)), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_tokens_are_those_of_plain_decoding_and_drafts_grow_with_the_threshold():
    drafted = []
    for threshold in (0.0, 0.3, 0.7, 1.0):
        out = run(wild(), threshold)
        np.testing.assert_array_equal(out.tokens, expected(3))
        drafted.append(out.drafted / out.forwards)
        assert (out.draft_forwards <= MOST * out.forwards).all()
    assert (drafted[0] < drafted[-1]).all(), "this head must stop some drafts"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_limits_are_those_of_a_fixed_length():
    whole = run(always(0.5), 1.0)  # 1 - P never exceeds 1
    fixed = decode(TARGET, PROMPTS, policy=speculative.speculative(DRAFT, k=MOST), **RUN)
    np.testing.assert_array_equal(whole.tokens, fixed.tokens)
    np.testing.assert_array_equal(whole.forwards, fixed.forwards)
    np.testing.assert_array_equal(run(always(1 - 1e-6), 0.5).forwards, fixed.forwards)
    # it stops at the first check: the token drawn in the same forward as the check is submitted too
    shortest = run(always(1e-6), 0.5)
    two = decode(TARGET, PROMPTS, policy=speculative.speculative(DRAFT, k=2), **RUN)
    np.testing.assert_array_equal(shortest.forwards, two.forwards)
    np.testing.assert_array_equal(run(always(1e-6), 0.5, k_min=1).forwards, two.forwards)


@pytest.mark.exhaustive
def test_the_distribution_holds_with_a_head_that_looks_at_the_token():
    head = jax.tree.map(lambda leaf: 30 * leaf, recipe.init_head(SMALL_DRAFT.config.hidden_size, 1, 5))
    policy = speculative.specdec_pp(SMALL_DRAFT, 0.5, 1, 3, head, temperature=HOT)
    assert p_value(policy, 1.0) > 1e-3


def seen(count: int = 6) -> recipe.Seen:
    rng = np.random.default_rng(1)
    return recipe.Seen(
        jnp.asarray(rng.normal(size=(count, SIZE)), jnp.float32),
        jnp.asarray(rng.random(count), jnp.float32),
        jnp.arange(count, dtype=jnp.int32),
    )


@pytest.mark.slow
def test_the_loss_against_numpy_and_a_fit_learns():
    head, data = recipe.init_head(SIZE, 2, 0), seen()
    say, p = np.asarray(acceptance(head, data.hidden), np.float64), np.asarray(data.p, np.float64)
    for w in (1.0, 6.0):
        wanted = -(w * (1 - p) * np.log(1 - say) + p * np.log(say)).sum() / (w * (1 - p) + p).sum()
        assert float(recipe.loss(head, data, w)) == pytest.approx(wanted, rel=1e-4)
    many = seen(600)
    many = many._replace(p=(many.hidden[:, 0] > 0).astype(jnp.float32))
    fitted, curve = recipe.fit(many, many, blocks=1, rejection=1.0, steps=210, seed=0, batch=256)
    assert curve[-1]["held"] < 0.7 * curve[0]["held"]
    assert recipe.divergence(fitted, many) < recipe.divergence(recipe.constant(0.5, fitted), many)


@pytest.mark.slow
def test_labels_say_what_the_target_accepts():
    """At temperature 0: the draft's best token behind x_<j is the target's; the columns of X are left out."""
    rows = jnp.asarray(np.random.default_rng(2).integers(2, 20, (2, 9)), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 2)
    args = (TARGET.model, TARGET.params, DRAFT.model, DRAFT.params, recipe.warp(0.0))
    hidden, p, drafted = recipe.label(rows, keys, *args, jnp.float32(0.4))
    best = [np.asarray(logits_of(lm.model, lm.params, rows)[1]).argmax(-1) for lm in (TARGET, DRAFT)]
    np.testing.assert_array_equal(np.asarray(p)[:, 1:], (best[0] == best[1])[:, :-1].astype(np.float32))
    read = np.where(drafted, np.roll(best[1], 1, axis=1), rows)
    wanted = logits_of(DRAFT.model, DRAFT.params, jnp.asarray(read, jnp.int32))[0]
    np.testing.assert_allclose(hidden, wanted, rtol=1e-4, atol=1e-5)
    assert 0 < np.asarray(drafted)[:, 1:].mean() < 1


def test_a_head_of_another_draft_is_refused(tmp_path):
    file = tmp_path / "specdec_pp.safetensors"
    recipe.save(always(0.5), file, DRAFT, TARGET)
    for mine, theirs in zip(read_head(file, DRAFT), always(0.5), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(InputError, match=f"trained for another draft than {TARGET.name}:"):
        decode(TARGET, PROMPTS, policy=speculative.specdec_pp(TARGET, head=file, k_max=4), **RUN)
    with pytest.raises(InputError, match="no head is shipped for draft"):
        speculative.specdec_pp(DRAFT)
    with pytest.raises(InputError, match="hidden states of size 24"):
        speculative.specdec_pp(load("tiny-draft"), head=always(0.5))
    with pytest.raises(InputError, match="is no file"):
        speculative.specdec_pp(DRAFT, head=tmp_path / "none")
    with pytest.raises(InputError, match="k_min=6"):
        speculative.specdec_pp(DRAFT, k_min=6, k_max=5)


@pytest.mark.slow
def test_the_shipped_head_belongs_to_the_shipped_draft_and_knows_more_than_a_constant():
    record = json.loads((ASSETS / "tiny-draft" / "specdec_pp.json").read_text())
    target, draft = load("tiny-ar"), load("tiny-draft")
    assert record["fingerprint"] == fingerprint(draft.params)
    assert record["target_fingerprint"] == fingerprint(target.params)
    assert record["held_out_loss"] < 0.85 * record["held_out_loss_of_the_best_constant"]
    prompts = [example.prompt for name in ("sort", "replace_random") for example in make(name, 4, seed=5)]
    plain = decode(target, prompts, "autoregressive", max_new=16)
    out = decode(target, prompts, "specdec_pp", max_new=16)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    assert out.forwards.sum() < 0.6 * plain.forwards.sum()
