"""Lexical units against forwards over everything, without a cache: their tokens, their counts, and what they are refused for."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm._load import LM
from jaxdlm.models.low_rank import merge
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative import pair
from jaxdlm.speculative.drafters.lexical import Lexical, Pads, leading, read_tuned
from jaxdlm.speculative.lexical import Units
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.warp import warp
from jaxdlm.train import lora
from tests.guides import oracles
from tests.speculative.test_loop import TARGET
from tests.speculative.toys import END, MAX_NEW, PROMPTS, VOCAB, expected, model, next_logits

RUN = {"max_new": MAX_NEW, "seed": 5}
K = 3
PAD = 0.5 * jax.random.normal(jax.random.key(0), (1, 24))


def units(beta, halt=True, k=K, guide=None) -> Speculation:
    return Speculation(Pads(PAD, {}, VOCAB), warp(guide=guide), search=Units(jnp.float32(beta), jnp.bool_(halt), k))


@functools.partial(jax.jit, static_argnums=0)
def _rows(model, weights, tokens):
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    target = Prompted(model)
    return target.head(weights, target.apply(weights, tokens, position, position >= 0).hidden)[0]


def laws(text: list[int], k: int = K) -> np.ndarray:
    """[1 + k, V]: logits behind a text, and at k pads behind it."""
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, : len(text) + k] = [*text, *[VOCAB] * k]
    rows = np.asarray(_rows(TARGET.model, Weights(TARGET.params, PAD), jnp.asarray(tokens)), np.float64)
    return rows[len(text) - 1 : len(text) + k]


def unit(text: list[int], beta: float, halt: bool, k: int = K, bend=lambda logits, text: logits) -> list[int]:
    """The next token and those that go with it."""
    tokens: list[int] = []
    for place, logits in enumerate(laws(text, k)):
        logits = np.asarray(bend(logits.astype(np.float32), [*text, *tokens]), np.float64)
        p = np.exp(logits - logits.max())
        token = int(p.argmax())
        if place and (p.max() / p.sum() < beta or (halt and token == tokens[-1])):
            break
        tokens.append(token)
    return tokens


def written(prompt: list[int], beta: float, halt: bool = True, **how) -> tuple[list[int], int]:
    """(the answer, forwards)."""
    answer, forwards = [], 0
    while len(answer) < MAX_NEW and END not in answer:
        answer += unit([*prompt, *answer], beta, halt, **how)
        forwards += 1
    answer = answer[:MAX_NEW]
    answer = answer[: answer.index(END)] if END in answer else answer
    return answer + [END] * (MAX_NEW - len(answer)), forwards


def same(out, wanted) -> None:
    np.testing.assert_array_equal(out.tokens, [text for text, _ in wanted])
    assert out.forwards.tolist() == [forwards for _, forwards in wanted]


@pytest.mark.slow
def test_units_are_those_of_forwards_over_everything():
    """Units of all lengths, cut at ends and at the limit; rows differ in how many tokens they read again."""
    for beta, lengths in ((0.0, {1, 2, 3, 4}), (0.2, {1, 2})):
        out = decode(TARGET, PROMPTS, units(beta), **RUN)
        same(out, [written(prompt, beta) for prompt in PROMPTS])
        assert {(row == step).sum() for row in out.commit_step for step in range(row.max() + 1)} == lengths
    out = decode(TARGET, PROMPTS, units(1.1), **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))  # no key of a pad is left behind
    assert (out.forwards == (out.commit_step >= 0).sum(1)).all() and not out.accepted.any()
    for row, at in ((0, 0), (2, 3)):
        logits = next_logits(TARGET, [*PROMPTS[row], *out.tokens[row, :at].tolist()])
        logp = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(out.score[row, at], logp[out.tokens[row, at]], rtol=1e-4)


@pytest.mark.slow
def test_without_a_bar_a_forward_writes_all_that_it_says():
    out = decode(TARGET, PROMPTS, units(0, halt=False), **RUN)
    same(out, [written(prompt, 0.0, False) for prompt in PROMPTS])
    whole = ~(out.tokens == END).any(1)
    assert whole.any() and (out.forwards[whole] == math.ceil(MAX_NEW / (K + 1))).all()


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_neighbours():
    whole, order = decode(TARGET, PROMPTS, units(0.2), **RUN), [3, 0, 4, 1, 2]
    moved = decode(TARGET, [PROMPTS[i] for i in order], units(0.2), ids=order, **RUN)
    others = [[5, 6, 5], PROMPTS[2], [8] * 9, [4, 2], [19]]
    among = decode(TARGET, others, units(0.2), **RUN)
    for field in ("tokens", "forwards", "drafted", "accepted", "commit_step", "score"):
        np.testing.assert_array_equal(getattr(moved, field), getattr(whole, field)[order])
        np.testing.assert_array_equal(getattr(among, field)[1], getattr(whole, field)[2])


@pytest.mark.exhaustive
def test_a_row_does_not_depend_on_its_slot():
    whole = decode(TARGET, PROMPTS, units(0.2), **RUN)
    pooled = decode(TARGET, PROMPTS, units(0.2).replace(slots=2), **RUN)
    alone = decode(TARGET, [PROMPTS[3]], units(0.2), ids=[3], **RUN)
    for field in ("tokens", "forwards", "drafted", "accepted", "commit_step"):
        np.testing.assert_array_equal(getattr(pooled, field), getattr(whole, field))
        np.testing.assert_array_equal(getattr(alone, field)[0], getattr(whole, field)[3])


@pytest.mark.exhaustive
def test_a_guide_bends_every_token_of_a_unit():
    bend = lambda logits, text: oracles.penalised(logits, text, np.float32(2))  # noqa: E731
    out = decode(TARGET, PROMPTS, units(0.2, guide=jd.guides.repetition(2.0)), **RUN)
    same(out, [written(prompt, 0.2, bend=bend) for prompt in PROMPTS])


@pytest.mark.slow
def test_units_that_are_verified_cost_the_rounds_in_which_they_are_not_the_text():
    """Each round reads the unit of the last one; where the text goes another way, the next round has none."""
    policy = Speculation(Lexical(PAD, {}, VOCAB, beta=jnp.float32(0.0), k=K), warp(noise="shared"))
    out = decode(TARGET, PROMPTS, policy, **RUN)
    np.testing.assert_array_equal(out.tokens, expected(3))
    for row, prompt in enumerate(PROMPTS):
        text = expected(3)[row].tolist()
        end = min(MAX_NEW, text.index(END) + 1 if END in text else MAX_NEW)
        at, guesses, rounds = 0, [], 0
        while at < end:
            guesses, rounds = guesses[: MAX_NEW - at - 1], rounds + 1
            stay = next((i for i, token in enumerate(guesses) if token != text[at + i]), len(guesses))
            at += stay + 1
            guesses = unit([*prompt, *text[: at - 1]], 0.0, True)[1:] if stay == len(guesses) else []
        assert out.forwards[row] == rounds


def test_a_unit_goes_on_while_its_tokens_are_sure_and_new():
    """Probabilities 0.9, 0.6, 0.95 of tokens behind a first; a lower bar never cuts sooner."""
    chances = np.array([0.9, 0.6, 0.95])
    logits = jnp.log(jnp.asarray(np.stack([np.array([p, *[(1 - p) / 4] * 4]) for p in chances]), jnp.float32))[None]
    goes, live = jnp.array([[7, 0, 1, 2]]), jnp.ones((1, 3), bool)
    cut = jax.jit(leading)
    more = lambda beta, token=goes, halt=True, live=live: int(cut(logits, token, beta, halt, live)[0])  # noqa: E731
    assert [more(beta) for beta in (0.0, 0.59, 0.61, 0.89, 0.91, 1.1)] == [3, 3, 1, 1, 0, 0]
    again = jnp.array([[7, 0, 0, 2]])
    assert (more(0.0, again), more(0.0, again, False)) == (1, 3)
    assert more(0.0, live=jnp.array([[True, False, True]])) == 1


@pytest.mark.slow
def test_the_target_is_tuned_once_and_decodes_as_one_that_was():
    rng = np.random.default_rng(0)
    update = {
        name.replace("/", "."): {
            side: jnp.asarray(0.2 * rng.normal(size=spec.shape), jnp.float32) for side, spec in zip("ab", specs)
        }
        for name, specs in lora.specs(TARGET.config, 2).items()
    }
    policy = units(0.2).replace(drafter=Pads(PAD, update, VOCAB, fingerprint(TARGET.params)))
    tuned = LM(TARGET.model, merge(TARGET.params, update, 1.0), None, "toy")
    out, wanted = decode(TARGET, PROMPTS, policy, **RUN), decode(tuned, PROMPTS, units(0.2), **RUN)
    np.testing.assert_array_equal(out.tokens, wanted.tokens)
    assert (out.tokens != decode(TARGET, PROMPTS, units(0.2), **RUN).tokens).any()
    assert policy.drafter.tuned(TARGET)[0] is policy.drafter.tuned(TARGET)[0]


def test_weights_of_another_target_are_refused(tmp_path):
    from jaxdlm.checkpoint.safetensors import write_safetensors

    wrong = {"a": jnp.zeros((2, 24, 1)), "b": jnp.zeros((2, 1, 7))}
    for pads, message in (
        (Pads(PAD, {}, VOCAB, fingerprint(model(8).params)), "tuned for another target than toy"),
        (Pads(PAD, {}, VOCAB + 1), "target of other sizes than toy"),
        (Pads(jnp.zeros((1, 7)), {}, VOCAB), "target of other sizes than toy"),
        (Pads(PAD, {"segments.0.0.up": wrong}, VOCAB), "target of other sizes than toy"),
    ):
        with pytest.raises(InputError, match=message):
            decode(TARGET, PROMPTS, units(0.2).replace(drafter=pads), **RUN)
    file = tmp_path / "lud.safetensors"
    with pytest.raises(InputError, match="must be a file of scripts/train"):
        jd.lud(file)
    for arrays in ({"pad": np.zeros((1, 4), np.float32)}, {"pad": np.zeros((1, 4)), "x.a": np.zeros((1, 4, 2))}):
        write_safetensors(file, arrays, {"method": "lud", "pads": "3"})
        with pytest.raises(InputError, match="holds no tuned target"):
            read_tuned(file)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 17}, "k=17"), ({"beta": 1.5}, "beta=1.5"), ({"halt": 1}, "halt=1"),
        ({"temperature": 0.5}, "temperature=0.5 means nothing without verify"),
        ({"top_k": 3}, "top_k=3 means nothing without verify"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        jd.lud(**wrong)


@pytest.mark.exhaustive
def test_the_shipped_weights_say_several_tokens_at_once():
    """And verified, their text is that of the tuned target."""
    lm = jd.load("tiny-ar")
    tuned, _ = pair.tuned(lm, jd.lud())
    own = decode(tuned, lm.tokenizer.examples[:6], "autoregressive", max_new=16)
    for verify in (False, True):
        out = decode(lm, lm.tokenizer.examples[:6], jd.lud(beta=0.4, verify=verify), max_new=16)
        assert (out.commit_step >= 0).sum() > 1.1 * out.forwards.sum()
    np.testing.assert_array_equal(out.tokens, own.tokens)
