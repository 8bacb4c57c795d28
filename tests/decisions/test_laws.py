"""Each law against enumeration or a loop of single forwards, on exact joints and on random nets of every family."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import laws
from jaxdlm.decisions.laws import Limits
from jaxdlm.decisions.pool import pool
from jaxdlm.decisions.read import drive
from jaxdlm.decisions.render import Slot
from tests.decisions.toys import CANVASES, END, MASK, PROMPT, WEIGHTS, exact, log_softmax, net, shares, spelled
from tests.marks import exhaustive

TEXTS = ([4], [5, 4], [5, 4, 3])
WORDS = ([3, 4], [3, 9], [7], [7, 2, 5], [11, 4], [3, 9, 8])
START = [5, 9, 2, 30, 4, 17]


def logp(lm, law, choices, prompt=START, **limits):
    """log P of each, as the law returns it."""
    ends = lm.config.tokens.eos
    slot = Slot(np.array(prompt, np.int32), tuple(map(tuple, choices)), (), ends)
    return drive(lm, [laws.LAWS[law](lm, slot, Limits(**limits), "here")], 16)[0]


def test_chain_of_an_exact_joint_is_enumeration():
    (row,) = jd.decide(exact(), [PROMPT], [spelled(*TEXTS)], read="text")
    assert shares(row["q"]) == pytest.approx(WEIGHTS[:3] / 0.9, abs=1e-6)
    assert row["q"].label_mass == pytest.approx(0.9, abs=1e-6)
    assert (row["q"].status, row["q"].value, row["q"].forwards, row["q"].bound) == ("ok", "o0", 5, 0.0)


def test_product_is_the_product_of_the_marginals_with_the_whole_tail():
    raw = logp(exact(), "product", TEXTS, PROMPT, width=4)
    marginals = [{v: WEIGHTS[CANVASES[:, j] == v].sum() for v in range(8)} for j in range(4)]
    expected = [math.prod(marginals[j][v] for j, v in enumerate([*text, *[END] * (4 - len(text))])) for text in TEXTS]
    assert np.exp(raw.logp) == pytest.approx(expected, rel=1e-5)
    assert raw.reads == 1


@pytest.mark.slow
def test_any_order_of_an_exact_joint_is_its_probability():
    """Every order of a joint that is consistent gives the same."""
    assert np.exp(logp(exact(), "anyorder", TEXTS, PROMPT, width=4).logp) == pytest.approx(WEIGHTS[:3], rel=1e-5)


def test_a_slot_is_the_conditional_on_what_stands_behind_it():
    lm = exact([[4, 6], [5, 6], [4, 3]], [0.3, 0.2, 0.5])
    (row,) = jd.decide(lm, [PROMPT], [spelled([4], [5])])
    assert shares(row["q"]) == pytest.approx([0.6, 0.4], abs=1e-6)
    assert row["q"].label_mass == pytest.approx(1, abs=1e-6) and row["q"].top_is_label


@pytest.mark.slow
def test_chain_sums_to_one_over_all_texts_and_the_others_do_not():
    lm = net("same", vocab_size=6, tokens=net("same").config.tokens.__class__(mask=5, pad=0, eos=(4,)))
    strings = list(itertools.product(range(5), repeat=3))
    slot = Slot(np.array([1, 2], np.int32), tuple(strings), (), ())
    (raw,) = drive(lm, [laws.chain(lm, slot, Limits(width=4), "here")], 16)
    assert np.exp(raw.logp).sum() == pytest.approx(1, abs=1e-5)
    (raw,) = drive(lm, [laws.pseudo(lm, slot, Limits(width=4), "here")], 16)
    assert abs(np.exp(raw.logp).sum() - 1) > 0.01


def oracle(lm, text, width):
    """log P of a text and its end, left to right, one forward per token."""
    config, total = lm.config, 0.0
    masked = config.tokens.mask is not None
    for index, token in enumerate([*text, config.tokens.eos[0]]):
        canvas = [*START, *text[:index]]
        at = len(canvas)
        if masked:
            block = config.block_size if config.attention == "block_causal" else 0
            stop = (at // block + 1) * block if block else len(START) + width
            canvas += [config.tokens.mask] * (stop - at)
        total += log_softmax(lm, canvas)[at - (config.prediction == "next"), token]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same", "next", "sdar", *map(exhaustive, ("v2", "llada2")), "ar"])
def test_chain_is_a_loop_of_single_forwards(kind):
    """Also of choices that cross the end of a block: it is 4 columns long, and two of the second are the prompt's."""
    lm = net(kind)
    raw = logp(lm, "chain", WORDS, **({} if lm.config.attention != "full" else {"width": 6}))
    assert raw.logp == pytest.approx([oracle(lm, text, 6) for text in WORDS], abs=2e-4)
    nodes = {tuple(text[:size]) for text in WORDS for size in range(len(text) + 1)}
    assert raw.reads == (len(nodes) if kind != "ar" else 4), "an autoregressive model reads a path at once"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same", "next", "sdar", "v2", "ar"])
