"""Draft and target: the tokens of plain greedy decoding for every draft, row, batch and piece."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, Status, decode, speculative
from jaxdlm._decode import prepare
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import loop
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.policy import Decoding
from tests.conformance.test_loop import equal, whiles
from tests.speculative.toys import END, MAX_NEW, PROMPTS, expected, model, near

TARGET = model(3)
DRAFTS = {"wrong": model(8), "near": near(TARGET, 0.02), "equal": TARGET}
K = 3
RUN = {"max_new": MAX_NEW, "seed": 5}


def policy(draft: str, **arguments):
    return speculative.speculative(DRAFTS[draft], k=K, **arguments)


@pytest.mark.slow
def test_autoregressive_is_greedy_decoding_without_a_cache():
    out = decode(TARGET, PROMPTS, policy="autoregressive", **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    written = [MAX_NEW if s is Status.FINISHED else list(row).index(END) + 1 for row, s in zip(out.tokens, out.status)]
    np.testing.assert_array_equal(out.forwards, written)
    assert (out.accepted == 0).all() and (out.draft_forwards == 0).all()
    for row, count in enumerate(written):
        np.testing.assert_array_equal(out.commit_step[row], [*range(count), *[-1] * (MAX_NEW - count)])


@pytest.mark.slow
def test_what_all_prompts_begin_with_is_read_once():
    """33 tokens and more alike: the keys are those of whole prompts, and rows go on as they do alone."""
    begin = (3 * np.arange(33) % 19 + 2).tolist()
    prompts = [begin + prompt for prompt in PROMPTS]
    rows, _ = lay_out_rows(TARGET, prompts, max_new=2, seed=0, ids=None, raw=False)
    whole, parts = (
        store.prefill(TARGET.model, TARGET.params, rows.tokens, 48, extra=3, shared=shared) for shared in (0, 32)
    )
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one[:, :, :48], other[:, :, :48], atol=2e-5)
    (part,) = prepare(TARGET, prompts, "autoregressive", max_new=4).parts
    assert (part.shared, part.prompt) == (32, 48)
    (part,) = prepare(TARGET, prompts, "autoregressive", max_new=4, rows_per_program=2).parts[:1]
    assert part.shared == 0, "where a row's bits are to be its own"
    for name in ("autoregressive", speculative.autoregressive().replace(slots=2)):
        together = decode(TARGET, prompts, policy=name, max_new=4)
        np.testing.assert_array_equal(together.tokens, np.concatenate(
            [decode(TARGET, [prompt], policy="autoregressive", max_new=4).tokens for prompt in prompts]
        ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("draft", DRAFTS)
def test_speculative_writes_the_same_tokens(draft):
    out = decode(TARGET, PROMPTS, policy=policy(draft), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    plain = decode(TARGET, PROMPTS, policy="autoregressive", **RUN)
    assert out.status == plain.status
    np.testing.assert_allclose(out.score, plain.score, rtol=1e-4, atol=1e-4)
    written = (plain.commit_step >= 0).sum(1)
    assert (out.forwards <= written).all() and (out.draft_forwards == K * out.forwards).all()
    assert (out.drafted >= np.round(out.accepted * out.forwards)).all()
    if draft == "equal":
        np.testing.assert_array_equal(out.forwards, -(-written // (K + 1)))
    if draft == "near":
        assert 0 < out.accepted.mean() < K, "this draft must be neither perfect nor useless"


@pytest.mark.slow
def test_an_answer_shorter_than_the_draft():
    """What is drafted past the row's end is not submitted, and writes nowhere."""
    out = decode(TARGET, PROMPTS, policy=policy("near"), max_new=K - 1, seed=5)
    np.testing.assert_array_equal(out.tokens, expected(3)[:, : K - 1])
    assert (out.forwards <= K - 1).all() and (out.drafted < K - 1).all()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(temperature):
    """Alone, permuted, beside others; bitwise the same randomness."""
    run = {"policy": policy("near", temperature=jnp.float32(temperature)), **RUN}
    batch = decode(TARGET, PROMPTS, **run)
    order = [3, 0, 4, 1, 2]
    permuted = decode(TARGET, [PROMPTS[i] for i in order], ids=order, **run)
    for place, row in enumerate(order):
        np.testing.assert_array_equal(permuted.tokens[place], batch.tokens[row])
        np.testing.assert_array_equal(permuted.commit_step[place], batch.commit_step[row])
    for row in (1, 3):
        alone = decode(TARGET, [PROMPTS[row]], ids=[row], **run)
        np.testing.assert_array_equal(alone.tokens[0], batch.tokens[row])
        assert alone.forwards[0] == batch.forwards[row]
    if temperature:
        assert (decode(TARGET, PROMPTS, **run | {"seed": 6}).tokens != batch.tokens).any()
    else:
        np.testing.assert_array_equal(batch.tokens, expected(3))


