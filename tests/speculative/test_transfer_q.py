"""Transfer Q* against its rule in float64, each rollout from forwards over everything; its laws by enumeration; invariants."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

import jaxdlm as jd
from jaxdlm import InputError, decode, struct
from jaxdlm.core.carry import Status
from tests.guides import oracles
from tests.speculative.toys import END, PROMPTS, VOCAB, distribution_of, model, near, next_logits

RUN = {"max_new": 8}
WORTH = np.random.default_rng(4).normal(size=VOCAB).astype(np.float32)


@struct.dataclass
class Worth:
    """The sum over the answer of what each token is worth; numbers of one program."""

    scale: Any = 1.0
    offset: Any = 0.0

    def __call__(self, tokens, start, length):
        own = jd.rewards.answer_of(tokens, start, length)
        return self.offset + self.scale * jnp.sum(jnp.where(own, jnp.asarray(WORTH)[tokens], 0.0), axis=1)


worth, more, half = Worth(), Worth(offset=1000.0), Worth(scale=0.5)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def searched(lm, prompt, alpha, k, length, baseline=None, most=8, bend=lambda logits, text: logits):
    """(text, forwards of the target, of the baseline, tokens of rollouts), greedily throughout."""
    text, forwards, other, read = [], 0, 0, 0
    logp_of = lambda of, text: log_softmax(bend(next_logits(of, [*prompt, *text]), text))  # noqa: E731
    over = lambda text: text[-1] == END or len(text) == most  # noqa: E731
    while not text or not over(text):
        logp, forwards = logp_of(lm, text), forwards + 1
        scores, depth = {}, 0
        for token in np.argsort(-logp, kind="stable")[:k]:
            ahead = [*text, int(token)]
            while not over(ahead) and len(ahead) <= len(text) + length:
                ahead.append(int(logp_of(baseline or lm, ahead).argmax()))
            read, depth = read + len(ahead) - len(text) - 1, max(depth, len(ahead) - len(text) - 1)
            scores[int(token)] = logp[token] + WORTH[ahead].astype(np.float64).sum() / alpha
        forwards, other = (forwards + depth, 0) if baseline is None else (forwards, other + depth + 1)
        text.append(max(scores, key=scores.get))
    return text + [END] * (most - len(text)), forwards, other, read


@pytest.mark.slow
@pytest.mark.parametrize("length", [3, 8])
def test_it_is_the_rule(length):
    for alpha in (0.3, 2.0):
        policy = jd.transfer_q(worth, k=4, alpha=np.float32(alpha), length=length)
        out = decode(model(0), PROMPTS, policy, **RUN)
        wanted = [searched(model(0), prompt, alpha, 4, length) for prompt in PROMPTS]
        assert out.tokens.tolist() == [text for text, *_ in wanted]
        assert out.forwards.tolist() == [forwards for _, forwards, *_ in wanted]
        assert out.drafted.tolist() == [read for *_, read in wanted]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_another_model_writes_the_rollouts():
    baseline = near(model(0), 0.3)
    out = decode(model(0), PROMPTS, jd.transfer_q(worth, baseline, k=4, alpha=0.5, length=8), **RUN)
    wanted = [searched(model(0), prompt, 0.5, 4, 8, baseline) for prompt in PROMPTS]
    assert (
        out.tokens.tolist()
        == [text for text, *_ in wanted]
        != [searched(model(0), prompt, 0.5, 4, 8)[0] for prompt in PROMPTS]
    )
    assert out.forwards.tolist() == [forwards for _, forwards, *_ in wanted]
    assert out.draft_forwards.tolist() == [other for *_, other, _ in wanted]


@pytest.mark.slow
def test_a_guide_bends_rollouts_too():
    bend = lambda prompt: lambda logits, text: oracles.penalised(logits, [*prompt, *text], np.float32(2))  # noqa: E731
    policy = jd.transfer_q(worth, k=4, length=8, guide=jd.guides.repetition(2.0))
    out = decode(model(0), PROMPTS, policy, **RUN)
    assert out.tokens.tolist() == [searched(model(0), p, 1.0, 4, 8, bend=bend(p))[0] for p in PROMPTS]


@pytest.mark.slow
def test_without_a_reward_or_a_choice_it_is_greedy():
    plain = decode(model(0), PROMPTS, "autoregressive", **RUN)
    for policy in (jd.transfer_q(worth, alpha=1e30, length=3), jd.transfer_q(worth, k=1, length=3)):
        np.testing.assert_array_equal(decode(model(0), PROMPTS, policy, **RUN).tokens, plain.tokens)


@pytest.mark.exhaustive
def test_offsets_of_rewards_change_nothing_but_as_released():
    """In the released indirect form they do, and a reward that is the baseline's own makes it the direct one."""
    tokens = lambda reward, **more: decode(  # noqa: E731
        model(0), PROMPTS, jd.transfer_q(reward, k=4, length=8, rollouts=3, **more), **RUN
    ).tokens.tolist()
    indirect = {"baseline_reward": half, "beta": 1.0}
    assert tokens(worth) == tokens(more) == tokens(worth, baseline_reward=worth)
    assert tokens(worth, **indirect) == tokens(more, **indirect) != tokens(worth)
    assert tokens(worth, **indirect, official=True) != tokens(worth, **indirect)


def shares(text_of, weight):
    total = sum(weight.values())
    return sum(mass * text_of(text) for text, mass in weight.items()) / total


