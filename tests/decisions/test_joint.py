"""Several questions in one reply: marginals and conditionals of exact joints, and lines whose labels stay one token."""

import itertools

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions.joint import reply
from tests.decisions.test_render import chat, plain  # noqa: F401  (tokenizers)
from tests.decisions.toys import PROMPT, exact, log_softmax, net, shares, spelled

CANVASES, WEIGHTS = np.array([[3, 5, 6], [3, 4, 6], [2, 5, 6], [2, 5, 4]]), np.array([0.3, 0.1, 0.2, 0.4])
FIRST, SECOND = spelled([3], [2], name="a"), spelled([5], [4], name="b")
START = [5, 9, 2, 30]


def test_marginals_and_conditionals_of_an_exact_joint():
    lm = exact(CANVASES, WEIGHTS)
    ended = WEIGHTS[:3] / WEIGHTS[:3].sum()  # given the end behind both
    (row,) = jd.decide(lm, [PROMPT], [FIRST, SECOND], joint=True)
    assert shares(row["a"]) == pytest.approx([ended[:2].sum(), ended[2]], abs=1e-6)
    assert shares(row["b"]) == pytest.approx([ended[0] + ended[2], ended[1]], abs=1e-6)
    assert (row.forwards, row.tokens_read, row["b"].given) == (1, len(PROMPT) + 3, None)
    (row,) = jd.decide(lm, [PROMPT], [FIRST, SECOND], sequential=True)
    assert shares(row["a"]) == pytest.approx([ended[:2].sum(), ended[2]], abs=1e-6)
    assert shares(row["b"]) == pytest.approx(ended[:2] / ended[:2].sum(), abs=1e-6)
    assert (row["a"].given, row["b"].given, row.forwards) == ({}, {"a": "o0"}, 2)


@pytest.mark.parametrize("kind", ["same", "next", "sdar"])
def test_joint_is_one_forward(kind):
    lm = net(kind)
    (row,) = jd.decide(lm, [START], [spelled([3], [9], name="a"), spelled([7], [8], [11], name="b")], joint=True)
    table = log_softmax(lm, [*START, 47, 47, 46])[len(START) - (lm.config.prediction == "next") :]
    for name, column, ids in (("a", 0, [3, 9]), ("b", 1, [7, 8, 11])):
        z = table[column, ids]
        assert row[name].logits == pytest.approx(z - np.logaddexp.reduce(z), abs=1e-4)


def test_one_question_is_what_it_is_alone():
    for kind, mode in itertools.product(("same", "sdar"), ("joint", "sequential")):
        alone, together = (jd.decide(net(kind), [START], [FIRST], **more)[0]["a"] for more in ({}, {mode: True}))
        assert alone.logits == together.logits


def test_an_autoregressive_model_answers_one_after_the_other():
    lm = net("ar")
    (row,) = jd.decide(lm, [START], [spelled([3], [9], name="a"), spelled([7], [8], name="b")], sequential=True)
    first = log_softmax(lm, START)[-1, [3, 9]]
    second = log_softmax(lm, [*START, [3, 9][first.argmax()]])[-1, [7, 8]]
    for name, z in (("a", first), ("b", second)):
        assert row[name].logits == pytest.approx(z - np.logaddexp.reduce(z), abs=1e-4)
    with pytest.raises(jd.InputError, match="which net-ar cannot: use sequential=True"):
        jd.decide(lm, [START], [FIRST], joint=True)


ASKED = [spelled([3], [9], name="a"), spelled([7], [8], [11], name="b"), spelled([2], [5], name="c")]