def prepared(rule, prompts=PROMPTS):
    rows, prompt = lay_out_rows(TARGET, prompts, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    decoding = Decoding(TARGET.model, TARGET.params, rule)
    return rows, decoding, {"prompt": prompt, "max_new": MAX_NEW, "save": "steps"}


@pytest.mark.slow
def test_one_while_and_pieces_are_the_whole():
    rows, decoding, sizes = prepared(policy("near", temperature=jnp.float32(1)))
    run = lambda rows, decoding: generate.__wrapped__(rows, decoding, **sizes)  # noqa: E731
    assert whiles(jax.make_jaxpr(run)(rows, decoding).jaxpr) == 1

    advance = jax.jit(loop.run)
    begin = jax.jit(lambda rows, decoding: loop.init(rows, decoding, **sizes))(rows, decoding)
    whole, pieces = advance(begin, 99, decoding), begin
    for until in (1, 2, 5, 99):
        pieces = advance(pieces, until, decoding)
    equal(pieces, whole)
    written = whole.trace.tokens[:, -1]  # the canvas after the last forward
    assert written.shape == (len(PROMPTS), MAX_NEW)


def test_nothing_is_traced_again():
    rule = lambda temperature: policy("near", temperature=jnp.float32(temperature))  # noqa: E731
    decode(TARGET, PROMPTS, policy=rule(1.0), **RUN)
    before = generate._cache_size()
    decode(TARGET, [p[::-1] for p in PROMPTS], policy=rule(0.3), max_new=MAX_NEW, seed=8, ids=[9, 8, 7, 6, 5])
    assert generate._cache_size() == before


@pytest.mark.slow
def test_stale_columns_are_invisible():
    """Whatever lies in a cache at or above the length that was read never reaches a query."""
    rows, decoding, sizes = prepared(policy("near"))
    carry = loop.init(rows, decoding, **sizes)

    def poison(kv, valid):
        def spoil(x):
            column = jnp.arange(x.shape[2])[None, None, :, None, None]
            return jnp.where(column < valid[None, :, None, None, None], x, 1e3)

        return jax.tree.map(spoil, kv)

    run = jax.jit(lambda carry: loop.run(carry, 99, decoding))
    dirty = carry._replace(
        kv=poison(carry.kv, rows.length - 1),
        drafter=carry.drafter._replace(kv=poison(carry.drafter.kv, rows.length - 2)),
    )
    np.testing.assert_array_equal(run(dirty).rows.tokens, run(carry).rows.tokens)


@pytest.mark.slow
def test_the_drafts_cache_is_that_of_a_fresh_forward():
    """After every round both caches hold exactly the keys of the committed tokens, the last accepted included."""
    rows, decoding, sizes = prepared(policy("near"))
    carry = loop.init(rows, decoding, **sizes)
    once = jax.jit(lambda carry: loop.step(carry, decoding))
    for _ in range(4):
        carry = once(carry)
        for kv, lm, lag in ((carry.kv, TARGET, 1), (carry.drafter.kv, DRAFTS["near"], 2)):
            position = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1]), rows.tokens.shape).astype(jnp.int32)
            fresh = lm.model.apply(lm.params, carry.rows.tokens, position, jnp.ones(position.shape, bool)).kv
            for mine, theirs in zip(jax.tree.leaves(kv), jax.tree.leaves(fresh)):
                for row in np.flatnonzero(~np.asarray(carry.rows.done)):
                    n = int(carry.rows.length[row]) - lag
                    np.testing.assert_allclose(mine[:, row, :n], theirs[:, row, :n], rtol=1e-4, atol=1e-5)


BAD = [
    ({"k": 0}, "k=0: must be a whole number from 1 to 64"),
    ({"k": 65}, "k=65"),
    ({"k": True}, "k=True"),
    ({"draft": 7}, "draft=7 must be a model: pass jaxdlm.load"),
    ({"draft": model(4, vocab=29)}, "29 words.*23 words.*different vocabularies.*target's tokenizer"),
    ({"temperature": -1.0}, "temperature=-1.0: must be a number from 0 to 1e"),
    ({"top_p": 1.5}, "top_p=1.5: must be a number from 0 to 1, or none"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(change)[:30] for change, _ in BAD])
def test_bad_input_is_refused_before_the_first_forward(change, message):
    before = generate._cache_size()
    with pytest.raises(InputError, match=message) as caught:
        decode(TARGET, PROMPTS, policy=speculative.speculative(**{"draft": DRAFTS["near"], **change}), **RUN)
    assert "\n" not in str(caught.value)
    assert generate._cache_size() == before


def test_models_and_policies_that_do_not_meet_are_refused():
    from tests.conformance.toys import model as masked

    with pytest.raises(InputError, match=r"diffusion model.*needs an autoregressive target"):
        decode(masked("same"), PROMPTS, policy="autoregressive", **RUN)
    with pytest.raises(InputError, match="takes policy='autoregressive'"):
        decode(TARGET, PROMPTS, policy="threshold", **RUN)
    with pytest.raises(InputError, match="leave infill and canvas out"):
        decode(TARGET, PROMPTS, policy="autoregressive", infill=True, **RUN)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_end_where_every_token_is_banned(temperature):
    tokens = dataclasses.replace(
        TARGET.config.tokens, tokenizer_size=1, mask=0
    )  # the tokenizer's only word is the mask
    mute = dataclasses.replace(TARGET.model, config=dataclasses.replace(TARGET.config, tokens=tokens))
    out = decode(
        type(TARGET)(mute, TARGET.params, None, "mute"), PROMPTS, speculative.autoregressive(temperature), **RUN
    )
    assert out.status == [Status.NONFINITE] * len(PROMPTS)
    np.testing.assert_array_equal(out.forwards, np.ones(len(PROMPTS)))
    assert (out.commit_step == -1).all()


def test_a_row_with_broken_logits_ends_alone():
    broken = dict(TARGET.params)
    broken["embed"] = TARGET.params["embed"].at[17].set(jnp.nan)  # only one prompt holds this token
    lm = type(TARGET)(TARGET.model, broken, None, "broken")
    out = decode(lm, PROMPTS, policy=policy("near"), **RUN)
    assert [s is Status.NONFINITE for s in out.status].count(True) >= 1
    assert out.status[3] is Status.NONFINITE
    healthy = [row for row, s in enumerate(out.status) if s is not Status.NONFINITE]
    assert healthy
    np.testing.assert_array_equal(out.tokens[healthy], expected(3)[healthy])
