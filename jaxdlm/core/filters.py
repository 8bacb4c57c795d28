"""Filters of a distribution: logits l in, the same with -inf at tokens that shall not be drawn. Ties go to the lowest id.

A number is a scalar or [W, 1], one for each row of logits; its neutral value keeps every bit of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import argument
from jaxdlm.core.temperature import below
from jaxdlm.typing import Array, Bool, Float32, UInt32


def nucleus(logits: Float32[Array, "W V"], top_p: Any) -> Float32[Array, "W V"]:
    """Keeps the smallest set of best tokens whose probability exceeds top_p, the one that crosses it included; from 1 on
    all (arXiv 1904.09751)."""
    p = jax.nn.softmax(logits, axis=1)
    keep = _best(logits, p, lambda mass: mass > top_p)
    return jnp.where(keep | (jnp.asarray(top_p) >= 1), logits, -jnp.inf)


def highest(logits: Float32[Array, "W V"], top_k: Any) -> Float32[Array, "W V"]:
    """Keeps the top_k best tokens; top_k <= 0: all."""
    keep = _best(logits, jnp.ones(logits.shape, jnp.int32), lambda count: count >= top_k)
    return jnp.where(keep | (jnp.asarray(top_k) <= 0), logits, -jnp.inf)


def likely(logits: Float32[Array, "W V"], min_p: Any) -> Float32[Array, "W V"]:
    """Keeps tokens of at least min_p times the best token's probability; 0: all (min-p, arXiv 2407.01082)."""
    return jnp.where(jnp.exp(below(logits, jnp.max(logits, axis=1))) >= min_p, logits, -jnp.inf)


def typical(logits: Float32[Array, "W V"], typical_p: Any) -> Float32[Array, "W V"]:
    """Keeps the tokens whose surprise -log p is nearest to the entropy, until their probability reaches typical_p, and
    those that are as near as the last of them; from 1 on all (locally typical, arXiv 2202.00666)."""
    logp = jax.nn.log_softmax(logits, axis=1)
    p = jnp.exp(logp)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, logp, 0.0), 0.0), axis=1, keepdims=True)
    near = -jnp.abs(-logp - entropy)
    bar = _bar(_keys(near), p, lambda mass: mass >= typical_p)
    return jnp.where((_keys(near) >= bar) | (jnp.asarray(typical_p) >= 1), logits, -jnp.inf)


def _best(values: Float32[Array, "W V"], weight: Array, reached: Callable[[Array], Array]) -> Bool[Array, "W V"]:
    """The fewest tokens, best values first and of equals the lowest ids, whose weights together have `reached`."""
    keys = _keys(values)
    bar = _bar(keys, weight, reached)
    above, level = keys > bar, keys == bar
    before = jnp.sum(jnp.where(above, weight, 0), axis=1, keepdims=True)
    own = jnp.where(level, weight, 0)
    rank = jnp.cumsum(level, axis=1, dtype=own.dtype) - level.astype(
        own.dtype
    )  # of equals, whose weights are equal too
    return above | (level & ~reached(before + rank * jnp.max(own, axis=1, keepdims=True)))


def _bar(keys: UInt32[Array, "W V"], weight: Array, reached: Callable[[Array], Array]) -> UInt32[Array, "W 1"]:
    """The greatest key such that the weights of those at least as great have `reached`, 0 where none is, bit by bit.

    32 sums over the vocabulary: a sort, and the way back from it, took ten times as long on a CPU.
    """

    def narrower(step: Array, bar: Array) -> Array:
        higher = bar | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where(reached(jnp.sum(jnp.where(keys >= higher, weight, 0), axis=1, keepdims=True)), higher, bar)

    return jax.lax.fori_loop(0, 32, narrower, jnp.zeros((keys.shape[0], 1), jnp.uint32))


def _keys(values: Float32[Array, "W V"]) -> UInt32[Array, "W V"]:
    """Whole numbers in the order of the values."""
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)  # one zero
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


LEAST = 1e-6  # of typical_p: a set of no probability is no set


def checked_filters(**numbers: Any) -> dict[str, Any]:
    """The numbers of filters by name, each of its range or None. Raises InputError."""
    return {name: FILTERS[name](value, name, none=True) for name, value in numbers.items()}


def _count(value: Any, name: str, none: bool = False) -> Any:
    return argument.number(value, name, low=0, whole=True, none=none)


def _mass(value: Any, name: str, none: bool = False) -> Any:
    return argument.number(value, name, low=LEAST, high=1, none=none)


# names -> checks; in the order in which `transformers` applies them
FILTERS: dict[str, Any] = {
    "top_k": _count, "top_p": argument.probability, "min_p": argument.probability, "typical_p": _mass,
}  # fmt: skip
NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # keep everything
