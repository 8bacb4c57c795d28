"""Prompts that begin with embeddings: with those of tokens the answer is the tokens', and no compressor changes any answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm.speculative import visual
from jaxdlm.speculative.drafters.eagle import KINDS, blank, drafting
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.visual import BRANCHES, Compressor
from jaxdlm.speculative.warp import warp
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import MAX_NEW, PROMPTS, expected

RUN = {"max_new": MAX_NEW, "seed": 5}
FIELDS = ("tokens", "forwards", "draft_forwards", "drafted", "accepted", "commit_step")
SPLIT = (2, 0, 5, 9, 1)  # of each prompt so many tokens are sent as embeddings
TEXTS = [prompt[count:] for prompt, count in zip(PROMPTS, SPLIT)]
IMAGES = [
    np.asarray(TARGET.params["embed"])[prompt[:count]] if count else None for prompt, count in zip(PROMPTS, SPLIT)
]


@functools.cache
def eagle(way: str | None = None, temperature: float = 0.0) -> Speculation:
    """All ways of a compressor share a program."""
    head = blank(KINDS["eagle2"], TARGET, feed=16, visual=True)
    number = None if way is None else jnp.int32(BRANCHES.index(way) if way in BRANCHES else len(BRANCHES))
    compressor = None if way is None else Compressor(number)
    drafter = drafting(KINDS["eagle2"], head, width=3, depth=3, nodes=8, compressor=compressor)
    return Speculation(drafter, warp(jnp.float32(temperature), noise="shared"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["autoregressive", pytest.param("eagle2", marks=pytest.mark.exhaustive)])
def test_embeddings_of_tokens_are_these_tokens(method):
    """Rows with embeddings of several numbers, and one without; drafts are the same bit for bit."""
    for temperature in (0.0, 1.0):
        policy = eagle(None, temperature) if method == "eagle2" else jd.autoregressive(jnp.float32(temperature))
        whole = decode(TARGET, PROMPTS, policy, **RUN)
        out = decode(TARGET, TEXTS, policy, prefix_embeddings=IMAGES, **RUN)
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(out, field), getattr(whole, field))
        np.testing.assert_allclose(out.score, whole.score, rtol=1e-4, atol=1e-5)


def images(counts=SPLIT) -> list[np.ndarray | None]:
    rng = np.random.default_rng(4)
    return [rng.normal(size=(count, 24)).astype(np.float32) * 0.3 if count else None for count in counts]


@pytest.mark.slow
def test_no_compressor_changes_the_text():
    """Five ways, and the gate between them: the drafts are others, the answers are those of plain decoding."""
    drafted = {}
    for temperature in (0.0, 1.0):
        plain = decode(TARGET, TEXTS, jd.autoregressive(jnp.float32(temperature)), prefix_embeddings=images(), **RUN)
        assert (plain.tokens != expected(3)).any()
        for way in (*BRANCHES, "gate"):
            out = decode(TARGET, TEXTS, eagle(way, temperature), prefix_embeddings=images(), **RUN)
            np.testing.assert_array_equal(out.tokens, plain.tokens)
            drafted[way] = out.accepted.tolist()
    assert len({tuple(each) for each in drafted.values()}) > 1, "ways differ in what they draft"


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_neighbours():
    whole, order = decode(TARGET, TEXTS, eagle("gate", 1.0), prefix_embeddings=images(), **RUN), [3, 0, 4, 1, 2]
    moved = decode(
        TARGET,
        [TEXTS[i] for i in order],
        eagle("gate", 1.0),
        ids=order,
        prefix_embeddings=[images()[i] for i in order],
        **RUN,
    )
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(moved, field), getattr(whole, field)[order])


@pytest.mark.exhaustive
def test_a_row_does_not_depend_on_its_slot():
    whole = decode(TARGET, TEXTS, eagle("gate", 1.0), prefix_embeddings=images(), **RUN)
    pooled = decode(TARGET, TEXTS, eagle("gate", 1.0).replace(slots=2), prefix_embeddings=images(), **RUN)
    alone = decode(TARGET, [TEXTS[3]], eagle("gate", 1.0), ids=[3], prefix_embeddings=images()[3:4], **RUN)
    several = decode(TARGET, TEXTS, eagle("gate", 1.0), prefix_embeddings=images(), n=2, **RUN)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(pooled, field), getattr(whole, field))
        np.testing.assert_array_equal(getattr(alone, field)[0], getattr(whole, field)[3])
        np.testing.assert_array_equal(getattr(several, field)[::2], getattr(whole, field))


# ------------------------------------------------------------------------------------------------- the ways themselves

COUNT = np.array([45, 0, 1, 20, 37])


def pairs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 45, 24)).astype(np.float32)


by_way = jax.jit(visual.made, static_argnums=0)
LEAVES = blank(KINDS["eagle2"], TARGET, feed=16, visual=True).leaves


def short(name: str, x: np.ndarray) -> list[np.ndarray]:
    """The rows by one of the ways, one by one."""
    w = {name: np.asarray(leaf, np.float64) for name, leaf in LEAVES.items()}
    made = []
    for row, count in zip(x.astype(np.float64), COUNT):
        own = row[:count]
        if name == "pool":
            made.append(np.array([own[at : at + 20].mean(0) for at in range(0, count, 20)]).reshape(-1, 24))
        elif name == "conv":
            long = np.concatenate([own, np.zeros((2, 24))])
            taps = [sum(long[at + k] @ w["conv"][k] for k in range(3)) for at in range(0, count, 3)]
            made.append(np.array(taps).reshape(-1, 24) + w["conv_bias"])
        elif name == "resample" and count:
            score = (w["queries"].T @ w["seek"]) @ (own @ w["keys"]).T / np.sqrt(24)
            share = np.exp(score - score.max(1, keepdims=True))
            made.append(share / share.sum(1, keepdims=True) @ (own @ w["values"]) @ w["out"])
        else:
            made.append(own[:0])
    return made


@pytest.mark.parametrize("name", ["pool", "conv", "resample", "text"])
def test_what_is_left_is_what_loops_leave(name):
    keys = jax.random.split(jax.random.key(0), 5)
    made = by_way(name, LEAVES, jnp.asarray(pairs()), jnp.asarray(COUNT, jnp.int32), keys)
    for row, wanted in enumerate(short(name, pairs())):
        assert int(made.count[row]) == len(wanted)
        np.testing.assert_allclose(made.x[row, : len(wanted)], wanted, rtol=2e-4, atol=2e-5)


def test_one_in_twenty_is_left_in_order():
    keys, x = jax.random.split(jax.random.key(0), 5), jnp.asarray(pairs())
    made = by_way("prune", LEAVES, x, jnp.asarray(COUNT, jnp.int32), keys)
    assert made.count.tolist() == [3, 0, 1, 1, 2]
    for row, count in enumerate(made.count.tolist()):
        where = [np.flatnonzero((pairs()[row] == np.asarray(made.x)[row, i]).all(1)).item() for i in range(count)]
        assert where == sorted(set(where)) and all(place < COUNT[row] for place in where)
    again = by_way("prune", LEAVES, x[::-1], jnp.asarray(COUNT[::-1].copy(), jnp.int32), keys[::-1])
    np.testing.assert_array_equal(again.x[::-1], made.x)


def test_the_gate_chooses_by_the_question():
    """And a way that was not trained is not chosen from."""
    question = jnp.asarray(np.random.default_rng(2).normal(size=(5, 24)), jnp.float32)
    x, count, keys = jnp.asarray(pairs()), jnp.asarray(COUNT, jnp.int32), jax.random.split(jax.random.key(0), 5)
    choice = np.argmax(np.asarray(visual.gate(LEAVES, question)), axis=1)
    assert len(set(choice.tolist())) > 1
    of = jax.jit(lambda way, leaves: way.of(leaves, x, count, keys, question))
    made = of(Compressor(jnp.int32(len(BRANCHES))), LEAVES)
    for row, number in enumerate(choice):
        own = by_way(BRANCHES[number], LEAVES, x, count, keys)
        assert int(made.count[row]) == int(own.count[row])
        np.testing.assert_allclose(made.x[row, : own.x.shape[1]], own.x[row], atol=1e-6)
    for name in ("prune", "pool", "text"):
        alone = of(Compressor(jnp.int32(BRANCHES.index(name))), {})
        assert alone.count.tolist() == by_way(name, LEAVES, x, count, keys).count.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["text", pytest.param("conv", marks=pytest.mark.exhaustive)])
def test_the_head_reads_what_is_left_and_then_the_text(way):
    """Its first level in every round is that of a pass without keys over the pairs that are left, from position 0 on."""
    from jaxdlm import layout
    from jaxdlm.speculative import loop, prefix
    from jaxdlm.speculative.policy import Decoding

    count, prompt = 7, [3, 9, 4, 2, 11, 5, 8, 13, 6, 12]
    tokens = np.concatenate([np.full(count, -1), prompt[count:]]).astype(np.int32)
    image = np.asarray(TARGET.params["embed"])[prompt[:count]]
    rows, bucket = layout.arrange_rows(TARGET, [tokens], max_new=MAX_NEW, seed=5, ids=None, prefix=[image])
    decoding = Decoding(TARGET.model, TARGET.params, eagle(way))
    carry = jax.jit(lambda: loop.init(rows, decoding, bucket, MAX_NEW, "none"))()

    @jax.jit
    def once(carry):
        hidden, _ = loop.drafter_of(decoding, carry.kv).catch_up(carry.drafter, carry.rows)
        return hidden, loop.step(carry, decoding)

    assert prefix.NOTHING not in np.asarray(carry.rows.tokens)
    for _ in range(4):
        known = [*prompt[:count], *np.asarray(carry.rows.tokens)[0, count : int(carry.rows.length[0])].tolist()]
        hidden, carry = once(carry)
        np.testing.assert_allclose(hidden[0, 0], last_output(known, count, way), rtol=2e-3, atol=2e-4)


def last_output(known: list[int], count: int, way: str) -> np.ndarray:
    """Of the head for the last pair of a text whose first tokens are an image."""
    from tests.speculative.drafters.test_eagle import norm, shown, turned

    w = {name: np.asarray(leaf, np.float64) for name, leaf in LEAVES.items()}
    behind, _ = shown(known)
    feature = norm(behind[-1], np.asarray(TARGET.params["final_norm"], np.float64))[:-1]
    word = np.asarray(TARGET.params["embed"], np.float64)[known[1:]]
    x = np.concatenate([word, feature], -1) @ w["fc"] + w["fc_bias"]
    left = x[:0]
    if way == "conv":
        long = np.concatenate([x[:count], np.zeros((2, 24))])
        left = (
            np.array([sum(long[at + k] @ w["conv"][k] for k in range(3)) for at in range(0, count, 3)]) + w["conv_bias"]
        )
    x = np.concatenate([left, x[count:]])
    z = norm(x, w["attn_norm"])
    q, k, v = (np.einsum("td,dnh->tnh", z, w[name]) for name in ("wq", "wk", "wv"))
    q, k = turned(q), turned(k)
    k, v = (np.repeat(each, q.shape[1] // each.shape[1], axis=1) for each in (k, v))
    score = np.einsum("nh,snh->ns", q[-1], k) / np.sqrt(q.shape[-1])
    share = np.exp(score - score.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    out = x[-1] + np.einsum("ns,snh,nhd->d", share, v, w["wo"])
    u = norm(out, w["mlp_norm"])
    gate = u @ w["gate"]
    return out + (gate / (1 + np.exp(-gate)) * (u @ w["up"])) @ w["down"]


# ------------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_read_is_refused():
    long = np.zeros((120, 24), np.float32)
    for lm, policy, prefix, message in (
        (
            TARGET,
            "autoregressive",
            [long, None, None, None, None],
            "prompt 0 has 120 embeddings and 2 tokens; with max_new=12",
        ),
        (TARGET, "contrastive", [None] * 5, "contrastive reads prompts again as tokens: leave prefix_embeddings out"),
        (TARGET, "autoregressive", [None], "prefix_embeddings has 1 entries for 5 prompts"),
        (TARGET, "autoregressive", [np.zeros((3, 7)), *[None] * 4], r"prefix_embeddings\[0\]=.*\[P, 24\]"),
        (TARGET, "autoregressive", [np.full((3, 24), np.nan), *[None] * 4], r"prefix_embeddings\[0\] holds numbers"),
    ):
        with pytest.raises(InputError, match=message):
            decode(lm, TEXTS, policy, prefix_embeddings=prefix, **RUN)
    with pytest.raises(InputError, match="means nothing to tiny, a diffusion model"):
        decode(jd.load("tiny"), ["reverse : [ Alan ]"], prefix_embeddings=[np.zeros((3, 7))], max_new=16)


@pytest.mark.parametrize("name", ["gate", "conv", "resample"])
def test_a_compressor_that_was_not_trained_is_refused(name):
    with pytest.raises(InputError, match=f"compressor={name} was not trained with this head"):
        jd.eagle2(compressor=name)
    assert jd.eagle2().drafter.compressor is None and jd.eagle2(compressor="pool").drafter.compressor is not None
