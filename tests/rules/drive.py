"""A block decoded without a model: a rule, forward after forward, on logits that are given for each."""

from collections.abc import Callable

import numpy as np

from jaxdlm import chain
from jaxdlm.core.carry import Update
from jaxdlm.rules import log_prob, sample
from tests.rules.hand import IDS, call, row

MASK, VOCAB = IDS.mask, 7  # every word may be proposed


class Run:
    """What a block's forwards did: `masks` before each, the text, and the forward of each column's last token."""

    def __init__(self, columns: int) -> None:
        self.tokens, self.masks, self.when = np.full(columns, MASK), [], np.full(columns, -1)

    def same(self, other: "Run") -> None:
        np.testing.assert_array_equal(np.array(self.masks), np.array(other.masks))
        np.testing.assert_array_equal(self.tokens, other.tokens)
        np.testing.assert_array_equal(self.when, other.when)


def drive(rule, draws, measure=log_prob, blocks: int = 1) -> Run:
    """The rule on draws[forward], logits [W, V], until no mask is left and it holds the block no longer."""
    rule, columns = chain(sample(measure=measure), rule), draws.shape[1]
    out, pending, state = Run(columns), np.ones(columns, bool), rule.init(columns, VOCAB)
    for tick, raw in enumerate(draws):
        out.masks.append(pending.copy())
        view = row(pending, tokens=np.where(pending, MASK, out.tokens), tick=tick, blocks=blocks)
        update, state = call(rule, Update(raw.astype(np.float32)), state, view)
        commit, none = np.asarray(update.commit) & pending, np.zeros(columns, bool)
        again = none if update.reopen is None else np.asarray(update.reopen) & ~pending
        out.tokens = np.where(commit, np.asarray(update.token), np.where(again, MASK, out.tokens))
        out.when, pending = np.where(commit, tick, out.when), (pending & ~commit) | again
        if not pending.any() and not bool(update.hold):
            return out
    raise AssertionError("the block does not end")


def slowly(step: Callable, draws) -> Run:
    """The same by a loop over lists: step(p, token, open columns, tokens, tick) -> (written, masked again, goes on)."""
    columns = draws.shape[1]
    out, left = Run(columns), set(range(columns))
    for tick, raw in enumerate(draws):
        out.masks.append(np.isin(np.arange(columns), list(left)))
        p = probabilities(raw)
        write, again, holds = step(p, p.argmax(1), sorted(left), out.tokens, tick)
        for i in write:
            out.tokens[i], out.when[i] = p[i].argmax(), tick
        left -= set(write)
        for i in again:
            out.tokens[i] = MASK
        left |= set(again)
        if not left and not holds:
            return out
    raise AssertionError("the block does not end")


def probabilities(raw):
    raw = np.exp(np.asarray(np.float32(raw), np.float64) - np.max(raw, axis=-1, keepdims=True))
    return raw / raw.sum(-1, keepdims=True)


def sorted_by(columns, key) -> list[int]:
    """Columns by falling key; ties: the lowest first."""
    return sorted(columns, key=lambda i: (-key[i], i))


def blocks_of_draws(count: int, columns: int, forwards: int = 64, seed: int = 0, settling: float = 1.0):
    """Logits [T, W, V] of some blocks: a prediction that settles more and more, with noise that fades."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        base = generator.normal(0, 2, (columns, VOCAB))
        fades = settling ** np.arange(forwards)[:, None, None]
        sharper = 1 + 0.1 * np.arange(forwards)[:, None, None]
        yield base * sharper + fades * generator.normal(0, 1, (forwards, columns, VOCAB))