def test_a_slot_is_one_forward(kind):
    lm = net(kind)
    raw = logp(lm, "slot", ([3], [9], [40]))
    canvas = START if kind == "ar" else [*START, 47, 46]
    row = len(START) - (lm.config.prediction == "next")
    assert raw.logp == pytest.approx(log_softmax(lm, canvas)[row, [3, 9, 40]], abs=2e-4)
    assert (raw.reads, raw.columns) == (1, len(canvas))


def test_guidance_is_a_prior_at_another_temperature():
    """(w + 1) c - w u = (c - w / (w + 1) u) · (w + 1): γ = w / (w + 1), T = 1 / (w + 1), the prior on a masked prompt."""
    lm, ids, w = net("same"), [3, 9, 40], 1.5
    (plain,), (guided,) = (jd.decide(lm, [START], [spelled(*[[i] for i in ids])], cfg=cfg) for cfg in (0.0, w))
    free = log_softmax(lm, [*[47] * len(START), 47, 46])[len(START), ids]
    expected = pool([np.array(plain["q"].logits)], np.exp(free), w / (w + 1), w + 1).probabilities
    assert shares(guided["q"]) == pytest.approx(expected, abs=1e-5)
    assert guided["q"].label_mass == plain["q"].label_mass and guided["q"].forwards == 2


@pytest.mark.slow
def test_pseudo_and_product_are_loops():
    lm = net("same")
    mask, end = 47, 46
    expected = []
    for text in WORDS:
        d = [*text, end]
        canvases = [[*START, *d[:j], mask, *d[j + 1 :], *[mask] * (6 - len(d))] for j in range(len(d))]
        expected.append(sum(log_softmax(lm, canvas)[len(START) + j, d[j]] for j, canvas in enumerate(canvases)))
    assert logp(lm, "pseudo", WORDS, width=6).logp == pytest.approx(expected, abs=5e-4)
    table = log_softmax(lm, [*START, *[mask] * 6])[len(START) :]
    expected = [sum(table[j, v] for j, v in enumerate([*text, *[end] * (6 - len(text))])) for text in WORDS]
    assert logp(lm, "product", WORDS, width=6).logp == pytest.approx(expected, abs=5e-4)


@pytest.mark.slow
def test_any_order_is_the_mean_over_all_orders():
    lm, text = net("same"), [3, 9]
    d, mask, orders = [3, 9, 46], 47, []
    for order in itertools.permutations(range(3)):
        total = 0.0
        for step, j in enumerate(order):
            canvas = [*START, *(d[i] if i in order[:step] else mask for i in range(3)), mask]
            total += log_softmax(lm, canvas)[len(START) + j, d[j]]
        orders.append(total)
    assert logp(lm, "anyorder", [text], width=4).logp == pytest.approx([np.mean(orders)], abs=5e-4)


