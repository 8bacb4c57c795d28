"""Whole chains against plain generate functions, one row at a time, on the exact denoiser; every row ends elsewhere."""

import numpy as np
import pytest

from jaxdlm import chain, decode
from jaxdlm._load import LM
from jaxdlm.models.denoiser import LOG_ZERO, table_denoiser
from jaxdlm.rules import add_credit, finish_when_clear, sample, select_above, select_near_anchors, stop_at_eos
from jaxdlm.rules.learn2pd import end_at_text, select_by_filter

MASK, END, VOCAB, LENGTH, BLOCK = 15, 14, 16, 12, 4
DRAW = np.random.default_rng(5)
# texts of 2 to 11 words, then end-of-text; the first word tells rows apart
TABLE = np.array([[*DRAW.integers(2, 8, n), *[END] * (LENGTH - n)] for n in DRAW.integers(2, LENGTH, 400)])
WEIGHTS = DRAW.uniform(0.2, 1, len(TABLE)).astype(np.float32)
# the last rows: a suffix prompt, two words in the middle of the canvas that announce the answer behind them
STARTS = ([2], [3], [4], [5], [6], [MASK, 3], [], [MASK] * 6 + [4, 5], [2] + [MASK] * 5 + [6, 3])
FILTER = tuple(DRAW.normal(0, size, shape) for size, shape in ((2, (4, 4)), (0.2, 4), (2, (4, 4)), (1, 4)))


def probabilities(x):
    """p(column, token | what x tells), float64; the mask never."""
    told = x != MASK
    agree = (TABLE[:, told] == x[told]).all(1)
    mass = np.where(agree if agree.any() else True, WEIGHTS.astype(np.float64), 0)
    p = (mass / mass.sum()) @ np.eye(VOCAB)[TABLE].transpose(1, 0, 2)
    return p


def logarithms(p):
    return np.where(p > 0, np.log(np.where(p > 0, p, 1)), LOG_ZERO)[:, :MASK]


def surest(columns, p):
    return max(columns, key=lambda i: (p[i], -i))


def ended(x, given, here):
    """The column behind the first end-of-text among `here` that decoding wrote with no mask before it, or None."""
    for i in here:
        if x[i] == MASK:
            return None
        if x[i] == END and not given[i]:
            return i + 1
    return None


def generate(start, write, *, leave=lambda p, x, given: False, window=LENGTH):
    """(tokens, forward that wrote each column, forwards): `write(p, open columns, tick, stop)` -> {column: token}."""
    x = np.array([*start, *[MASK] * (LENGTH - len(start))])
    given, when, forwards, tick, block, stop = x != MASK, np.full(LENGTH, -1), 0, 0, -1, LENGTH
    while (x[:stop] == MASK).any():
        now = int(np.argmax(x == MASK)) // BLOCK
        tick, block = (tick + 1 if now == block else 0), now
        p = probabilities(x)
        can = [i for i in range(block * BLOCK, min((block + 1) * BLOCK, stop)) if x[i] == MASK]
        out = leave(p, x, given)
        chosen = {i: p[i].argmax() for i in np.flatnonzero(x == MASK)} if out else write(p, can, tick, stop)
        for i, token in chosen.items():
            x[i], when[i] = token, forwards
        forwards += 1
        begin = block * BLOCK if window == BLOCK else 0
        if (end := ended(x, given, range(begin, min(begin + window, stop)))) is not None:
            x[end:], stop = END, end
            if window == LENGTH:
                break
        if out:
            break
    return x.tolist(), when.tolist(), forwards


def above(tau):
    def write(p, can, tick, stop):
        best = p.max(1)
        return {i: p[i].argmax() for i in can if best[i] >= tau or i == surest(can, best)}

    return write


def clear(answer, bars):
    """Prophet: the mean gap of the two best logits over the answer's columns, against a bar that falls on the way."""

    def leave(p, x, given):
        two = np.sort(logarithms(p)[list(answer)], axis=1)[:, -2:]
        way = 1 - (x == MASK).sum() / (~given).sum()
        return (two[:, 1] - two[:, 0]).mean() >= bars[0 if way < 0.33 else 1 if way < 0.67 else 2]

    return leave


