"""A regular language on a canvas: which tokens the open columns may take so that the whole text belongs to it.

The text of a row is its columns `first` .. `last`, written ones and open ones. With the log-probabilities l_j(v) of the
open columns the law is the product of the columns on condition that the text belongs to the language L,

    Q(x) = 1[x in L] prod_j p_j(x_j) / Z,

and everything here is a sum or a maximum over the paths of the language's automaton: one pass over the columns from
the right (`backward`), one from the left (`forward`), each with one number per state.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.carry import Automaton, Geometry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32

NEG = -1e30  # a logarithm of nothing that may be added up without overflow; what lies above NEG / 2 is possible


class Columns(NamedTuple):
    """The columns of a window as the language sees them. What is neither fixed nor open is no part of the text."""

    open: Bool[Array, "W"]
    fixed: Bool[Array, "W"]
    token: Int32[Array, "W"]  # where fixed


Shape = tuple[int, int, int, int]  # S, C, P, M


def shape_of(grammar: Any) -> Shape:
    """The sizes that a grammar's arrays are padded to: from these, and no others, a program is compiled.

    Powers of two from 16 on, so that other grammars of about the size run in the same program."""
    side = lambda n: max(16, 1 << (int(n) - 1).bit_length())  # noqa: E731
    arcs = grammar.arcs
    return side(grammar.next.shape[0]), side(grammar.next.shape[1]), side(arcs.source.size), side(arcs.symbol.size)


def blank(vocab: int, shape: Shape, rows: tuple[int, ...]) -> Automaton:
    """Arrays for the grammars of so many rows, all of them dead."""
    (states, symbols, pairs, members), zero = shape, lambda *size: np.zeros((*rows, *size), np.int32)
    empty = np.zeros((*rows, states), bool)
    return Automaton(
        zero(vocab), zero(symbols).astype(np.float32), zero(states, symbols), empty, zero(states) + 2**30, zero(pairs),
        zero(pairs), zero(pairs), zero(members), zero(members), zero(), zero(), zero(), zero(), empty.copy(),
    )  # fmt: skip


def pack(
    grammars: Sequence[Any], shape: Shape, first: Int32[np.ndarray, "B"], last: Int32[np.ndarray, "B"]
) -> Automaton:
    """The grammars of the rows (`jaxdlm.grammar.Grammar`), as arrays with a leading axis, before the first column."""
    states, symbols, *sizes = shape
    parts = []
    for grammar in grammars:
        own, arcs = grammar.tables((states, symbols)), grammar.arcs
        fill = lambda x, size: np.pad(x, (0, size - len(x))).astype(np.int32)  # noqa: E731
        pair, member = (functools.partial(fill, size=size) for size in sizes)
        parts.append(
            Automaton(
                classes=own.classes.astype(np.int32), next=own.next.astype(np.int32), accepting=own.accepting,
                sizes=np.bincount(own.classes, minlength=symbols).astype(np.float32),
                distance=own.distance.astype(np.int32), source=pair(arcs.source), target=pair(arcs.target),
                group=pair(arcs.group), member=member(arcs.member), symbol=member(arcs.symbol), start=own.state,
                first=np.int32(0), last=np.int32(0), state=own.state, end=own.accepting,
            )
        )  # fmt: skip
    packed = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    return packed._replace(first=np.asarray(first, np.int32), last=np.asarray(last, np.int32))


# ------------------------------------------------------------------------------------------------ one row, one window


def with_fixed(scores: Float32[Array, "W C"], columns: Columns, automaton: Automaton) -> Float32[Array, "W C"]:
    """The scores of the classes, with certainty where a column is fixed."""
    symbol = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    own = automaton.classes[columns.token][:, None] == symbol
    return jnp.where(columns.fixed[:, None], jnp.where(own, 0.0, NEG), scores)


def segment_logsumexp(values: Float32[Array, "E"], ids: Int32[Array, "E"], count: int) -> Float32[Array, "S"]:
    """log of the sum of exp(values) of each segment; NEG for none."""
    top = jnp.maximum(jax.ops.segment_max(values, ids, count), NEG)
    total = jax.ops.segment_sum(jnp.exp(values - top[ids]), ids, count)
    return jnp.where(top > NEG / 2, top + jnp.log(jnp.maximum(total, 1e-38)), NEG)


def segment_best(values: Float32[Array, "E"], ids: Int32[Array, "E"], count: int) -> Float32[Array, "S"]:
    """The largest of the values of each segment; NEG for none."""
    return jnp.maximum(jax.ops.segment_max(values, ids, count), NEG)


def _alive(automaton: Automaton) -> Bool[Array, "P"]:
    return automaton.target > 0  # dead pairs fill the arrays up


def _members(automaton: Automaton) -> Bool[Array, "1 M"]:
    return automaton.symbol[None, :] > 0  # so do members of class 0, which leads nowhere


def of_groups(scores: Float32[Array, "W C"], automaton: Automaton, fold: Any) -> Float32[Array, "W M"]:
    """The scores of the groups of classes, by `fold` over their members: once for all pairs of states that a group joins."""
    own = jnp.where(_members(automaton), scores[:, automaton.symbol], NEG)
    return jax.vmap(lambda values: fold(values, automaton.member, automaton.member.shape[0]))(own)


def backward(scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton, fold: Any) -> Array:
    """float32[W + 1, S]: from each state at the left edge of each column, all that may follow, by `fold`."""
    alive, count = _alive(automaton), automaton.next.shape[0]

    def step(after: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        score, real = column
        values = jnp.where(alive, score[automaton.group] + after[automaton.target], NEG)
        before = jnp.where(real, fold(jnp.maximum(values, NEG), automaton.source, count), after)
        return before, before

    end = jnp.where(automaton.end, 0.0, NEG)
    _, rest = jax.lax.scan(step, end, (of_groups(scores, automaton, fold), inside), reverse=True)
    return jnp.concatenate([rest, end[None]])


def forward(scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton) -> Array:
    """float32[W, S]: log of the sum over all paths from the row's state to each state, at the left edge of a column."""
    alive, count = _alive(automaton), automaton.next.shape[0]

    def step(before: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        score, real = column
        values = jnp.where(alive, before[automaton.source] + score[automaton.group], NEG)
        after = jnp.where(real, segment_logsumexp(jnp.maximum(values, NEG), automaton.target, count), before)
        return after, before

    start = jnp.where(jnp.arange(count, dtype=jnp.int32) == automaton.state, 0.0, NEG)
    return jax.lax.scan(step, start, (of_groups(scores, automaton, segment_logsumexp), inside))[1]


def walk(
    scores: Float32[Array, "W C"], inside: Bool[Array, "W"], rest: Float32[Array, "1_W S"], automaton: Automaton
) -> Int32[Array, "W"]:
    """The classes of the best path from the row's state, column by column: argmax_c scores[c] + rest[next[s, c]].

    Ties: the lowest class. With noise in the scores and sums in `rest` it is a draw from Q.
    """

    def step(state: Array, column: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        score, real, after = column
        following = automaton.next[state]
        value = jnp.where(following > 0, score + after[following], 2 * NEG)
        symbol = jax.lax.argmax(value, 0, jnp.int32)
        return jnp.where(real, following[symbol], state), symbol

    return jax.lax.scan(step, automaton.state, (scores, inside, rest[1:]))[1]


def marginals(
    scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton, rest: Float32[Array, "1_W S"]
) -> Float32[Array, "W C"]:
    """log Q(column j is of class c), NEG where a class is impossible; rest: `backward` of the same scores by sums, whose
    number at the row's state is log Z."""
    before = forward(scores, inside, automaton)
    total = rest[0, automaton.state]
    alive, count = _alive(automaton), automaton.next.shape[1]

    def one(before: Array, after: Array) -> Array:
        values = jnp.where(alive, before[automaton.source] + after[automaton.target], NEG)
        return segment_logsumexp(jnp.maximum(values, NEG), automaton.group, automaton.member.shape[0])

    groups = jax.lax.map(lambda x: one(*x), (before, rest[1:]))
    own = jnp.where(_members(automaton), groups[:, automaton.member], NEG)
    joint = scores + jax.vmap(lambda values: segment_logsumexp(values, automaton.symbol, count))(own)
    return jnp.where(joint > NEG / 2, joint - total, NEG)


def most(
    wanted: Int32[Array, "W C"], scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton
) -> tuple[Int32[Array, "W"], Bool[Array, ""]]:
    """(the classes of the path that collects most of `wanted`, of these the one with the largest score; whether there is
    a path at all). Two numbers are compared one after the other, as their sum would round the smaller one away."""
    alive, count = _alive(automaton), automaton.next.shape[0]
    none, groups = jnp.int32(-(2**30)), automaton.member.shape[0]
    fine = _members(automaton) & (scores[:, automaton.symbol] > NEG / 2)
    number = jnp.where(fine, wanted[:, automaton.symbol], none)
    largest = jax.vmap(lambda values: jax.ops.segment_max(values, automaton.member, groups))
    numbers = jnp.maximum(largest(number), none)
    value = jnp.where(fine & (number == numbers[:, automaton.member]), scores[:, automaton.symbol], NEG)
    values = jnp.maximum(largest(value), NEG)

    def step(after: tuple[Array, Array], column: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        want, score, real = column
        number = jnp.where(alive, want[automaton.group] + after[0][automaton.target], none)
        best = jnp.maximum(jax.ops.segment_max(number, automaton.source, count), none)
        value = jnp.where(number == best[automaton.source], score[automaton.group] + after[1][automaton.target], NEG)
        value = segment_best(value, automaton.source, count)
        before = jnp.where(real, best, after[0]), jnp.where(real, value, after[1])
        return before, after

    end = jnp.where(automaton.end, 0, none), jnp.where(automaton.end, 0.0, NEG)
    left, after = jax.lax.scan(step, end, (numbers, values, inside), reverse=True)

    def follow(state: Array, column: tuple[Array, ...]) -> tuple[Array, Array]:
        want, score, real, numbers, values = column
        following = automaton.next[state]
        fine = (following > 0) & (score > NEG / 2)
        number = jnp.where(fine, want + numbers[following], none)
        value = jnp.where(fine & (number == jnp.max(number)), score + values[following], 2 * NEG)
        symbol = jax.lax.argmax(value, 0, jnp.int32)
        return jnp.where(real, following[symbol], state), symbol

    symbols = jax.lax.scan(follow, automaton.state, (wanted, scores, inside, *after))[1]
    return symbols, left[0][automaton.state] >= 0


# ------------------------------------------------------------------------------------- where rows stand in their text


def enter(rows: Rows, geometry: Geometry) -> Rows:
    """The rows with their automata at the edges of their blocks."""
    if not isinstance(rows.grammar, Automaton):
        return rows
    state, end = _edges(rows, geometry)
    return rows._replace(grammar=rows.grammar._replace(state=state, end=end))


def follow(rows: Rows, before: Int32[Array, "B"], geometry: Geometry) -> Rows:
    """The rows, with their automata moved on where they began another block since `before`."""
    if not isinstance(rows.grammar, Automaton):
        return rows
    moved = jnp.any((rows.block != before) & ~rows.done)
    here = rows.grammar.state, rows.grammar.end
    state, end = jax.lax.cond(moved, lambda: _edges(rows, geometry), lambda: here)
    return rows._replace(grammar=rows.grammar._replace(state=state, end=end))


def _edges(rows: Rows, geometry: Geometry) -> tuple[Int32[Array, "B"], Bool[Array, "B S"]]:
    """(the state in front of each row's block, the states behind it that can be completed)."""
    automaton = rows.grammar
    assert isinstance(automaton, Automaton)
    edge = rows.block * geometry.block
    tokens, pending = rows.tokens[:, geometry.prompt :], rows.pending[:, geometry.prompt :]
    right = edge + geometry.block
    column = jnp.arange(geometry.canvas, dtype=jnp.int32)[None, :]
    text = (column >= jnp.maximum(right, automaton.first)[:, None]) & (column < automaton.last[:, None])
    end = jax.lax.cond(
        jnp.any(text & ~pending),
        lambda: jax.vmap(_completed)(tokens, pending, text, automaton),
        lambda: jax.vmap(_near)(right, automaton),
    )
    return jax.vmap(_reached)(tokens, edge, automaton), end


def _reached(tokens: Int32[Array, "C"], edge: Array, automaton: Automaton) -> Int32[Array, ""]:
    """The state in front of column `edge`."""
    column = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    inside = (column >= automaton.first) & (column < jnp.minimum(edge, automaton.last))
    step = lambda s, x: (jnp.where(x[1], automaton.next[s, x[0]], s), None)  # noqa: E731
    return jax.lax.scan(step, automaton.start, (automaton.classes[tokens], inside))[0]


def _near(right: Int32[Array, ""], automaton: Automaton) -> Bool[Array, "S"]:
    """States from which the open columns behind `right` are enough for an end."""
    return automaton.distance <= jnp.maximum(automaton.last - right, 0)


def _completed(tokens: Array, pending: Array, text: Array, automaton: Automaton) -> Bool[Array, "S"]:
    """States from which the columns of `text`, some of them pinned, can be completed."""
    symbols = jnp.where(pending, -1, automaton.classes[tokens])

    def step(after: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        symbol, real = column
        fits = (automaton.symbol > 0) & ((symbol < 0) | (automaton.symbol == symbol))
        fits = jax.ops.segment_max(fits.astype(jnp.int32), automaton.member, fits.shape[0]) > 0
        can = _alive(automaton) & fits[automaton.group] & after[automaton.target]
        before = jax.ops.segment_max(can.astype(jnp.int32), automaton.source, after.shape[0]) > 0
        return jnp.where(real, before, after), None

    return jax.lax.scan(step, automaton.accepting, (symbols, text), reverse=True)[0]