@pytest.mark.exhaustive
@pytest.mark.slow
def test_values_of_drawn_rollouts_are_expectations():
    """Three tokens, 64 rollouts of each candidate: the value is the mean over all continuations, by weights an indirect one's."""
    lm, start = model(0), [3, 9, 4, 2]
    whole = distribution_of(lm, start, 3)

    def earned(text):
        return sum(WORTH[token] for at, token in enumerate(text) if END not in text[:at])

    logp = log_softmax(next_logits(lm, start))
    best = np.argsort(-logp, kind="stable")[:2]
    direct, indirect = [], []
    for token in best:
        mine = {text: mass for text, mass in whole.items() if text[0] == token}
        direct.append(logp[token] + shares(earned, mine))
        tilted = {text: mass * np.exp(0.5 * earned(text)) for text, mass in mine.items()}
        indirect.append(logp[token] + shares(earned, tilted))
    for scores, kind in ((direct, {}), (indirect, {"baseline_reward": half, "beta": 1.0})):
        # a hundred rows whose rollouts differ: the first token is the better candidate almost always
        policy = jd.transfer_q(worth, k=2, length=3, rollouts=64, **kind)
        out = decode(lm, [start] * 100, policy, max_new=3, ids=range(100))
        wanted = best[int(np.argmax(scores))]
        assert abs(scores[0] - scores[1]) > 0.3, "too close to tell"
        assert (out.tokens[:, 0] == wanted).mean() > 0.95


@pytest.mark.slow
def test_the_choice_is_drawn_by_the_scores():
    lm, start, temperature = model(0), [7], 2.0
    logp = log_softmax(next_logits(lm, start))
    best = np.argsort(-logp, kind="stable")[:4]
    score = logp[best] + WORTH[best]
    p = np.exp(score / temperature) / np.exp(score / temperature).sum()
    policy = jd.transfer_q(worth, k=4, length=0, temperature=temperature)
    out = decode(lm, [start] * 600, policy, max_new=1, seed=2, rows_per_program=600)
    counts = np.array([(out.tokens[:, 0] == token).sum() for token in best])
    assert counts.sum() == 600 and chisquare(counts, 600 * p).pvalue > 1e-3


@pytest.mark.slow
def test_rows_do_not_depend_on_each_other():
    policy = jd.transfer_q(worth, k=3, length=4, rollouts=2, temperature=np.float32(1.0))
    whole = decode(model(3), PROMPTS, policy, **RUN)
    order = [4, 2, 0, 1, 3]
    again = decode(model(3), [PROMPTS[i] for i in order], policy, ids=order, **RUN)
    np.testing.assert_array_equal(again.tokens, whole.tokens[order])
    alone = decode(model(3), [PROMPTS[2]], policy, ids=[2], **RUN)
    np.testing.assert_array_equal(alone.tokens[0], whole.tokens[2])
    assert (alone.forwards[0], alone.drafted[0]) == (whole.forwards[2], whole.drafted[2])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rewards_by_models():
    """Mean log p of the answer, and a head on the last hidden row."""
    lm, judge = model(0), near(model(0), 0.3)
    tokens = jnp.asarray([[3, 9, 4, 2, 11, 5, 0, 0], [7, 8, 9, END, 4, 4, 4, 4]], jnp.int32)
    start, length = jnp.asarray([4, 1]), jnp.asarray([6, 4])
    rewards = jd.rewards.likelihood(judge)(tokens, start, length)
    for row, (first, end) in enumerate(zip(start.tolist(), length.tolist(), strict=True)):
        text = tokens[row, :end].tolist()
        logp = [log_softmax(next_logits(judge, text[:at]))[text[at]] for at in range(first, end)]
        assert rewards[row] == pytest.approx(np.mean(logp), abs=1e-4)
    weights = np.random.default_rng(1).normal(size=24)
    short, cut = jd.rewards.head(judge, weights, 0.5), jnp.where(jnp.arange(8)[None] < length[:, None], tokens, 0)
    np.testing.assert_allclose(short(tokens, start, length), short(cut, start, length), atol=1e-4)
    with pytest.raises(InputError, match="23 weights: toy has hidden rows of 24"):
        jd.rewards.head(judge, weights[1:])
    out = decode(lm, PROMPTS, jd.transfer_q(judge, k=2, length=2), **RUN)
    assert out.tokens.shape == (5, 8)


def test_a_judge_of_other_tokens_is_refused():
    other = model(4, vocab=29)
    for reward in (other, jd.rewards.head(other, np.ones(24))):
        with pytest.raises(
            InputError, match=r"reward toy \(29 words\) and target toy \(23 words\) have different vocab"
        ):
            decode(model(0), PROMPTS, jd.transfer_q(reward, k=2), **RUN)


@pytest.mark.slow
def test_a_reward_that_is_no_number_ends_its_row_alone():
    broken = lambda *row: jnp.where(row[1] == 1, jnp.nan, worth(*row))  # noqa: E731
    out = decode(model(0), PROMPTS[:3], jd.transfer_q(broken, k=2, length=2), **RUN)
    sound = decode(model(0), PROMPTS[:3], jd.transfer_q(worth, k=2, length=2), **RUN)
    assert out.status[1] is Status.NONFINITE
    np.testing.assert_array_equal(out.tokens[[0, 2]], sound.tokens[[0, 2]])


def test_what_is_out_of_range_is_refused():
    for wrong, message in [
        ({"reward": 3}, "reward=3"), ({"alpha": 0}, "alpha=0"), ({"k": 0}, "k=0"), ({"length": -1}, "length=-1"),
        ({"rollouts": 65}, "rollouts=65"), ({"beta": 1.0, "reward": worth}, "beta=1.0 means nothing"),
        ({"baseline_reward": half, "reward": worth}, "rollouts must be 2 or more"),
        ({"baseline": 4}, "baseline=4 must be a model"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            jd.transfer_q(**{"reward": worth} | wrong)
