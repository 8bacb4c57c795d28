"""Laws: what the probability of an answer is, as reads of the model and a sum over what comes back (float64).

l_x[j, v]: log-softmax of column j of canvas x. d_k: the tokens of choice k and its terminator, which is the first token
behind the answer, or any of the ids that end a reply. P_k is returned as it is, not normalised over the choices.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.decisions import noisy, ordered
from jaxdlm.decisions.read import Column, Plan, Raw, Read
from jaxdlm.decisions.render import Slot
from jaxdlm.decisions.trie import END, WAVE, Trie, best_first, expand
from jaxdlm.errors import InputError
from jaxdlm.layout import DEFAULT_BLOCK

ANY_ORDER = 5  # tokens, terminator included, of which all orders are summed


class Limits(NamedTuple):
    """width: open columns of a canvas, None: whole blocks. contexts: that a question may read; above, the likeliest
    first until at most `tolerance` is left. draws: of noise, "auto": one, and more where that leaves the answer open.
    cfg: strength of guidance of a slot. order: in which `chain` writes columns, None: left to right. steps: forwards of a
    model with uniform noise, of which the last is read."""

    width: int | None = None
    contexts: int = 4096
    tolerance: float = 0.01
    draws: int | str = "auto"
    cfg: float = 0.0
    order: ordered.Order = None
    steps: int = 1


Law = Callable[[Any, Slot, Limits, str], Plan[Raw]]


def masked(config: Any) -> bool:
    """Whether the model fills in masks; else it continues a text."""
    return config.noise == "mask" and config.tokens.mask is not None


class Canvas:
    """Sequences of a slot with some of its columns written and the others open."""

    def __init__(self, lm: Any, slot: Slot, limits: Limits, where: str) -> None:
        self.lm, self.slot, self.where = lm, slot, where
        self.config = lm.config
        self.start = len(slot.prompt)
        self.masked = masked(self.config)
        self.blocks = self.config.block_size if self.config.attention == "block_causal" else 0
        self.width = self._width(limits) if self.masked else 0
        longest = self.start + (self.width or max(map(len, slot.choices)) + 1)
        if longest > self.config.max_position:
            raise InputError(
                f"{where} needs {longest} columns, more than the {self.config.max_position} positions of {lm.name}: "
                f"shorten the text or the options"
            )

    def _width(self, limits: Limits) -> int:
        need = max(map(len, self.slot.choices)) + max(1, len(self.slot.post))
        if self.blocks:
            if limits.width is not None:
                raise InputError(f"width={limits.width}: the blocks of {self.lm.name} say it: leave it out")
            return -(-(self.start + need) // self.blocks) * self.blocks - self.start
        block = self.lm.defaults.get("block_length") or DEFAULT_BLOCK
        width = -(-need // block) * block if limits.width is None else limits.width
        if need > width:
            raise InputError(f"{self.where} has an option of {need} columns with its end, and width={width}: widen it")
        return width

    def written(self, tokens: Sequence[int], hidden: Sequence[int] = (), upto: int | None = None) -> np.ndarray:
        """The prompt, these tokens less the hidden columns, and masks where the model shall look at `upto`."""
        if not self.masked:
            return np.concatenate([self.slot.prompt, np.asarray(tokens, np.int32)])
        at = len(tokens) - 1 if upto is None else upto
        width = self.width
        if self.blocks:  # what stands behind its block is not visible
            width = ((self.start + at) // self.blocks + 1) * self.blocks - self.start
        body = np.full(width, self.config.tokens.mask, np.int32)
        body[: len(tokens)] = tokens[:width]
        body[list(hidden)] = self.config.tokens.mask
        return np.concatenate([self.slot.prompt, body])

    def closed(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The tokens of an option and its terminator, END where any end of a reply is one."""
        behind = self.slot.post[:1] or ((END,) if self.slot.ends else ())
        return (*choice, *behind)

    def ids(self, token: int) -> tuple[int, ...]:
        """What may stand for a token."""
        return self.slot.ends if token == END else (token,)

    def spelled(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens with END as one id."""
        return tuple(self.slot.ends[0] if token == END else token for token in tokens)

    def filled(self, choice: Sequence[int], width: int) -> tuple[int, ...]:
        """The tokens of an option, what stands behind it, and ends up to the width. Raises InputError without any end."""
        body = (*choice, *self.slot.post)[:width]
        if len(body) < width and not self.slot.ends:
            raise InputError(
                f"{self.where}: {self.lm.name} has no end of text to fill a canvas with: use law='chain', left to right"
            )
        return (*body, *(END,) * (width - len(body)))

    def trie(self) -> Trie:
        """Of all options with their terminators. Raises InputError where one begins with another."""
        made = Trie([self.closed(choice) for choice in self.slot.choices])
        inner = next((k for k, leaf in enumerate(made.leaves) if leaf in made.children), None)
        if inner is not None:
            raise InputError(
                f"{self.where}: option {inner} is how another one begins, and nothing tells them apart: give post a text"
            )
        return made


def slot(lm: Any, asked: Slot, limits: Limits, where: str) -> Plan[Raw]:
    """P_k = exp l_x[j, c_k], x the prompt, one open column j and what stands behind the answer: one read.

    A model that continues a text: the distribution behind the prompt. With guidance of strength w, (w + 1) l_x - w l_u
    instead, u with masks in place of the prompt: a second read.
    """
    if any(len(choice) != 1 for choice in asked.choices):
        long = next(k for k, choice in enumerate(asked.choices) if len(choice) != 1)
        raise InputError(
            f"{where}: option {long} has {len(asked.choices[long])} tokens, law='slot' reads one: use 'chain'"
        )
    if lm.config.noise == "uniform":
        return (yield from noisy.slot(lm, asked, limits.draws, limits.steps, where))
    start, tokens = len(asked.prompt), asked.prompt
    if masked(lm.config):
        behind = (*asked.post, *asked.ends[:1])
        tokens = np.concatenate([tokens, np.asarray([lm.config.tokens.mask, *behind], np.int32)])
    if len(tokens) > lm.config.max_position:
        raise InputError(
            f"{where} has {len(tokens)} tokens, more than the {lm.config.max_position} positions of {lm.name}: shorten it"
        )
    ids = tuple(choice[0] for choice in asked.choices)
    want = ((start, ids),)
    if not limits.cfg:
        ((column,),) = yield [Read(tokens, want, head=asked.head)]
        return Raw(column.logp, column.top in ids, 1, len(tokens))
    blank = tokens.copy()
    blank[: start - asked.pre] = lm.config.tokens.mask
    (column,), (free,) = yield [Read(tokens, want), Read(blank, want)]
    with np.errstate(invalid="ignore"):  # an id that is no text
        guided = np.where(column.logp == -np.inf, -np.inf, (limits.cfg + 1) * column.logp - limits.cfg * free.logp)
    return Raw(guided, column.top in ids, 2, 2 * len(tokens), mass=float(np.exp(np.logaddexp.reduce(column.logp))))


def chain(lm: Any, asked: Slot, limits: Limits, where: str) -> Plan[Raw]:
    """log P_k = Σ_i l_{x_i}[i, d_i], x_i: d_{<i} written, every later column open; sums to 1 over all texts.

    The contexts are the inner nodes of the trie of all d: one batch. A model that continues a text: its own exact law,
    the contexts on a path through the trie in one read.
    """
    canvas = Canvas(lm, asked, limits, where)
    if limits.order is not None:
        return (yield from ordered.chain(canvas, limits.order, limits.contexts))
    trie = canvas.trie()
    if lm.config.noise == "uniform":
        if len(trie.children) > limits.contexts:
            raise InputError(
                f"{where} has {len(trie.children)} contexts, more than max_contexts={limits.contexts}: raise it"
            )
        return (yield from noisy.chain(lm, asked, limits.draws, limits.steps, trie, canvas, where))
    if len(trie.children) > limits.contexts:
        return (yield from best_first(canvas, trie, limits.tolerance, WAVE, limits.contexts))
    return (yield from expand(canvas, trie))


def product(lm: Any, asked: Slot, limits: Limits, where: str) -> Plan[Raw]:
    """log P_k = Σ_{j<W} l_x[j, (c_k · tail)_j], x all open and the tail ends of text up to W: one read.

    Columns as if they were independent: a screen, and not the model's joint law. The whole tail counts.
    """
    canvas = Canvas(lm, asked, limits, where)
    _only_masked(canvas, "product")
    width = canvas.width if not canvas.blocks else canvas.blocks - canvas.start % canvas.blocks
    need = max(map(len, asked.choices)) + len(asked.post)
    if need > width:
        raise InputError(
            f"{where} has an option of {need} columns, law='product' sees {width} of its block: use 'chain'"
        )
    texts = [canvas.filled(choice, width) for choice in asked.choices]
    wanted = [tuple(dict.fromkeys(i for text in texts for i in canvas.ids(text[j]))) for j in range(width)]
    open_ = canvas.written((), upto=0)
    (columns,) = yield [Read(open_, tuple((canvas.start + j, ids) for j, ids in enumerate(wanted)))]
    tables = [dict(zip(ids, column.logp)) for ids, column in zip(wanted, columns)]
    logp = [
        math.fsum(_sum([tables[j][i] for i in canvas.ids(token)]) for j, token in enumerate(text)) for text in texts
    ]
    first = {choice[0] for choice in asked.choices}
    return Raw(np.array(logp), columns[0].top in first, 1, len(open_))


def pseudo(lm: Any, asked: Slot, limits: Limits, where: str) -> Plan[Raw]:
    """log P_k = Σ_j l_{d_k less j}[j, d_j]: every token from all others. No law: its sum over all texts is not 1."""
    canvas = Canvas(lm, asked, limits, where)
    _only_masked(canvas, "pseudo")
    return (yield from _hiding(canvas, lambda n: [((j,), 1.0) for j in range(n)]))


def anyorder(lm: Any, asked: Slot, limits: Limits, where: str) -> Plan[Raw]:
    """log P_k = Σ_S Σ_{j in S} l_{d_k less S}[j, d_j] / (n C(n-1, |S|-1)): the mean over all n! orders; a lower bound."""
    canvas = Canvas(lm, asked, limits, where)
    _only_masked(canvas, "anyorder")
    longest = max(len(canvas.closed(choice)) for choice in asked.choices)
    if longest > ANY_ORDER:
        raise InputError(
            f"{where} has an option of {longest} tokens with its end, law='anyorder' sums {ANY_ORDER}: use 'chain'"
        )

    def sets(n: int) -> list[tuple[tuple[int, ...], float]]:
        sizes = range(1, n + 1)
        return [(s, 1 / (n * math.comb(n - 1, len(s) - 1))) for k in sizes for s in itertools.combinations(range(n), k)]

    return (yield from _hiding(canvas, sets))


def _hiding(canvas: Canvas, sets: Callable[[int], list[tuple[tuple[int, ...], float]]]) -> Plan[Raw]:
    """Σ over sets of hidden columns, each with its weight, of the log-probabilities of what stands there."""
    texts = [canvas.closed(choice) for choice in canvas.slot.choices]
    reads, terms = [], []
    for k, text in enumerate(texts):
        for hidden, weight in sets(len(text)):
            tokens = canvas.written(canvas.spelled(text), hidden)
            reads.append(Read(tokens, tuple((canvas.start + j, canvas.ids(text[j])) for j in hidden)))
            terms.append((k, weight))
    results = yield reads
    logp = np.zeros(len(texts))
    for (k, weight), columns in zip(terms, results):
        logp[k] += weight * math.fsum(_sum(column.logp) for column in columns)
    return Raw(logp, _top_of(results, texts), len(reads), sum(len(read.tokens) for read in reads))


def _top_of(results: Sequence[Sequence[Column]], texts: Sequence[Sequence[int]]) -> bool:
    return results[0][0].top in {text[0] for text in texts}


def _sum(logp: Any) -> float:
    return float(np.logaddexp.reduce(np.asarray(logp, np.float64)))


def _only_masked(canvas: Canvas, law: str) -> None:
    if not canvas.masked:
        raise InputError(f"law={law!r} needs a masked model, which {canvas.lm.name} is not: use law='chain'")


LAWS: dict[str, Law] = {"slot": slot, "chain": chain, "product": product, "pseudo": pseudo, "anyorder": anyorder}
