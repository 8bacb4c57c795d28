"""A regular language on a canvas: which tokens the open columns may take so that the whole text belongs to it.

The text of a row is its columns `first` .. `last`, written ones and open ones. With the log-probabilities l_j(v) of the
open columns the law is the product of the columns on condition that the text belongs to the language L,

    Q(x) = 1[x in L] prod_j p_j(x_j) / Z,

and everything here is a sum or a maximum over the paths of the language's automaton: one pass over the columns from
the right (`backward`), one from the left (`forward`), each with one number per state.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.carry import Automaton, Geometry, Rows
from jaxdlm.core.temperature import below, scale_logits
from jaxdlm.typing import Array, Bool, Float32, Int32

NEG = -1e30  # a logarithm of nothing that may be added up without overflow; what lies above NEG / 2 is possible
TILE = 2048  # tokens of one product
IMPOSSIBLE = -1e6  # stands for NEG where products are formed
LEAST = float(np.finfo(np.float32).min)
FLOOR = -60.0  # of log-probabilities: a filter or underflow must not remove the only token that the language allows


class Columns(NamedTuple):
    """The columns of a window as the language sees them. What is neither fixed nor open is no part of the text."""

    open: Bool[Array, "W"]
    fixed: Bool[Array, "W"]
    token: Int32[Array, "W"]  # where fixed


Shape = tuple[int, int, int]  # S, C, E


def shape_of(automaton: Any) -> Shape:
    """The sizes that a grammar's arrays are padded to: from these, and no others, a program is compiled.

    Powers of two from 16 on, so that other grammars of about the size run in the same program."""
    side = lambda n: max(16, 1 << (int(n) - 1).bit_length())  # noqa: E731
    return side(automaton.next.shape[0]), side(automaton.next.shape[1]), side(np.count_nonzero(automaton.next))


def blank(vocab: int, shape: Shape, rows: tuple[int, ...]) -> Automaton:
    """Arrays for the grammars of so many rows, all of them dead."""
    (states, symbols, edges), zero = shape, lambda *size: np.zeros((*rows, *size), np.int32)
    empty = np.zeros((*rows, states), bool)
    return Automaton(
        zero(vocab), zero(symbols).astype(np.float32), zero(states, symbols), empty, zero(states) + 2**30, zero(edges),
        zero(edges), zero(edges), zero(), zero(), zero(), zero(), empty.copy(),
    )  # fmt: skip


def pack(
    grammars: Sequence[Any], shape: Shape, first: Int32[np.ndarray, "B"], last: Int32[np.ndarray, "B"]
) -> Automaton:
    """The grammars of the rows (`jaxdlm.grammar.Grammar`), as arrays with a leading axis, before the first column."""
    states, symbols, edges = shape
    parts = []
    for grammar in grammars:
        own = grammar.tables((states, symbols))
        source, symbol = (x.astype(np.int32) for x in np.nonzero(own.next))
        edge = lambda x: np.pad(x, (0, edges - len(source))).astype(np.int32)  # noqa: E731
        parts.append(
            Automaton(
                classes=own.classes.astype(np.int32), next=own.next.astype(np.int32), accepting=own.accepting,
                sizes=np.bincount(own.classes, minlength=symbols).astype(np.float32),
                distance=own.distance.astype(np.int32), source=edge(source), symbol=edge(symbol),
                target=edge(own.next[source, symbol]), start=own.state, first=np.int32(0), last=np.int32(0),
                state=own.state, end=own.accepting,
            )
        )  # fmt: skip
    packed = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    return packed._replace(first=np.asarray(first, np.int32), last=np.asarray(last, np.int32))


# ------------------------------------------------------------------------------------------------ one row, one window


class Law(NamedTuple):
    """log softmax(l / T) of each column, what lies below FLOOR at FLOOR; not written out, so that a forward's logits are
    read as few times as can be.

    top: max l. total: log Σ exp((l - top) / T). sums: log-probability of each class of n tokens, at least log n + FLOOR;
    NEG for classes without tokens.
    """

    logits: Float32[Array, "W V"]
    divisor: Float32[Array, ""]
    top: Float32[Array, "W"]
    total: Float32[Array, "W"]
    sums: Float32[Array, "W C"]

    def of(self, logits: Float32[Array, "W N"]) -> Float32[Array, "W N"]:
        """log p of tokens with these logits, or of all: `of(logits)`."""
        return jnp.maximum(below(logits, self.top) / self.divisor - self.total[:, None], FLOOR)


def law_of(logits: Float32[Array, "W V"], automaton: Automaton, divisor: Any = 1.0) -> Law:
    """The law of the columns, from one pass over the logits on accelerators. divisor: T."""
    divisor = jnp.asarray(divisor, jnp.float32)
    top, total, sums = jax.lax.platform_dependent(
        logits, divisor, automaton.classes, automaton.sizes, cpu=law_at_once, default=law_by_tiles
    )
    sizes = automaton.sizes[None, :]
    some = jnp.log(jnp.where(sizes > 0, sums + sizes * float(np.exp(FLOOR)), 1.0))
    return Law(logits, divisor, top, total, jnp.where(sizes > 0, some, NEG))


Parts = tuple[Float32[Array, "W"], Float32[Array, "W"], Float32[Array, "W C"]]  # top, total, Σ p of each class


def law_at_once(logits: Array, divisor: Array, classes: Array, sizes: Array) -> Parts:
    """By scattered sums, which CPUs are good at."""
    scaled = scale_logits(logits, divisor)
    total = jnp.log(jnp.sum(jnp.exp(scaled), axis=1))
    p = jnp.exp(scaled - total[:, None])
    return jnp.max(logits, axis=1), total, jax.ops.segment_sum(p.T, classes, sizes.shape[0]).T


def law_by_tiles(logits: Array, divisor: Array, classes: Array, sizes: Array) -> Parts:
    """Tile by tile, a sum over classes as a product with a one-hot matrix: what accelerators do best, in one order; sums so
    far are brought down to the best logit so far."""
    columns, count = logits.shape[0], sizes.shape[0]

    def step(carry: Parts, start: Array, new: Array) -> Parts:
        top, total, sums = carry
        tile = jax.lax.optimization_barrier(
            jnp.where(new[None, :], _cut(logits, start), -jnp.inf)
        )  # read once, not once per sum
        high = jnp.maximum(top, jnp.max(tile, axis=1))
        p = jnp.exp(below(tile, high) / divisor)
        less = jnp.exp(jnp.where(top == high, 0.0, top - high) / divisor)
        more = _by_one_hot(p, _cut(classes, start), count, 0)
        return high, total * less + jnp.sum(p, axis=1), sums * less[:, None] + more

    zero = jnp.zeros(columns, jnp.float32)
    begin = zero - jnp.inf, zero, jnp.zeros((columns, count), jnp.float32)
    top, total, sums = _over_tiles(logits.shape[1], step, begin)
    return top, jnp.log(total), sums / total[:, None]


def tilted(law: Law, gain: Float32[Array, "W C"], use: Bool[Array, "W"], automaton: Automaton) -> Float32[Array, "W V"]:
    """T (log p + gain of the token's class) in the columns of `use`, -inf where the gain is NEG; elsewhere the logits."""
    ways = {"cpu": tilted_at_once, "default": tilted_by_tiles}
    return jax.lax.platform_dependent(law, gain, use, automaton.classes, **ways)


def tilted_at_once(law: Law, gain: Array, use: Array, classes: Array) -> Float32[Array, "W V"]:
    return _tilt(law, law.logits, gain[:, classes], use)


def tilted_by_tiles(law: Law, gain: Array, use: Array, classes: Array) -> Float32[Array, "W V"]:
    """In place, tile by tile: the gains by a product with a one-hot matrix, what is impossible far below all others."""
    bounded = jnp.maximum(gain, IMPOSSIBLE)

    def step(logits: Array, start: Array, new: Array) -> Array:
        tile = jax.lax.optimization_barrier(_cut(logits, start))
        own = _by_one_hot(bounded, _cut(classes, start), gain.shape[1], 1)
        bent = _tilt(law, tile, jnp.where(own > IMPOSSIBLE / 2, own, NEG), use)
        return jax.lax.dynamic_update_slice_in_dim(logits, jnp.where(new[None, :], bent, tile), start, 1)

    return _over_tiles(law.logits.shape[1], step, law.logits)


def _tilt(law: Law, logits: Array, gain: Array, use: Array) -> Array:
    bent = jnp.where(gain > NEG / 2, law.divisor * (law.of(logits) + gain), -jnp.inf)
    return jnp.where(use[:, None], bent, logits)


def _over_tiles(vocab: int, step: Any, carry: Any) -> Any:
    """`step(carry, start, new)` for tiles of ids from 0 to the last; the last tile begins earlier than it would, so that it
    is whole, and `new` says which of its ids no tile had."""
    size = min(TILE, vocab)

    def one(tile: Array, carry: Any) -> Any:
        start = jnp.minimum(tile * size, vocab - size)
        return step(carry, start, start + jnp.arange(size, dtype=jnp.int32) >= tile * size)

    return jax.lax.fori_loop(0, -(-vocab // size), one, carry)


def _cut(x: Array, start: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, min(TILE, x.shape[-1]), x.ndim - 1)


def _by_one_hot(x: Float32[Array, "W K"], ids: Int32[Array, "T"], count: int, axis: int) -> Float32[Array, "W N"]:
    """x times the one-hot matrix [T, C] of the ids (axis 0), or times its transpose: exact, as the three parts of 8 bits
    that a float32 has are multiplied by 0 or 1 each."""
    parts, rest = [], x
    for _ in range(3):
        parts.append(rest.astype(jnp.bfloat16))
        rest = rest - parts[-1].astype(jnp.float32)
    own = (ids[:, None] == jnp.arange(count, dtype=jnp.int32)[None, :]).astype(jnp.bfloat16)
    product = jax.lax.dot_general(
        jnp.concatenate(parts), own, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32
    )
    high, middle, low = jnp.split(product, 3)
    return high + (middle + low)


def class_bests(logp: Float32[Array, "W V"], automaton: Automaton) -> Float32[Array, "W C"]:
    """log-probability of the likeliest token of each class."""
    return jnp.maximum(jax.ops.segment_max(logp.T, automaton.classes, automaton.next.shape[1]).T, NEG)


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


def _alive(automaton: Automaton) -> Bool[Array, "E"]:
    return automaton.target > 0  # dead edges fill the arrays up


def backward(scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton, fold: Any) -> Array:
    """float32[W + 1, S]: from each state at the left edge of each column, all that may follow, by `fold`."""
    alive, count = _alive(automaton), automaton.next.shape[0]

    def step(after: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        score, real = column
        values = jnp.where(alive, score[automaton.symbol] + after[automaton.target], NEG)
        before = jnp.where(real, fold(jnp.maximum(values, NEG), automaton.source, count), after)
        return before, before

    end = jnp.where(automaton.end, 0.0, NEG)
    _, rest = jax.lax.scan(step, end, (scores, inside), reverse=True)
    return jnp.concatenate([rest, end[None]])


def forward(scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton) -> Array:
    """float32[W, S]: log of the sum over all paths from the row's state to each state, at the left edge of a column."""
    alive, count = _alive(automaton), automaton.next.shape[0]

    def step(before: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        score, real = column
        values = jnp.where(alive, before[automaton.source] + score[automaton.symbol], NEG)
        after = jnp.where(real, segment_logsumexp(jnp.maximum(values, NEG), automaton.target, count), before)
        return after, before

    state = jnp.arange(count, dtype=jnp.int32)
    return jax.lax.scan(step, jnp.where(state == automaton.state, 0.0, NEG), (scores, inside))[1]


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

    def one(score: Array, before: Array, after: Array) -> Array:
        values = before[automaton.source] + score[automaton.symbol] + after[automaton.target]
        return segment_logsumexp(jnp.maximum(jnp.where(alive, values, NEG), NEG), automaton.symbol, count)

    joint = jax.lax.map(lambda x: one(*x), (scores, before, rest[1:]))
    return jnp.where(joint > NEG / 2, joint - total, NEG)


def most(
    wanted: Int32[Array, "W C"], scores: Float32[Array, "W C"], inside: Bool[Array, "W"], automaton: Automaton
) -> tuple[Int32[Array, "W"], Bool[Array, ""]]:
    """(the classes of the path that collects most of `wanted`, of these the one with the largest score; whether there is
    a path at all). Two numbers are compared one after the other, as their sum would round the smaller one away."""
    alive, count = _alive(automaton), automaton.next.shape[0]
    none = jnp.int32(-(2**30))

    def step(after: tuple[Array, Array], column: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        want, score, real = column
        number = jnp.where(alive, want[automaton.symbol] + after[0][automaton.target], none)
        number = jnp.where(score[automaton.symbol] > NEG / 2, number, none)
        best = jnp.maximum(jax.ops.segment_max(number, automaton.source, count), none)
        value = jnp.where(number == best[automaton.source], score[automaton.symbol] + after[1][automaton.target], NEG)
        value = segment_best(value, automaton.source, count)
        before = jnp.where(real, best, after[0]), jnp.where(real, value, after[1])
        return before, after

    end = jnp.where(automaton.end, 0, none), jnp.where(automaton.end, 0.0, NEG)
    left, after = jax.lax.scan(step, end, (wanted, scores, inside), reverse=True)

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


def token_of(logits: Float32[Array, "W V"], symbols: Int32[Array, "W"], automaton: Automaton) -> Int32[Array, "W"]:
    """The likeliest token of a class in each column; ties: the lowest id."""
    own = automaton.classes[None, :] == symbols[:, None]
    return jax.lax.argmax(jnp.where(own, jnp.maximum(logits, LEAST), -jnp.inf), 1, jnp.int32)


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
        can = _alive(automaton) & ((symbol < 0) | (automaton.symbol == symbol)) & after[automaton.target]
        before = jax.ops.segment_max(can.astype(jnp.int32), automaton.source, after.shape[0]) > 0
        return jnp.where(real, before, after), None

    return jax.lax.scan(step, automaton.accepting, (symbols, text), reverse=True)[0]