def credited(alpha, beta, gamma, kappa, tau, radius):
    """CreditDecoding's logits, LocalLeap's choice."""
    account = {}

    def write(p, can, tick, stop):
        if tick == 0:
            account.clear()
        for entry in account:
            account[entry] *= beta
        raised = logarithms(p).copy()
        for i in can:
            winner = (i, int(p[i].argmax()))
            account[winner] = account.get(winner, 0) + p[i].max() ** gamma
        for (i, token), amount in account.items():
            raised[i, token] += alpha * np.log1p(amount)
        q = np.exp(raised - raised.max(1, keepdims=True))
        q = q / q.sum(1, keepdims=True)
        best = q.max(1)
        anchors = [i for i in can if best[i] >= kappa]
        close = [i for i in can if best[i] >= tau and any(abs(i - a) <= radius for a in anchors)]
        return {i: q[i].argmax() for i in {*anchors, *close, surest(can, best)}}

    return write


def filtered(tau):
    w1, b1, w2, b2 = FILTER

    def write(p, can, tick, stop):
        block = range(can[0] // BLOCK * BLOCK, can[0] // BLOCK * BLOCK + BLOCK)
        c = np.array([p[i].max() if i < stop else 0.0 for i in block])
        yes = 1 / (1 + np.exp(-(w2 @ np.maximum(w1 @ c + b1, 0) + b2))) > tau
        best = p.max(1)
        return {i: p[i].argmax() for i in can if yes[i % BLOCK] or i == surest(can, best)}

    return write


ANSWER, BARS = {"answer_start": 1, "answer_length": 3}, (2.0, 1.2, 0.6)
MIXED = (0.65, 0.7, 0.2, 0.8, 0.5, 2)
HOST = chain(add_credit(*MIXED[:3]), sample(), select_near_anchors(*MIXED[3:]))
SLOTS = chain(add_credit(*MIXED[:3], sparse=True), sample(), select_near_anchors(*MIXED[3:]))


def out_of(host):
    return chain(finish_when_clear(host, thresholds=BARS, progress="decoded", **ANSWER), stop_at_eos())


CASES = {
    "prophet, eos": (
        out_of(chain(sample(), select_above(0.6))), lambda: {"write": above(0.6), "leave": clear(range(1, 4), BARS)}
    ),
    "learn2pd, eotp": (
        chain(sample(), select_by_filter(FILTER, 0.7), end_at_text()), lambda: {"write": filtered(0.7), "window": BLOCK}
    ),
    "credit, local_leap, prophet, eos": (
        out_of(HOST), lambda: {"write": credited(*MIXED), "leave": clear(range(1, 4), BARS)}
    ),
    "the same with slots": (
        out_of(SLOTS), lambda: {"write": credited(*MIXED), "leave": clear(range(1, 4), BARS)}
    ),
}  # fmt: skip


def test_the_oracles_leave_early_and_credit_counts():
    """Otherwise the comparison would show nothing of them."""
    plain, never = CASES["credit, local_leap, prophet, eos"][1], {"leave": lambda p, x, given: False}
    runs = [[generate(start, **(plain() | change)) for start in STARTS] for change in ({}, never)]
    assert runs[0] != runs[1]
    without = [generate(start, **(plain() | never | {"write": credited(0, *MIXED[1:])})) for start in STARTS]
    assert runs[1] != without


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_chain_decodes_like_a_plain_generate_function(name):
    policy, plain = CASES[name]
    model, params = table_denoiser(TABLE, WEIGHTS, vocab_size=VOCAB, mask=MASK, eos=END)
    prompts = [[1]] * len(STARTS)
    out = decode(
        LM(model, params, None, "exact"), prompts, policy, max_new=LENGTH, block=BLOCK, canvas=STARTS, stop=False
    )
    expected = [generate(start, **plain()) for start in STARTS]
    for row, (tokens, when, forwards) in enumerate(expected):
        assert out.tokens[row].tolist() == tokens
        assert out.forwards[row] == forwards
        assert out.commit_step[row].tolist() == when
    assert len({tokens.index(END) for tokens, _, _ in expected if END in tokens}) > 2, "rows must end at other columns"
    assert len({forwards for _, _, forwards in expected}) > 1
