"""The laws of models with uniform noise (DiffusionGemma): open columns hold draws of it, and probabilities are averaged.

u_m[j] = column_integer(fold_in(fold_in(key of the row, hash of the question), m), position j, V). A canvas is the smallest
multiple of 16 columns that holds the answer and what stands behind it: its width is part of the law, and never the
batch's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.keys import column_integer, row_keys
from jaxdlm.decisions.pool import entropy, log_softmax
from jaxdlm.decisions.read import Column, Plan, Raw, Read
from jaxdlm.decisions.render import Slot
from jaxdlm.decisions.trie import Node, Trie
from jaxdlm.errors import InputError
from jaxdlm.typing import Array

STEP = 16  # columns of a canvas come in multiples of
UNSURE, MORE = 0.1, 4  # nats of entropy above which one draw becomes so many
Noise = Callable[[int, int, int, int], np.ndarray]


def noise_of(seed: int, number: int, fingerprint: str, vocab: int) -> Noise:
    """(draw, step, first position, columns) -> ids, of one row and one question."""
    key = row_keys(np.array([seed & 0x7FFFFFFF], np.int32), np.array([number], np.uint32))[0]
    asked = int(fingerprint[:8], 16)

    @functools.cache
    def drawn(draw: int, step: int, first: int, columns: int) -> np.ndarray:
        folds = np.array([asked, draw, *([step] if step else [])], np.uint32)
        return np.asarray(_drawn(key, folds, np.int32(first), columns, vocab))

    return drawn


@functools.partial(jax.jit, static_argnums=(3, 4))
def _drawn(key: Array, folds: Array, first: Array, columns: int, vocab: int) -> Array:
    for fold in folds:
        key = jax.random.fold_in(key, fold)
    return column_integer(key, first + jnp.arange(columns, dtype=jnp.int32), vocab)


class Contexts(NamedTuple):
    """What is read under each draw: nodes, the ids at each, and log P of the options from the tables of some draws. canvas: its
    ids, `open` columns of them noise, which further steps draw anew."""

    nodes: Sequence[Node]
    ids: Sequence[tuple[int, ...]]
    canvas: Callable[[Node, int], np.ndarray]
    open: Callable[[Node], range]
    combine: Callable[[list[list[np.ndarray]]], np.ndarray]


def slot(lm: Any, asked: Slot, draws: int | str, steps: int, where: str) -> Plan[Raw]:
    """P_k = mean over draws of softmax over the options at the one noisy column, everything behind it in place."""
    ids = tuple(choice[0] for choice in asked.choices)
    behind = (*asked.post, *asked.ends[:1])
    start, width, noise = shape_of(lm, asked, 1 + len(behind) + 1, where)

    def canvas(node: Node, draw: int) -> np.ndarray:
        body = np.full(width, lm.config.tokens.pad, np.int32)
        body[0], body[1 : 1 + len(behind)] = noise(draw, 0, start, 1)[0], behind
        return body

    def combine(tables: list[list[np.ndarray]]) -> np.ndarray:
        return mean_share([table[0] for table in tables])

    contexts = Contexts([()], [ids], canvas, lambda node: range(1), combine)
    return (yield from _averaged(lm, asked, contexts, width, draws, steps))


def chain(lm: Any, asked: Slot, draws: int | str, steps: int, trie: Trie, written: Any, where: str) -> Plan[Raw]:
    """log P_k = Σ_i log mean over draws of p(d_i | d_{<i} written, noise behind). No joint law of this model exists."""
    start, width, noise = shape_of(lm, asked, max(map(len, trie.leaves)), where)
    nodes = list(trie.children)
    wanted = [tuple(dict.fromkeys(i for token in trie.children[node] for i in written.ids(token))) for node in nodes]

    def canvas(node: Node, draw: int) -> np.ndarray:
        body = noise(draw, 0, start, width).copy()
        body[: len(node)] = written.spelled(node)
        return body

    def combine(tables: list[list[np.ndarray]]) -> np.ndarray:
        after = {}
        for place, node in enumerate(nodes):
            known = dict(zip(wanted[place], _mean([table[place] for table in tables])))
            after[node] = {
                t: float(np.logaddexp.reduce([known[i] for i in written.ids(t)])) for t in trie.children[node]
            }
        return np.array([sum(after[leaf[:size]][leaf[size]] for size in range(len(leaf))) for leaf in trie.leaves])

    contexts = Contexts(nodes, wanted, canvas, lambda node: range(len(node), width), combine)
    return (yield from _averaged(lm, asked, contexts, width, draws, steps))


def shape_of(lm: Any, asked: Any, need: int, where: str) -> tuple[int, int, Noise]:
    """(first column, width, noise). Raises InputError where the canvas is too long."""
    start, width = len(asked.prompt), -(-need // STEP) * STEP
    if start + width > lm.config.max_position:
        raise InputError(
            f"{where} needs {start + width} columns, more than the {lm.config.max_position} positions of {lm.name}: shorten it"
        )
    if asked.noise is None:
        raise InputError(f"{where}: {lm.name} draws noise, and there is no key to draw it by")
    return start, width, asked.noise


def fresh(noise: Noise, draw: int, steps: int, start: int, width: int, open_: Sequence[int]) -> np.ndarray:
    """What open columns hold in the second forward and those after it, [steps - 1, open]."""
    drawn = [noise(draw, step, start, width)[list(open_)] for step in range(1, steps)]
    return np.array(drawn, np.int32).reshape(steps - 1, len(open_))


def _averaged(lm: Any, asked: Slot, contexts: Contexts, width: int, draws: int | str, steps: int) -> Plan[Raw]:
    """Reads draw by draw: as many as asked for, or one, and four where one leaves the answer open."""
    tables: list[list[np.ndarray]] = []
    tops: list[bool] = []
    total = columns = 0
    goal, each = 1 if draws == "auto" else int(draws), list(zip(contexts.nodes, contexts.ids))
    while len(tables) < goal:
        new = range(len(tables), goal)
        reads = [_read(asked, contexts, *node, m, width, steps) for m in new for node in each]
        answers: list[list[Column]] = yield reads
        size, total = len(contexts.nodes), total + len(reads)
        columns += sum(read.columns for read in reads)
        for m in range(len(new)):
            own = [column for (column,) in answers[m * size : (m + 1) * size]]
            tables.append([column.logp for column in own])
            tops.append(own[0].top in contexts.ids[0])
        if draws == "auto" and len(tables) == 1 and unsure(contexts.combine(tables)):
            goal = MORE
    rest = [tables[:m] + tables[m + 1 :] for m in range(len(tables))] if len(tables) > 1 else []
    return Raw(
        contexts.combine(tables), all(tops), total, columns, drawn=tuple(contexts.combine([each]) for each in tables),
        without=tuple(contexts.combine(some) for some in rest),
    )  # fmt: skip


def _read(asked: Slot, contexts: Contexts, node: Node, ids: tuple[int, ...], draw: int, width: int, steps: int) -> Read:
    start, open_ = len(asked.prompt), tuple(contexts.open(node))
    tokens, want = np.concatenate([asked.prompt, contexts.canvas(node, draw)]), ((start + len(node), ids),)
    assert asked.noise is not None
    return Read(tokens, want, width, open=open_, fresh=fresh(asked.noise, draw, steps, start, width, open_))


def unsure(logp: np.ndarray) -> bool:
    finite = np.isfinite(logp).any() and not np.isnan(logp).any()
    return bool(finite and entropy(np.exp(log_softmax(logp))) > UNSURE)


def mean_share(logps: Sequence[np.ndarray]) -> np.ndarray:
    """log of the mean over draws of the softmax over options, plus that of the mean of their probability together."""
    return _mean([log_softmax(logp) for logp in logps]) + _mean([np.logaddexp.reduce(logp) for logp in logps])


def _mean(logp: Sequence[Any]) -> Any:
    """log of the mean of exp."""
    return np.logaddexp.reduce(np.array(logp, np.float64), axis=0) - np.log(len(logp))
