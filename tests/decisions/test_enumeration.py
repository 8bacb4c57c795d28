"""Every law on random exact joints, against sums over the whole table: on the host in float64, and by a model in float32."""

import dataclasses
import math

import numpy as np
import pytest

from jaxdlm.decisions import joint, laws
from jaxdlm.decisions.laws import Limits
from jaxdlm.decisions.read import Column, drive
from jaxdlm.decisions.render import Slot
from tests.decisions.toys import END, MASK, PROMPT, exact, net

WIDTH, WORDS = 4, range(1, 6)
LAWS = ("slot", "chain", "order", "confidence", "product", "pseudo", "anyorder")
REPLIES = ("joint", "sequential", "together")


class Table:
    """Canvases with their weights; answers reads in float64 as a model would that has learned them."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        canvases = random.integers(1, 6, (6, WIDTH))
        for row, length in zip(canvases, random.integers(1, WIDTH, len(canvases))):
            row[length:] = END
        self.canvases = np.unique(canvases, axis=0)
        self.canvases = np.resize(self.canvases, (6, WIDTH))  # some of them twice: their weights add
        self.weights = random.dirichlet(np.ones(6)).astype(np.float32).astype(np.float64)
        self.weights /= self.weights.sum()
        self.order = tuple(random.permutation(WIDTH).tolist())

    @property
    def texts(self):
        return [tuple(row[row != END].tolist()) for row in np.unique(self.canvases, axis=0)]

    def given(self, written: dict[int, int]) -> np.ndarray:
        """Weights of the canvases that agree."""
        agree = [all(row[column] == token for column, token in written.items()) for row in self.canvases]
        return self.weights * np.array(agree)

    def p(self, column: int, written: dict[int, int]) -> np.ndarray:
        """The distribution of a column, given others."""
        weights = self.given(written)
        p = np.array([weights[self.canvases[:, column] == v].sum() for v in range(8)])
        return p / p.sum() if p.sum() else np.full(8, 1 / 8)

    def logp(self, text, written=()) -> float:
        return float(np.log(self.given(dict(enumerate((*text, *[END] * (WIDTH - len(text)))))).sum()))

    def answer(self, plan):
        """The result of a plan, every column in float64."""
        try:
            asked = next(plan)
            while True:
                asked = plan.send([[self._column(read, *want) for want in read.want] for read in asked])
        except StopIteration as ended:
            return ended.value

    def _column(self, read, place, ids):
        body = read.tokens[len(PROMPT) :]
        causal = place >= len(read.tokens) or MASK not in body  # what stands behind the prompt, and before the place
        seen = range(min(place - len(PROMPT), len(body))) if causal else range(min(len(body), WIDTH))
        p = self.p(place - len(PROMPT), {at: int(body[at]) for at in seen if body[at] != MASK})
        with np.errstate(divide="ignore"):
            logp = np.log(p)
        return Column(logp[list(ids)], int(p.argmax()), 0.0, True, float(logp.max()))


def slot_of(choices) -> Slot:
    return Slot(np.array(PROMPT, np.int32), tuple(map(tuple, choices)), (), (END,))


def expected(table: Table, name: str):
    """(choices, log P of each by the law) from the whole table."""
    texts = table.texts
    if name == "slot":
        ones = sorted({text[0] for text in texts if table.p(1, {})[END] > 0})
        return [(x,) for x in ones], [np.log(max(table.p(0, {1: END})[x], 1e-300)) for x in ones]
    if name == "product":
        full = [(*text, *[END] * (WIDTH - len(text))) for text in texts]
        return texts, [math.fsum(np.log(table.p(j, {})[v]) for j, v in enumerate(text)) for text in full]
    if name == "pseudo":
        closed = [dict(enumerate((*text, END))) for text in texts]
        hidden = lambda d, j: {at: token for at, token in d.items() if at != j}  # noqa: E731
        return texts, [math.fsum(np.log(table.p(j, hidden(d, j))[v]) for j, v in d.items()) for d in closed]
    return texts, [table.logp(text) for text in texts]  # in every order of a joint that is consistent


def plan(lm, table: Table, name: str, choices):
    law = {"order": "chain", "confidence": "chain"}.get(name, name)
    order = {"order": table.order, "confidence": "confidence"}.get(name)
    return laws.LAWS[law](lm, slot_of(choices), Limits(width=WIDTH, order=order), "here")


def replies(table: Table):
    """(reply of two labels, weights of the first, of both): one token each, the end behind both; None for less."""
    both = {(a, b): table.given({0: a, 1: b, 2: END}).sum() for a in WORDS for b in WORDS}
    pairs = [pair for pair, weight in both.items() if weight > 0]
    first, second = (tuple(sorted({pair[at] for pair in pairs})) for at in (0, 1))
    if len(first) < 2 or len(second) < 2:
        return None
    reply = joint.Reply(np.array(PROMPT, np.int32), (first[0], second[0]), (0, 1), (first, second), (END,))
    alone = np.array([table.given({0: a, 2: END}).sum() for a in first])  # the second may be an end as well
    return reply, alone, np.array([[both[a, b] for b in second] for a in first])


def reply_of(lm, mode: str, reply):
    if mode == "together":
        return joint.chain(lm, reply, 1, 4096, (0,), "here")
    return {"joint": joint.joint, "sequential": joint.sequential}[mode](lm, reply, 1, "here")


def apart(table: Table, mode: str) -> float:
    """How far a reply is from the shares in the table of both answers; 0 where there is none."""
    if (asked := replies(table)) is None:
        return 0.0
    reply, alone, p = asked
    first, second = alone / alone.sum(), p.sum(0) / p.sum()
    after = p / p.sum(1, keepdims=True)
    second = {"joint": second, "sequential": after[alone.argmax()], "together": first @ after}[mode]
    found = table.answer(reply_of(exact(), mode, reply))
    shares = [np.exp(raw.logp - np.logaddexp.reduce(raw.logp)) for raw in found]
    return max(np.abs(one - other).max() for one, other in zip(shares, (first, second)))


def on_the_host(seeds) -> float:
    """The largest difference of a probability, laws, modes of replies and autoregressive chains."""
    lm, causal, worst = exact(), net("ar", tokens=dataclasses.replace(net("ar").config.tokens, eos=(END,))), 0.0
    for seed in seeds:
        table = Table(seed)
        for name in LAWS:
            choices, truth = expected(table, name)
            if choices:
                found = table.answer(plan(lm, table, name, choices)).logp
                worst = max(worst, np.abs(np.exp(found) - np.exp(truth)).max())
        texts, truth = expected(table, "chain")
        found = table.answer(laws.chain(causal, slot_of(texts), Limits(), "here")).logp
        worst = max(worst, np.abs(np.exp(found) - np.exp(truth)).max())
        worst = max(worst, *(apart(table, mode) for mode in REPLIES))
    return worst


@pytest.mark.slow
def test_laws_are_enumeration_on_the_host():
    assert on_the_host(range(15)) < 1e-12


@pytest.mark.exhaustive
def test_laws_are_enumeration_on_the_host_five_hundred_times():
    assert on_the_host(range(500)) < 1e-12
    assert sum(replies(Table(seed)) is not None for seed in range(1500)) >= 500
    assert max(apart(table, mode) for table in map(Table, range(1500)) for mode in REPLIES) < 1e-12


def by_a_model(seeds) -> float:
    worst = 0.0
    for seed in seeds:
        table = Table(seed)
        lm = exact(table.canvases, table.weights.astype(np.float32))
        cases = [(name, *expected(table, name)) for name in LAWS]
        cases = [case for case in cases if case[1]]
        for (_, _, truth), raw in zip(cases, drive(lm, [plan(lm, table, *case[:2]) for case in cases], 16)):
            worst = max(worst, np.abs(np.exp(raw.logp) - np.exp(truth)).max())
    return worst


@pytest.mark.slow
def test_laws_of_a_model_are_enumeration():
    assert by_a_model(range(5)) < 1e-5


@pytest.mark.exhaustive
def test_laws_of_a_model_are_enumeration_five_hundred_times():
    assert by_a_model(range(500)) < 1e-5