@pytest.mark.slow
def test_best_first_keeps_its_bound_and_is_chain_at_the_end():
    lm = net("same", vocab_size=8, tokens=net("same").config.tokens.__class__(mask=7, pad=0, eos=(6,)))
    choices = [list(text) for size in (1, 2, 3) for text in itertools.product(range(1, 5), repeat=size)]
    whole = np.exp(logp(lm, "chain", choices, width=4).logp)
    whole /= whole.sum()
    full = logp(lm, "chain", choices, width=4, contexts=80, tolerance=0.0)
    assert full.reads == 80
    for tolerance in (0.0, 0.05, 0.3):
        raw = logp(lm, "chain", choices, width=4, contexts=84, tolerance=tolerance)
        p = np.exp(raw.logp)
        p /= p.sum()
        assert 0.5 * np.abs(p - whole).sum() <= raw.bound + 1e-5
        assert raw.bound <= max(tolerance, 1e-12) or raw.reads == 84


def test_one_choice_may_begin_another():
    """Their ends tell them apart; without any end nothing does."""
    lm = net("same")
    assert np.isfinite(logp(lm, "chain", ([3], [3, 9]), width=4).logp).all()
    slot = Slot(np.array(START, np.int32), ((3,), (3, 9)), (), ())
    with pytest.raises(jd.InputError, match="option 0 is how another one begins"):
        drive(lm, [laws.chain(lm, slot, Limits(width=4), "here")], 4)


@pytest.mark.slow
def test_what_stands_behind_the_answer_is_the_terminator():
    lm = net("same")
    slot = Slot(np.array(START, np.int32), ((3,), (9, 8)), (12, 13), lm.config.tokens.eos)
    (raw,) = drive(lm, [laws.chain(lm, slot, Limits(width=5), "here")], 4)
    mask, expected = 47, []
    for text in ([3, 12], [9, 8, 12]):
        canvases = [[*START, *text[:i], *[mask] * (5 - i)] for i in range(len(text))]
        expected.append(sum(log_softmax(lm, canvas)[len(START) + i, text[i]] for i, canvas in enumerate(canvases)))
    assert raw.logp == pytest.approx(expected, abs=2e-4)


def test_logits_that_are_not_finite_harm_their_own_question_alone():
    lm = net("same")
    params = lm.params | {"embed": lm.params["embed"].at[40].set(np.nan)}
    broken = dataclasses.replace(lm, params=params)
    prompts, asked = [[3, 40, 5], [3, 4, 5]], [spelled([3], [4])]
    whole = jd.decide(lm, prompts, asked)
    bad, good = jd.decide(broken, prompts, asked)
    found = bad["q"]
    assert (found.status, found.value, found.probabilities, bad.status) == ("nonfinite", None, None, "nonfinite")
    assert good["q"].logits == whole[1]["q"].logits and good.status == "ok"
    assert bad.to_row("openai")["answers"] == [{"name": "q", "type": "refusal"}]


def test_options_that_cannot_be_written():
    """Ids beyond the tokenizer are no text: one of them has probability 0, none but them no answer."""
    lm = net("same", tokens=dataclasses.replace(net("same").config.tokens, tokenizer_size=40))
    (row,) = jd.decide(lm, [START], [spelled([3], [41], name="some"), spelled([42], [41], name="none")])
    assert row["some"].probabilities == {"o0": 1.0, "o1": 0.0}
    assert (row["none"].status, row["none"].value, row.status) == ("infeasible", None, "infeasible")


