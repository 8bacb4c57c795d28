"""Beam search against a search over lists in float64, against all texts there are, and against `transformers`."""

import itertools

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, Status, decode
from tests.guides import oracles
from tests.marks import exhaustive
from tests.speculative.toys import END, PROMPTS, VOCAB, model, next_logits

RUN = {"max_new": 6}


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def searched(lm, prompt, width, penalty=1.0, early=False, max_new=6, ends=(END,), bend=lambda logits, text: logits):
    """The finished texts, best first: [(score, text), ...]. Every step sorts all continuations of all beams."""
    running, finished, improvable = [(0.0, [])], [], True
    for length in range(1, max_new + 1):
        longer = []
        for total, text in running:
            logp = log_softmax(bend(next_logits(lm, [*prompt, *text]), text))
            longer += [(total + float(logp[token]), [*text, token]) for token in range(len(logp))]
        longer.sort(key=lambda each: -each[0])
        over = lambda text: text[-1] in ends or length == max_new  # noqa: E731
        new = [(total / length**penalty, text) for total, text in longer[:width] if over(text)]
        finished = sorted(finished + new, key=lambda each: -each[0])[:width]
        running = [each for each in longer if not over(each[1])][:width]
        if not running or (early is True and len(finished) == width):
            break
        hope = max_new if early == "never" and penalty > 0 else length
        if len(finished) == width:
            improvable = running[0][0] / hope**penalty > finished[-1][0]
        if not improvable:
            break
    return finished


def padded(text, columns=6):
    return text + [END] * (columns - len(text))


CASES = [
    {"width": 3}, exhaustive({"width": 3, "penalty": 0.0}), {"width": 3, "penalty": 2.5}, {"width": 3, "penalty": -1.0},
    {"width": 3, "early": True}, {"width": 3, "early": "never"}, exhaustive({"width": 1}),
]  # fmt: skip


def policy(width, penalty=1.0, early=False, **more):
    return jd.beam(width, np.float32(penalty), early, **more)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_search_over_lists(case):
    """All prompts in one batch, of any lengths, so that some are done long before others; seeds with early ends."""
    for seed in (0, 3):
        out = decode(model(seed), PROMPTS, policy(**case), n=case["width"], **RUN)
        rows = iter(range(len(out.tokens)))
        for prompt in PROMPTS:
            for score, text in searched(model(seed), prompt, **case):
                row = next(rows)
                assert out.tokens[row].tolist() == padded(text), (seed, prompt)
                total = out.logprobs[row].sum()
                assert total / len(text) ** case.get("penalty", 1.0) == pytest.approx(score, abs=1e-3)
                assert out.status[row] == (Status.EOS if text[-1] == END else Status.FINISHED)
                assert (out.commit_step[row] >= 0).sum() == len(text)


@pytest.mark.slow
def test_one_beam_is_greedy():
    one = decode(model(0), PROMPTS, policy(1), **RUN)
    np.testing.assert_array_equal(one.tokens, decode(model(0), PROMPTS, "autoregressive", **RUN).tokens)


@pytest.mark.slow
def test_a_beam_as_wide_as_all_texts_knows_the_likeliest():
    """Of the 23 + 22 x 23 texts of at most two tokens."""
    texts = [[END], *([a, b] for a, b in itertools.product(range(VOCAB), range(VOCAB)) if a != END)]
    for row, prompt in enumerate(PROMPTS[:2]):
        score = {}
        for text in texts:
            logp = [log_softmax(next_logits(model(0), [*prompt, *text[:i]]))[token] for i, token in enumerate(text)]
            score[tuple(text)] = sum(logp)
        best = sorted(score, key=lambda text: -score[text])[:5]
        out = decode(model(0), PROMPTS[:2], policy(23, 0.0, "never"), n=5, max_new=2)
        assert [tuple(t) for t in out.tokens[5 * row : 5 * row + 5].tolist()] == [(*t, END)[:2] for t in best]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_rows_do_not_depend_on_each_other():
    whole = decode(model(3), PROMPTS, policy(3), n=2, top_logprobs=3, **RUN)
    back = decode(model(3), PROMPTS[::-1], policy(3), n=2, top_logprobs=3, **RUN)
    np.testing.assert_array_equal(back.tokens.reshape(5, 2, 6)[::-1].reshape(10, 6), whole.tokens)
    alone = decode(model(3), [PROMPTS[1]], policy(3), n=2, top_logprobs=3, **RUN)
    np.testing.assert_array_equal(alone.tokens, whole.tokens[2:4])
    np.testing.assert_array_equal(alone.top_tokens, whole.top_tokens[2:4])
    np.testing.assert_allclose(alone.logprobs, whole.logprobs[2:4], atol=1e-4)
    likeliest = whole.top_logprobs[..., 0] * (whole.commit_step >= 0)
    assert (whole.logprobs <= likeliest + 1e-6).all(), "the likeliest token beside each"


@pytest.mark.slow
def test_guides_bend_what_is_ranked():
    """A penalty with a state for each beam, which follows it when beams change places."""
    bend = lambda prompt: lambda logits, text: oracles.penalised(logits, [*prompt, *text], np.float32(3))  # noqa: E731
    out = decode(model(0), PROMPTS, policy(3, guide=jd.guides.repetition(3.0)), **RUN)
    for row, prompt in enumerate(PROMPTS):
        assert out.tokens[row].tolist() == padded(searched(model(0), prompt, 3, bend=bend(prompt))[0][1])


def test_numbers_are_data_and_words_read_as_in_a_shell():
    first, second = jd.beam(3, 0.5), jd.beam(3, 2.0)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jd.policies.read("beam,width=2,early_stopping=never").search.early == "never"
    with pytest.raises(InputError, match="n=4: this policy finds 3 per prompt"):
        decode(model(0), PROMPTS, jd.beam(3), n=4)
    for wrong, message in [
        ({"width": 0}, "width=0"), ({"length_penalty": 11}, "length_penalty=11"), ({"early_stopping": 1}, "early_stopping=1"),
        ({"early_stopping": "ever"}, "early_stopping='ever'"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            jd.beam(**wrong)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("early", [False, *(pytest.param(x, marks=pytest.mark.exhaustive) for x in (True, "never"))])
def test_transformers_says_the_same(early, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=0, eos_token_id=2, pad_token_id=0,
        initializer_range=0.6,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    lm = jd.load(str(tmp_path))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, size).tolist() for size in (3, 5, 9, 2)]
    for width, penalty in [(2, 1.0), (4, 0.0), (5, 1.7), (4, -0.5)]:
        policy = jd.beam(width, np.float32(penalty), early)
        out = decode(lm, prompts, policy, n=width, max_new=12, ids=range(4))
        for row, prompt in enumerate(prompts):
            made = theirs.generate(
                torch.tensor([prompt]), num_beams=width, num_return_sequences=width, max_new_tokens=12, do_sample=False,
                length_penalty=penalty, early_stopping=early, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            for index in range(width):
                want = made.sequences[index, len(prompt) :].tolist()
                want = want[: want.index(2) + 1] if 2 in want else want
                got = out.tokens[row * width + index]
                assert got[: len(want)].tolist() == want, (width, penalty, row, index)
                total = float(out.logprobs[row * width + index].sum()) / len(want) ** penalty
                assert total == pytest.approx(float(made.sequences_scores[index]), abs=2e-3)