def table_of(lm) -> np.ndarray:
    """P(a, b, c) label by label, one pass of the model for each beginning."""
    open_ = lm.config.tokens.mask
    ids = [[option.tokens[0] for option in question.options] for question in ASKED]
    whole = np.zeros([len(own) for own in ids])
    for picked in np.ndindex(whole.shape):
        for place, own in enumerate(ids):
            written = [ids[at][picked[at]] for at in range(place)]
            text = [*START, *written, *([open_] * (3 - place) + [46] if open_ else [])]
            z = log_softmax(lm, text)[len(START) + place - (lm.config.prediction == "next"), own]
            whole[picked] += z[picked[place]] - np.logaddexp.reduce(z)
    return np.exp(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same", "ar"])
def test_the_chain_of_answers_is_the_table_of_all_of_them(kind):
    lm, whole = net(kind), table_of(net(kind))
    (row,) = jd.decide(lm, [START], ASKED, joint="chain", batch=8)
    best = np.unravel_index(whole.argmax(), whole.shape)
    for place, name in enumerate("abc"):
        others = tuple(axis for axis in range(3) if axis != place)
        assert shares(row[name]) == pytest.approx(whole.sum(others), abs=1e-5)
        assert row[name].together == f"o{best[place]}" and row[name].stderr is None
    assert row.forwards == 1 + 2 + 2 * 3 and row.to_row()["diagnostics"]["b"]["together"] == f"o{best[1]}"
    assert 0 < row["c"].label_mass < 1


def test_drawn_chains_tend_to_the_table():
    lm, whole = net("ar"), table_of(net("ar"))
    runs = [
        jd.decide(lm, [START], ASKED, joint="chain", max_contexts=4, draws=400, batch=8, seed=seed)[0]
        for seed in (0, 1)
    ]
    assert runs[0]["c"].probabilities != runs[1]["c"].probabilities
    for row in runs:
        assert row["a"].draws == 400 and row["a"].stderr["o0"] == pytest.approx(0, abs=1e-12), "the first is known"
        for place, name in enumerate("abc"):
            expected = whole.sum(tuple(axis for axis in range(3) if axis != place))
            assert (
                np.abs(shares(row[name]) - expected) <= 4.5 * np.array(list(row[name].stderr.values())) + 1e-5
            ).all()


@pytest.mark.slow
def test_noise_is_averaged_in_every_context():
    """Of a canvas model, one after the other and all combinations: the same as reading each context by itself."""
    lm, more = net("uniform"), {"draws": 2, "seed": 3, "batch": 8}
    (after,) = jd.decide(lm, [START], ASKED[:2], sequential=True, **more)
    (chain,) = jd.decide(lm, [START], ASKED[:2], joint="chain", **more)
    np.testing.assert_array_equal(after["a"].logits, chain["a"].logits)
    assert (after.forwards, chain.forwards, after["b"].given) == (4, 6, {"a": after["a"].value})
    first = int(after["a"].value[1])
    table = np.array([shares(chain["a"])[k] * shares(after["b"]) for k in (first,)])
    assert (shares(chain["b"]) >= table[0] - 1e-6).all() and chain["b"].draws == 2
    assert all(0 < error < 0.5 for error in chain["b"].stderr.values())
    with pytest.raises(jd.InputError, match="row 0: joint='chain' has 3 contexts, and with noise at most 1 are read"):
        jd.decide(lm, [START], ASKED[:2], joint="chain", max_contexts=1)


def test_questions_of_one_option_take_no_line():
    asked = {"a": {"type": "choice", "criteria": {"only": None}}}
    (row,) = jd.decide(net("same"), [START], asked, joint=True)
    assert (row["a"].value, row["a"].forwards) == ("only", 0)


QUESTIONS = (
    jd.Choice("team", {"billing": "money", "shipping": None}, "Which team?"),
    jd.Predicate("late", "Is it late?"),
    jd.Score("anger", ["calm", "angry"], "How angry?"),
)


def test_lines_of_a_reply(chat, plain):  # noqa: F811
    for lm, lead in ((chat, ""), (plain, "\n")):
        made = reply(lm, "A state.", QUESTIONS, "row 0")
        decode = lambda ids, lm=lm: lm.tokenizer.backend.decode(list(ids), skip_special_tokens=False)  # noqa: E731
        prompt, body = decode(made.prompt.tolist()), decode(made.body)
        assert prompt.index("A state.") < prompt.index("1. Which team?") < prompt.index("2. Is it late?")
        assert body.startswith(f"{lead}1:") and body.count("\n") == 2 + bool(lead)
        for column, ids in zip(made.columns, made.ids):
            label = decode([ids[0]]).strip()
            assert made.body[column] == ids[0] and len(set(ids)) == len(ids) and f"\n{label}) " in prompt


def test_what_is_no_label(chat):  # noqa: F811
    with pytest.raises(jd.InputError, match="question 'n': a number is no label: ask it apart"):
        reply(chat, "A state.", [jd.Number("n", 0, 3)], "row 0")
    with pytest.raises(jd.InputError, match="row 0 is neither text nor a chat"):
        reply(chat, [1.5], QUESTIONS, "row 0")
    with pytest.raises(jd.InputError, match="row 0 is text and net-same has no tokenizer"):
        reply(net("same"), "A state.", QUESTIONS, "row 0")
