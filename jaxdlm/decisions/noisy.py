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
Noise = Callable[[int, int, int], np.ndarray]


def noise_of(seed: int, number: int, fingerprint: str, vocab: int) -> Noise:
    """(draw, first position, columns) -> ids, of one row and one question."""
    key = row_keys(np.array([seed & 0x7FFFFFFF], np.int32), np.array([number], np.uint32))[0]
    asked = int(fingerprint[:8], 16)

    @functools.cache
    def drawn(draw: int, first: int, columns: int) -> np.ndarray:
        return np.asarray(_drawn(key, np.uint32(asked), np.uint32(draw), np.int32(first), columns, vocab))

    return drawn


@functools.partial(jax.jit, static_argnums=(4, 5))
def _drawn(key: Array, asked: Array, draw: Array, first: Array, columns: int, vocab: int) -> Array:
    own = jax.random.fold_in(jax.random.fold_in(key, asked), draw)
    return column_integer(own, first + jnp.arange(columns, dtype=jnp.int32), vocab)


class Contexts(NamedTuple):
    """What is read under each draw: nodes, the ids at each, and log P of the options from the tables of some draws."""

    nodes: Sequence[Node]
    ids: Sequence[tuple[int, ...]]
    canvas: Callable[[Node, int], np.ndarray]
    combine: Callable[[list[list[np.ndarray]]], np.ndarray]


def slot(lm: Any, asked: Slot, draws: int | str, where: str) -> Plan[Raw]:
    """P_k = mean over draws of softmax over the options at the one noisy column, everything behind it in place."""
    ids = tuple(choice[0] for choice in asked.choices)
    behind = (*asked.post, *asked.ends[:1])
    start, width, noise = shape_of(lm, asked, 1 + len(behind) + 1, where)

    def canvas(node: Node, draw: int) -> np.ndarray:
        body = np.full(width, lm.config.tokens.pad, np.int32)
        body[0], body[1 : 1 + len(behind)] = noise(draw, start, 1)[0], behind
        return body

    def combine(tables: list[list[np.ndarray]]) -> np.ndarray:
        return mean_share([table[0] for table in tables])

    return (yield from _averaged(lm, asked, Contexts([()], [ids], canvas, combine), width, draws))


def chain(lm: Any, asked: Slot, draws: int | str, trie: Trie, spelled: Any, ids: Any, where: str) -> Plan[Raw]:
    """log P_k = Σ_i log mean over draws of p(d_i | d_{<i} written, noise behind). No joint law of this model exists."""
    start, width, noise = shape_of(lm, asked, max(map(len, trie.leaves)), where)
    nodes = list(trie.children)
    wanted = [tuple(dict.fromkeys(i for token in trie.children[node] for i in ids(token))) for node in nodes]

    def canvas(node: Node, draw: int) -> np.ndarray:
        body = noise(draw, start, width).copy()
        body[: len(node)] = spelled(node)
        return body

    def combine(tables: list[list[np.ndarray]]) -> np.ndarray:
        steps = {}
        for place, node in enumerate(nodes):
            known = dict(zip(wanted[place], _mean([table[place] for table in tables])))
            steps[node] = {t: float(np.logaddexp.reduce([known[i] for i in ids(t)])) for t in trie.children[node]}
        return np.array([sum(steps[leaf[:size]][leaf[size]] for size in range(len(leaf))) for leaf in trie.leaves])

    return (yield from _averaged(lm, asked, Contexts(nodes, wanted, canvas, combine), width, draws))


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


def _averaged(lm: Any, asked: Slot, contexts: Contexts, width: int, draws: int | str) -> Plan[Raw]:
    """Reads draw by draw: as many as asked for, or one, and four where one leaves the answer open."""
    start = len(asked.prompt)
    tables: list[list[np.ndarray]] = []
    tops: list[bool] = []
    goal = 1 if draws == "auto" else int(draws)
    while len(tables) < goal:
        new = range(len(tables), goal)
        reads = [
            Read(np.concatenate([asked.prompt, contexts.canvas(node, m)]), ((start + len(node), ids),), width)
            for m in new
            for node, ids in zip(contexts.nodes, contexts.ids)
        ]
        found: list[list[Column]] = yield reads
        size = len(contexts.nodes)
        for m in range(len(new)):
            columns = [column for (column,) in found[m * size : (m + 1) * size]]
            tables.append([column.logp for column in columns])
            tops.append(columns[0].top in contexts.ids[0])
        if draws == "auto" and len(tables) == 1 and unsure(contexts.combine(tables)):
            goal = MORE
    rest = [tables[:m] + tables[m + 1 :] for m in range(len(tables))] if len(tables) > 1 else []
    return Raw(
        contexts.combine(tables), all(tops), len(tables) * len(contexts.nodes),
        len(tables) * len(contexts.nodes) * (start + width), drawn=tuple(contexts.combine([each]) for each in tables),
        without=tuple(contexts.combine(some) for some in rest),
    )  # fmt: skip


def unsure(logp: np.ndarray) -> bool:
    finite = np.isfinite(logp).any() and not np.isnan(logp).any()
    return bool(finite and entropy(np.exp(log_softmax(logp))) > UNSURE)


def mean_share(logps: Sequence[np.ndarray]) -> np.ndarray:
    """log of the mean over draws of the softmax over options, plus that of the mean of their probability together."""
    return _mean([log_softmax(logp) for logp in logps]) + _mean([np.logaddexp.reduce(logp) for logp in logps])


def _mean(logp: Sequence[Any]) -> Any:
    """log of the mean of exp."""
    return np.logaddexp.reduce(np.array(logp, np.float64), axis=0) - np.log(len(logp))