@pytest.mark.parametrize(
    ("choices", "settings", "message"),
    [
        (([3, 4], [5]), {"law": "slot", "read": "text"}, "option 0 has 2 tokens, law='slot' reads one"),
        (([3], [3]), {}, "'o0' and 'o1' are spelled by the same tokens"),
        (([MASK],), {}, None),
        (([3], [MASK]), {}, "'o1' holds token id 7, which is no word"),
        (([3], [END]), {"read": "text"}, "'o1' holds token id 6"),
        (([3], [99]), {"read": "text"}, "'o1' holds token id 99"),
        (([3] * 9, [4]), {"read": "text", "width": 4}, "an option of 10 columns with its end, and width=4"),
        (([3], [4]), {"width": 4}, "law='slot' reads one column"),
        (([3] * 6, [4]), {"read": "text", "law": "anyorder"}, "'anyorder' sums 5"),
        (([3], [4]), {"draws": 4}, "draws=4: exact has no noise to draw"),
        (([3], [4]), {"joint": "chains"}, "joint='chains': must be true, false or"),
        (([3], [4]), {"joint": True, "sequential": True}, "joint and sequential exclude each other"),
        (([3], [4]), {"joint": True, "read": "text"}, "read='text' means nothing in a reply to several questions"),
        (([3], [4]), {"joint": True, "law": "chain"}, "labels in one reply are read by law='slot'"),
        (([3], [4]), {"sequential": True, "prior": 0.5}, "prior=0.5 means nothing in a reply"),
        (([3, 4], [4]), {"joint": True}, "options are one token each"),
        (([3], [END]), {"joint": True}, "token id 6 is no word"),
        (([3], [4]), {"read": "text", "law": "pseudo", "confidence": "mass"}, "no probabilities that would add up"),
        (([3], [4]), {"cfg": 1.0, "read": "text"}, "cfg=1.0: guidance is of labels"),
        (([3], [4]), {"cfg": 1.0, "joint": True}, "cfg=1.0 means nothing in a reply"),
        (([3], [4]), {"cfg": -1.0}, "cfg=-1.0: must be a number from 0"),
        (([3], [4]), {"cache": "dual"}, "cache='dual': must be one of auto, none"),
        (([3], [4]), {"law": "chian"}, "did you mean 'chain'"),
        (([3], [4]), {"orders": 0}, "orders=0"),
        (([3], [4]), {"orders": "cyclic", "read": "text"}, "read='text' lists no options"),
        (([3], [4]), {"temperature": 0}, "temperature=0"),
        (([3], [4]), {"temperature": float("nan")}, "temperature=nan"),
        (([3], [4]), {"prior": 1.5}, "prior=1.5"),
        (([3], [4]), {"prior": "batch"}, "prior='batch'"),
        (([3], [4]), {"batch": 0}, "batch=0"),
        (([3], [4]), {"templates": []}, "templates is empty"),
        (([3], [4]), {"templates": "no state"}, r"templates\[0\].prompt has no \{state\}"),
        (([3], [4]), {"templates": {"pre": "a", "pst": "b"}}, "unknown field 'pst'"),
        (([3], [4]), {"templates": "{state} {options}"}, "token ids, which are taken as they are"),
        (([3], [4]), {"calibration": "nothing.json"}, "calibration nothing.json cannot be read"),
        (([3], [4]), {"ids": [1, 2]}, "ids has 2 entries for 1 prompts"),
    ],
)
def test_what_cannot_be_read_is_one_line(choices, settings, message):
    if message is None:  # one option is the answer, whatever it is
        assert jd.decide(exact(), [PROMPT], [spelled(*choices)], **settings)[0]["q"].value == "o0"
        return
    with pytest.raises(jd.InputError, match=message) as caught:
        jd.decide(exact(), [PROMPT], [spelled(*choices)], **settings)
    assert "\n" not in str(caught.value)


def test_what_a_model_cannot_do_is_said():
    for kind, settings in itertools.product(("ar", "uniform"), ({"law": "product"}, {"width": 8})):
        with pytest.raises(jd.InputError, match=f"masked models?, which net-{kind} is not"):
            jd.decide(net(kind), [START], [spelled([3], [4])], read="text", **settings)
    with pytest.raises(jd.InputError, match="the blocks of net-sdar say it"):
        jd.decide(net("sdar"), [START], [spelled([3], [4])], read="text", width=8)
    with pytest.raises(jd.InputError, match="more than the 128 positions of net-same"):
        jd.decide(net("same"), [[3] * 120], [spelled([3], [4])], read="text")
    with pytest.raises(jd.InputError, match="law='product' sees 2 of its block"):
        jd.decide(net("sdar"), [START], [spelled([3, 4, 5], [4])], read="text", law="product")
    with pytest.raises(jd.InputError, match="row 1, question 'q'"):
        jd.decide(net("same"), [START, [3] * 127], [spelled([3], [4])])
