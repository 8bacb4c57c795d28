"""The law of the columns of a step by classes of tokens, read off the logits and written into them: what passes over the
vocabulary there is under a grammar (`jaxdlm.core.automaton`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.automaton import NEG
from jaxdlm.core.carry import Automaton
from jaxdlm.core.temperature import below, scale_logits
from jaxdlm.typing import Array, Bool, Float32, Int32

TILE = 2048  # tokens of one product
IMPOSSIBLE = -1e6  # stands for NEG where products are formed
LEAST = float(np.finfo(np.float32).min)
FLOOR = -60.0  # of log-probabilities: a filter or underflow must not remove the only token that the language allows


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


def law_behind(law: Law, logits: Float32[Array, "W V"], share: Float32[Array, "W C"], use: Bool[Array, "W"]) -> Law:
    """The law that `tilted` has written into the logits: what it was, and in the columns of `use` the shares of the classes."""
    top, total = (jnp.where(use, 0.0, each) for each in (law.top, law.total))
    return Law(logits, law.divisor, top, total, jnp.where(use[:, None], share, law.sums))


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


def token_of(logits: Float32[Array, "W V"], symbols: Int32[Array, "W"], automaton: Automaton) -> Int32[Array, "W"]:
    """The likeliest token of a class in each column; ties: the lowest id."""
    own = automaton.classes[None, :] == symbols[:, None]
    return jax.lax.argmax(jnp.where(own, jnp.maximum(logits, LEAST), -jnp.inf), 1, jnp.int32)


def token_in(
    logits: Float32[Array, "W V"], symbols: Int32[Array, "W"], column: Int32[Array, ""], automaton: Automaton
) -> Int32[Array, "W"]:
    """`token_of` in one column, which alone is read; 0 in the others."""
    token = token_of(logits[column][None], symbols[column][None], automaton)[0]
    return jnp.where(jnp.arange(symbols.shape[0]) == column, token, 0)
