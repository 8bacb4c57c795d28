"""Every method: the target's own greedy tokens, its own distribution at temperature 1, rows independent of their
batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import decode, speculative
from jaxdlm.layout import lay_out_rows
from jaxdlm.speculative import verify
from jaxdlm.speculative.decode import generate
from jaxdlm.speculative.policy import Decoding
from tests.conformance.test_loop import equal
from tests.marks import exhaustive, usual
from tests.speculative.test_loop import TARGET
from tests.speculative.test_verify import biased
from tests.speculative.toys import MAX_NEW, PROMPTS, distribution_of, expected, fit, model, near, next_logits

DRAFT = near(TARGET, 0.02)
WRONG = model(8)
RUN = {"max_new": MAX_NEW, "seed": 5}
HOT = jnp.float32(1)
S = speculative

GREEDY = {
    "eqspec": lambda draft: S.eqspec(draft, k=3),
    "eqspec official": lambda draft: S.eqspec(draft, k=3, official=True),
    "exspec": lambda draft: S.exspec(draft, k=3, slots=2),
    "spectr": lambda draft: S.spectr(draft, width=2, depth=3, temperature=jnp.float32(0)),
    "easyspec": lambda draft: S.easyspec(draft, k=3, group=2),
}  # what is a drafter alone: tests/conformance/test_drafters.py


@pytest.mark.slow
@pytest.mark.parametrize(("method", "draft"), [(m, d) for m in GREEDY for d in ("near", "wrong")])
def test_greedy_tokens_are_those_of_plain_decoding(method, draft):
    out = decode(TARGET, PROMPTS, policy=GREEDY[method]({"near": DRAFT, "wrong": WRONG}[draft]), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    written = (out.commit_step >= 0).sum(1)
    assert (out.forwards <= written).all()
    np.testing.assert_array_equal(np.diff(out.commit_step, axis=1)[:, :3] >= 0, written[:, None] > [1, 2, 3])


# ----------------------------------------------------------------------------------- the distribution, by enumeration

WORDS, LENGTH, ROWS, START = 4, 3, 12000, [0, 2, 3, 0, 2]
SMALL = model(11, vocab=WORDS, end=1)
SMALL_DRAFT = near(SMALL, 0.1)


SAMPLED = {
    "autoregressive": lambda t: S.autoregressive(t),
    "speculative": lambda t: S.speculative(SMALL_DRAFT, k=2, temperature=t),
    "certain draft": lambda t: S.lookup(k=LENGTH + 2, temperature=t),  # longer than the answer
    "spectr": lambda t: S.spectr(SMALL_DRAFT, width=3, depth=2, temperature=t),
    "pearl": lambda t: S.pearl(SMALL_DRAFT, chunk=2, temperature=t),
    "easyspec": lambda t: S.easyspec(SMALL_DRAFT, k=LENGTH + 1, group=2, temperature=t),
}


def p_value(policy, temperature: float) -> float:
    out = decode(SMALL, [START] * ROWS, policy=policy, max_new=LENGTH, seed=1, save="none")
    distribution = distribution_of(SMALL, START, LENGTH, temperature)
    assert abs(sum(distribution.values()) - 1) < 1e-6
    assert set(map(tuple, out.tokens.tolist())) <= set(distribution)
    return fit(out.tokens, distribution)


@pytest.mark.slow
@pytest.mark.parametrize("method", usual(SAMPLED, "speculative"))
def test_three_sampled_tokens_have_the_targets_distribution(method):
    assert p_value(SAMPLED[method](HOT), 1.0) > 1e-3


@pytest.mark.exhaustive
def test_a_biased_sampler_fails_that_test():
    policy = SAMPLED["speculative"](HOT).replace(acceptance=biased)
    assert p_value(policy, 1.0) < 1e-6


@pytest.mark.slow
def test_filters_keep_what_they_say():
    """top_k = 1 is greedy decoding at any temperature, for target and draft alike."""
    out = decode(TARGET, PROMPTS, policy=S.speculative(DRAFT, k=3, temperature=HOT, top_k=1), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))


# --------------------------------------------------------------------------------------------------- lookup, pooling


@pytest.mark.slow
def test_lookup_finds_the_longest_then_the_earliest_match():
    from jaxdlm.speculative.drafters.lookup import Lookup

    text = jnp.array([5, 6, 7, 9, 6, 8, 5, 6, 4, 5, 6, 0, 0], jnp.int32)
    end, found = Lookup(depth=2, ngram=3).match(text, jnp.int32(11))
    assert (int(end), bool(found)) == (1, True)  # "5 6" at 0 and at 6: the earlier one
    end, found = Lookup(depth=2, ngram=1).match(text, jnp.int32(11))
    assert int(end) == 1
    end, found = Lookup(depth=2, ngram=3).match(text, jnp.int32(9))  # ends in "5 6 4": no 4 before
    assert not bool(found)
    assert not bool(Lookup(depth=2).match(text, jnp.int32(1))[1])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_pooling_depends_on_neither_slots_nor_order():
    prompts = [p + [i + 2] for i, p in enumerate(PROMPTS * 2)]
    whole = decode(TARGET, prompts, policy=S.eqspec(DRAFT, k=3), **RUN)
    order = np.random.default_rng(0).permutation(len(prompts))
    for slots in (3,):
        out = decode(TARGET, [prompts[i] for i in order], S.exspec(DRAFT, k=3, slots=slots), ids=order.tolist(), **RUN)
        for name in ("tokens", "forwards", "commit_step", "accepted", "draft_forwards"):
            np.testing.assert_array_equal(getattr(out, name), getattr(whole, name)[order])
        assert out.status == [whole.status[i] for i in order]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [exhaustive(0.0), 1.0])
def test_pearl_on_two_devices_is_pearl_on_one(temperature):
    """Bit for bit: tokens, counts and steps."""
    rows, prompt = lay_out_rows(TARGET, PROMPTS, max_new=MAX_NEW, seed=5, ids=None, raw=False)
    policy = S.pearl(DRAFT, chunk=3, temperature=jnp.float32(temperature))
    sizes = {"prompt": prompt, "max_new": MAX_NEW, "save": "commit"}
    one, two = jax.devices()[:2]
    apart = S.generate_on_two(rows, TARGET.model, TARGET.params, policy, target=one, draft=two, **sizes)
    equal(apart, generate(rows, Decoding(TARGET.model, TARGET.params, policy), **sizes))


@pytest.mark.slow
def test_pearl_commits_whole_chunks_of_a_perfect_draft_and_single_tokens_of_a_wrong_one():
    perfect = decode(TARGET, PROMPTS, policy=S.pearl(TARGET, chunk=3), **RUN)
    np.testing.assert_array_equal(perfect.tokens, expected(3))
    written = (perfect.commit_step >= 0).sum(1)
    np.testing.assert_array_equal(perfect.forwards, 1 + -(-(written - 1) // 3))  # one to begin with, then chunks
    np.testing.assert_array_equal(perfect.draft_forwards, 3 * perfect.forwards)


def realigning(lm, draft, prompts, k, max_new, end):
    """EQSPEC as its paper runs it, on dense left-padded rows: unpad, append, pad again after every round; no cache."""
    rows = [list(p) for p in prompts]
    start = [len(p) for p in prompts]
    live = lambda b: len(rows[b]) - start[b] < max_new and end not in rows[b][start[b] :]  # noqa: E731
    rounds = 0
    while active := [b for b in range(len(rows)) if live(b)]:
        width = min(k, min(max_new - len(rows[b]) + start[b] for b in active))
        longest = max(len(rows[b]) for b in active)
        padded = {b: [None] * (longest - len(rows[b])) + rows[b] for b in active}
        for b in active:
            text = [token for token in padded[b] if token is not None]
            guess = list(text)
            for _ in range(width):
                guess.append(int(next_logits(draft, guess).argmax()))
            chunk = guess[len(text) :]
            for place, token in enumerate(chunk):
                right = int(next_logits(lm, text + chunk[:place]).argmax())
                if right != token or place == width - 1:
                    chunk = [*chunk[:place], right]
                    break
            if end in chunk:
                chunk = chunk[: chunk.index(end) + 1]
            rows[b] = text + chunk
        rounds += 1
    return [row[n:] for row, n in zip(rows, start)], rounds


def test_eqspec_needs_no_realignment():
    texts, _ = realigning(TARGET, DRAFT, PROMPTS, 3, MAX_NEW, 1)
    out = decode(TARGET, PROMPTS, policy=S.eqspec(DRAFT, k=3, official=True), **RUN)
    for row, text in enumerate(texts):
        assert out.tokens[row, : len(text)].tolist() == text
    # alone, a row's rounds are the paper's, too
    for row in (0, 3):
        _, rounds = realigning(TARGET, DRAFT, [PROMPTS[row]], 3, MAX_NEW, 1)
        assert out.forwards[row] == rounds


def test_distribution_is_greedy_only_where_the_temperature_is_known():
    assert S.speculative(DRAFT).acceptance is verify.greedy
    assert S.speculative(DRAFT, temperature=HOT).acceptance is verify.rejection
    assert S.spectr(DRAFT, temperature=0.5).acceptance is verify.k_sequence
    assert S.spectr(DRAFT, width=4).drafter.width == 1
