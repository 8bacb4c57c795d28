"""Superposed decoding against a search over lists in float64 that counts its n-grams anew, and what follows by definition."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm.core.carry import Status
from jaxdlm.speculative.ngrams import count_ngrams, read_ngrams
from jaxdlm.speculative.superposed import Smoothing, mean_embedding, weights
from tests.guides import oracles
from tests.speculative.toys import END, PROMPTS, VOCAB, model

RUN = {"max_new": 6}
LAMBDA = (0.01, 0.04, 0.15, 0.18, 0.12)
CORPUS = [np.random.default_rng(seed).integers(2, VOCAB, 60).tolist() for seed in range(6)]
TAU = 0.4  # of random models, whose logits are flat


@jax.jit
def forward(params, x, length):
    """Logits behind embeddings [L, D], without a cache."""
    lm = model(0)
    padded = dict(params, embed=x)
    ids = jnp.arange(x.shape[0], dtype=jnp.int32)[None]
    hidden = lm.model.apply(padded, ids, ids, jnp.ones(ids.shape, bool)).hidden
    return lm.model.head(params, hidden)[0, length - 1]


def behind(lm, rows):
    x = np.zeros((32, rows[0].shape[0]), np.float32)
    x[: len(rows)] = rows
    return np.asarray(forward(lm.params, jnp.asarray(x), len(rows)), np.float64)


def counts_of(texts, longest=6):
    """{context: {token: times}}"""
    counts: dict = {}
    for text in texts:
        text = [*text, END]
        for n in range(2, longest + 1):
            for at in range(len(text) - n + 1):
                counts.setdefault(tuple(text[at : at + n - 1]), Counter())[text[at + n - 1]] += 1
    return counts


def shares(counts, text, token):
    """sum_g lambda_g share_g"""
    total = 0.0
    for n, weight in enumerate(LAMBDA, start=2):
        context = tuple(text[len(text) - n + 1 :]) if len(text) >= n - 1 else None
        if context in counts:
            total += weight * counts[context][token] / sum(counts[context].values())
    return total


def searched(lm, prompt, k, m, tau=TAU, corpus=None, alpha=0.54, penalty=200.0, first=True, most=6, bend=None):
    """The k best texts, [(score per token, text)], and how often the model was asked."""
    table = np.asarray(lm.params["embed"], np.float64)
    counts = None if corpus is None else counts_of(corpus)
    alive, finished, asked = [(0.0, [])], [], 0
    stream = [table[token] for token in prompt[:-1]]
    for length in range(1, most + 1):
        w = np.exp(np.array([score for score, _ in alive]) - alive[0][0])
        last = [[*prompt, *text][-1] for _, text in alive]
        stream.append((w / w.sum()) @ table[last])
        logits, asked = behind(lm, stream), asked + 1
        offered = []
        for score, text in alive:
            bent = logits if bend is None else np.asarray(bend(logits.astype(np.float32), [*prompt, *text]), np.float64)
            best = np.argsort(-bent, kind="stable")[:m]
            logp = bent[best] / tau - np.logaddexp.reduce(bent[best] / tau)
            gain = logp
            if counts is not None and (first or text):
                chance = np.array([shares(counts, [*prompt, *text], int(token)) for token in best])
                with np.errstate(divide="ignore"):
                    gain = (1 - alpha) * logp + alpha * np.log(chance)
                gain = gain if chance.any() else (1 - alpha) * logp - penalty
            offered += [(score + float(each), [*text, int(token)]) for each, token in zip(gain, best)]
        offered = sorted((each for each in offered if each[0] > -np.inf), key=lambda each: -each[0])[: 2 * k]
        over = [each for each in offered if each[1][-1] == END]
        alive = [each for each in offered if each[1][-1] != END][:k]
        finished = sorted(finished + [(score / length, text) for score, text in over], key=lambda each: -each[0])[:k]
        if length == most:
            finished = sorted(finished + [(s / length, t) for s, t in alive], key=lambda each: -each[0])[:k]
        if not alive or (len(finished) == k and alive[0][0] / most <= finished[-1][0]):
            break
    return finished, asked


def padded(text, columns=6):
    return text + [END] * (columns - len(text))


def check(out, k, **case):
    for row, prompt in enumerate(PROMPTS):
        best, asked = searched(model(0), prompt, k, **case)
        assert out.tokens[k * row : k * row + len(best)].tolist() == [padded(text) for _, text in best], prompt
        assert out.forwards[k * row] == asked


PLAIN = jd.superposed(3, tau=np.float32(TAU))


@pytest.mark.slow
def test_it_is_the_search_over_lists():
    """All prompts in one batch, also in another order; with n-grams below."""
    out = decode(model(0), PROMPTS, PLAIN, n=3, **RUN)
    check(out, 3, m=9)
    back = decode(model(0), PROMPTS[::-1], PLAIN, n=3, **RUN)
    np.testing.assert_array_equal(back.tokens.reshape(5, 3, 6)[::-1].reshape(15, 6), out.tokens)
    np.testing.assert_allclose(back.logprobs.reshape(5, 3, 6)[::-1].reshape(15, 6), out.logprobs, atol=1e-4)
    assert len({tuple(row) for row in out.tokens[:3].tolist()}) == 3
    assert set(out.status) <= {Status.EOS, Status.FINISHED}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_with_n_grams_it_is_the_search_over_lists():
    """And the row alone is that of the batch."""
    policy = jd.superposed(3, count_ngrams(model(0), CORPUS), tau=np.float32(TAU))
    out = decode(model(0), PROMPTS, policy, n=3, **RUN)
    check(out, 3, m=9, corpus=CORPUS)
    alone = decode(model(0), [PROMPTS[3]], policy, n=3, **RUN)
    np.testing.assert_array_equal(alone.tokens, out.tokens[9:12])


@pytest.mark.exhaustive
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.9])
def test_it_is_the_search_over_lists_whatever_the_numbers(k, alpha):
    table = count_ngrams(model(0), CORPUS)
    for tau, penalty, first in ((0.1, 3.0, True), (2.0, 0.0, False)):
        policy = jd.superposed(k, table, alpha, tau, candidates=k + 2, penalty=penalty, smooth_first=first)
        out = decode(model(0), PROMPTS, policy, n=k, **RUN)
        check(out, k, m=k + 2, tau=tau, corpus=CORPUS, alpha=alpha, penalty=penalty, first=first)


@pytest.mark.exhaustive
def test_a_guide_bends_what_each_text_may_go_on_with():
    bend = lambda logits, text: oracles.penalised(logits, text, np.float32(3))  # noqa: E731
    policy = jd.superposed(3, tau=np.float32(TAU), guide=jd.guides.repetition(3.0))
    check(decode(model(0), PROMPTS, policy, n=3, **RUN), 3, m=9, bend=bend)


@pytest.mark.exhaustive
def test_one_text_is_greedy():
    plain = decode(model(0), PROMPTS, "autoregressive", **RUN)
    one = jd.superposed(1, candidates=1, tau=np.float32(3))
    np.testing.assert_array_equal(decode(model(0), PROMPTS, one, **RUN).tokens, plain.tokens)


@pytest.mark.exhaustive
def test_the_likeliest_tokens_stand_beside_each():
    whole = decode(model(0), PROMPTS, PLAIN, n=2, top_logprobs=3, **RUN)
    alone = decode(model(0), [PROMPTS[3]], PLAIN, n=2, top_logprobs=3, **RUN)
    np.testing.assert_array_equal(alone.top_tokens, whole.top_tokens[6:8])
    likeliest = whole.top_logprobs[..., 0] * (whole.commit_step >= 0)
    assert (whole.logprobs <= likeliest + 1e-6).all()


def test_the_cache_has_one_row_per_prompt():
    from jaxdlm import layout
    from jaxdlm.speculative import loop
    from jaxdlm.speculative.policy import Decoding

    lm = model(0)
    rows, prompt = layout.lay_out_rows(lm, PROMPTS, max_new=6, seed=0, ids=None, raw=False)
    decoding = Decoding(lm.model, lm.params, jd.superposed(4))
    carry = jax.eval_shape(lambda rows: loop.init(rows, decoding, prompt, 6, "commit"), rows)
    assert carry.rows.tokens.shape[0] == 20
    assert {leaf.shape[1] for leaf in jax.tree.leaves(carry.kv)} == {5}


# ------------------------------------------------------------------------------------------------- by definition


def test_the_mean_of_equal_tokens_is_their_embedding():
    table = jax.random.normal(jax.random.key(0), (7, 5))
    total = jnp.log(jnp.array([[0.6, 0.4, 0.3], [0.5, 0.0, 0.0]]))
    same, weight = jax.jit(lambda token: (mean_embedding(table, token, weights(total)), weights(total)))(
        jnp.array([[3, 1, 3], [2, 2, 2]])
    )
    np.testing.assert_allclose(weight, [[6 / 13, 4 / 13, 3 / 13], [1, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(same[1], table[2])
    np.testing.assert_allclose(same[0], (9 * np.asarray(table[3]) + 4 * np.asarray(table[1])) / 13, rtol=1e-5)


def smoothing(texts, **numbers):
    numbers = {"alpha": 0.54, "mixture": jnp.array(LAMBDA), "penalty": 200.0} | numbers
    return Smoothing(count_ngrams(model(0), texts).grams, **numbers)


def test_shares_are_those_of_counts():
    """The hand example of bigrams 3 : 1, and every context of a corpus by counting again."""

    @jax.jit
    def chance(smooth, text, length):
        share = smooth.grams.share(smooth.grams.suffixes(text, length, 5), jnp.arange(VOCAB))
        return jnp.sum(smooth.mixture[:, None] * share, axis=0)

    by_hand = chance(smoothing([[2, 3], [2, 3], [2, 3], [2, 4]]), jnp.array([9, 9, 9, 9, 9, 2, 0, 0, 0]), 6)
    np.testing.assert_allclose(by_hand[3:6], [0.0075, 0.0025, 0.0], atol=1e-9)
    smooth, counts = smoothing(CORPUS), counts_of(CORPUS)
    for text in (CORPUS[0][:9], CORPUS[1][20:22], [5, 5, 5], [CORPUS[2][-1]]):
        own = chance(smooth, jnp.array((text + 9 * [0])[:9]), len(text))
        np.testing.assert_allclose(own, [shares(counts, text, token) for token in range(VOCAB)], atol=1e-7)


def test_a_text_that_the_table_does_not_know_loses_the_penalty():
    smooth = smoothing(CORPUS)
    logp = jnp.log(jnp.array([[0.7, 0.3], [0.7, 0.3]]))
    share = jnp.zeros((2, 5, 2)).at[0, 0, 1].set(0.5)
    score = jax.jit(lambda logp, share: smooth.score(logp, share))(logp, share)
    np.testing.assert_allclose(score[0], [-np.inf, 0.46 * np.log(0.3) + 0.54 * np.log(0.005)], rtol=1e-5)
    np.testing.assert_allclose(score[1], 0.46 * np.log([0.7, 0.3]) - 200, rtol=1e-5)


def test_tables_are_kept_in_files(tmp_path):
    from jaxdlm.checkpoint.safetensors import read_safetensors, write_safetensors

    file, table = tmp_path / "n.safetensors", count_ngrams(model(0), CORPUS, longest=4, ends=False)
    table.save(file)
    back = read_ngrams(file)
    assert jax.tree.structure(back.grams) == jax.tree.structure(table.grams) and "n.safetensors" in back.name
    jax.tree.map(np.testing.assert_array_equal, back.grams, table.grams)
    assert jd.policies.read(f"superposed,table={file},mixture=[0.1,0.2]").search.smoothing.orders == 2
    stored, notes = read_safetensors(file)
    spoilt = {
        "it holds first": ({"first": stored["first"]}, notes),
        "not in order": (stored | {"first": stored["first"][::-1].copy()}, notes),
        "outside 0 .. 22": (stored | {"token": stored["token"] + 23}, notes),
        "do not add up": (stored | {"total": stored["total"] + 1}, notes),
        "do not fit": (stored | {"total": stored["total"][:-1]}, notes),
        "n-grams of 99": (stored | {"longest": stored["longest"] * 0 + 99}, notes),
    }
    for message, (arrays, words) in spoilt.items():
        write_safetensors(file, arrays, words)
        with pytest.raises(InputError, match=f"n.safetensors is no n-gram table .*{message}"):
            read_ngrams(file)


def test_what_is_out_of_range_is_refused():
    table = count_ngrams(model(0), CORPUS, longest=3)
    for wrong, message in [
        ({"k": 0}, "k=0"), ({"alpha": 0.3}, "alpha=0.3 means nothing without table"), ({"candidates": 2}, "candidates=2"),
        ({"table": table}, "have up to 3 tokens: count longer ones"), ({"table": table, "mixture": (0.7, 0.7)}, "mixture="),
        ({"table": 3}, "table=3"), ({"tau": 0}, "tau=0"),
        ({"table": table, "alpha": 0}, "alpha=0"),
        ({"table": table, "alpha": 1, "mixture": (0.1,)}, "alpha=1"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            jd.superposed(**wrong)
    other = count_ngrams(model(4, vocab=29), [[1, 2, 28]])
    with pytest.raises(InputError, match=r"29 words.*23 words.*different vocabularies"):
        decode(model(0), PROMPTS, jd.superposed(table=other), **RUN)
    with pytest.raises(InputError, match="no text has two tokens"):
        count_ngrams(model(0), [[2]], ends=False)
    with pytest.raises(InputError, match=r"texts\[1\]=\[99\]"):
        count_ngrams(model(0), [[2], [99]])
