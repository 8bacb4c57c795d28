"""Chains in any order: of an exact joint they are its probability, of an inconsistent model they still sum to 1."""

import itertools

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import laws
from jaxdlm.decisions.laws import Limits
from jaxdlm.decisions.read import drive
from jaxdlm.decisions.render import Slot
from tests.decisions.toys import CANVASES, END, PROMPT, WEIGHTS, exact, log_softmax, net, shares, spelled

TEXTS = ([4], [5, 4], [5, 4, 3])
ORDERS = [*itertools.permutations(range(4)), "confidence"]


def chain(lm, choices, order, ends, width=4):
    slot = Slot(np.array([1, 2, 3], np.int32), tuple(map(tuple, choices)), (), ends)
    (raw,) = drive(lm, [laws.chain(lm, slot, Limits(width=width, order=order), "here")], 16)
    return raw


@pytest.mark.slow
def test_every_order_of_an_exact_joint_is_enumeration():
    for order in ORDERS:
        raw = chain(exact(), TEXTS, order, (END,))
        assert np.exp(raw.logp) == pytest.approx(WEIGHTS[:3], abs=1e-6), order
    left = chain(exact(), TEXTS, None, (END,))
    assert chain(exact(), TEXTS, (0, 1, 2, 3), (END,)).logp == pytest.approx(left.logp, abs=1e-6)
    assert (left.reads, chain(exact(), TEXTS, (0,), (END,)).reads) == (5, 5), "the others follow"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), "confidence"])
def test_the_sum_over_all_texts_is_one(order):
    """Of a random net, whose conditionals belong to no joint law."""
    lm = net("same", vocab_size=6, tokens=net("same").config.tokens.__class__(mask=5, pad=0, eos=(4,)))
    raw = chain(lm, list(itertools.product(range(5), repeat=3)), order, ())
    assert np.exp(raw.logp).sum() == pytest.approx(1, abs=1e-5)


def surest(lm, text, width):
    """One text, column by column where the model is surest, a forward each."""
    mask, open_, total = lm.config.tokens.mask, list(range(width)), 0.0
    canvas, goal = [mask] * width, [*text, *[46] * (width - len(text))]
    while any(column <= len(text) for column in open_):
        table = log_softmax(lm, [1, 2, 3, *canvas])[3:]
        at = max(open_, key=lambda column: (table[column].max(), -column))
        total += table[at, goal[at]]
        canvas[at] = goal[at]
        open_.remove(at)
    return total


@pytest.mark.slow
def test_by_confidence_it_is_a_loop_of_single_forwards():
    lm, texts = net("same"), [[3], [9, 4], [9, 8, 7]]
    raw = chain(lm, texts, "confidence", (46,), width=5)
    assert raw.logp == pytest.approx([surest(lm, text, 5) for text in texts], abs=2e-4)


def test_the_argument_reaches_the_law():
    asked = [spelled(*TEXTS)]
    rows = [jd.decide(exact(), [PROMPT], asked, read="text", width=4, order=order)[0]["q"] for order in ORDERS[::6]]
    for row in rows:
        assert shares(row) == pytest.approx(WEIGHTS[:3] / 0.9, abs=1e-6) and row.label_mass == pytest.approx(
            0.9, abs=1e-6
        )
    assert len(CANVASES) == 4 and rows[-1].forwards > rows[0].forwards, "ends far away are sure, and read first"


@pytest.mark.parametrize(
    ("order", "settings", "message"),
    [
        ("left", {}, "order='left': must be \"confidence\", or a permutation"),
        ([0, 0, 1], {}, r"order=\[0, 0, 1\]: must have every column from 0"),
        ([], {}, r"order=\[\]: must have every column"),
        ([1.5], {}, r"order\[0\]=1.5"),
        (list(range(9)), {"width": 4}, "row 0, question 'q': order has 9 columns, 4 are open"),
        ("confidence", {"max_contexts": 5}, "may read 12 contexts in this order, more than max_contexts=5"),
        ([3, 2, 1, 0], {"max_contexts": 3}, "contexts in this order, more than max_contexts=3"),
        ("confidence", {"read": "label", "width": None}, "is of read='text' with law='chain'"),
        ("confidence", {"law": "product"}, "is of read='text' with law='chain'"),
    ],
)
def test_orders_that_are_none(order, settings, message):
    with pytest.raises(jd.InputError, match=message):
        jd.decide(exact(), [PROMPT], [spelled(*TEXTS)], **{"read": "text", "width": 4, "order": order} | settings)


@pytest.mark.parametrize("kind", ["ar", "sdar", "uniform"])
def test_other_models_read_from_left_to_right(kind):
    with pytest.raises(jd.InputError, match=f"order='confidence': net-{kind} reads from left to right"):
        jd.decide(net(kind), [[3]], [spelled([3], [4])], read="text", order="confidence")
