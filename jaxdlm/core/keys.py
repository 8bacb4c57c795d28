"""Randomness that depends on the row's own id, step and columns, never on its place in a batch (counter-based)."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from jaxdlm.typing import Array, Float32, Int32, Key


@jax.jit
def row_keys(seed: Int32[Array, "B"], ids: Int32[Array, "B"]) -> Key[Array, "B"]:
    """key_b = fold_in(key(seed_b), id_b)."""
    return jax.vmap(lambda s, i: jax.random.fold_in(jax.random.key(s), i))(seed, ids)


SAMPLE = 2**31 - 1  # no column and no step has this number


class Group(NamedTuple):
    """Rows of one prompt: the key that they would all have, and which of its samples each is."""

    key: Key[Array, "B"]
    sample: Int32[Array, "B"]


def sampled(rows: Any, sample: Int32[Array, "B"]) -> Any:
    """The rows as the i-th samples of their prompts, each with the key of its own."""
    return rows._replace(key=sample_keys(rows.key, sample), group=Group(rows.key, sample))


def sample_keys(keys: Key[Array, "B"], sample: Int32[Array, "B"]) -> Key[Array, "B"]:
    """The key of each row's i-th sample: its own for i = 0, fold_in(fold_in(key, 2^31 - 1), i) for the others."""
    further = jax.vmap(lambda key, i: jax.random.fold_in(jax.random.fold_in(key, SAMPLE), i))(keys, sample)
    return jnp.where(sample == 0, keys, further)


def randomness_key(identity: Any) -> int:
    """uint32 of an id: whole numbers of 32 bits are themselves, as in `decode(ids=...)`; others by SHA-256."""
    if isinstance(identity, int) and -(2**31) <= identity < 2**32:
        return identity & 0xFFFFFFFF
    return int.from_bytes(hashlib.sha256(str(identity).encode("utf-8", "surrogatepass")).digest()[:4], "little")


def column_gumbel(
    key: Key[Array, ""], position: Int32[Array, "W"], vocab: int | Int32[Array, "V"]
) -> Float32[Array, "W V"]:
    """Standard Gumbel noise of the ids 0..vocab-1, or of an array of ids: each a hash of key, true position and id.

    Independent of window, bucket, cache, and of which other ids are asked for in the same call, so that a pass over
    tiles of the vocabulary draws the same noise as one over all of it. -log(-log1p(-u)) with 46 bits of u below 1/2: a
    uniform of 23 bits truncates the upper tail, which biases low-temperature sampling (arXiv 2409.02908).
    """
    ids = jnp.arange(vocab, dtype=jnp.uint32) if isinstance(vocab, int) else vocab.astype(jnp.uint32)

    def draw(position: Array) -> Array:
        words = jax.random.key_data(jax.random.fold_in(key, position))
        return threefry2x32_p.bind(words[0], words[1], jnp.zeros_like(ids), ids)

    high, low = (_unit(bits) for bits in jax.vmap(draw)(position))
    tiny = jnp.finfo(jnp.float32).tiny
    u = jnp.where(high >= 0.5, high, high + 2**-23 * low + tiny)
    return -jnp.log(-jnp.log1p(-u))


def _unit(bits: Array) -> Float32[Array, "..."]:
    """The upper 23 of 32 random bits as a number in [0, 1)."""
    return (bits >> 9).astype(jnp.int32).astype(jnp.float32) * jnp.float32(2**-23)


def column_uniform(key: Key[Array, ""], position: Int32[Array, "W"]) -> Float32[Array, "W"]:
    """Uniform [0, 1) noise, one number per column keyed by its true position."""
    return jax.vmap(lambda p: jax.random.uniform(jax.random.fold_in(key, p), (), jnp.float32))(position)


def column_integer(key: Key[Array, ""], position: Int32[Array, "W"], below: int) -> Int32[Array, "W"]:
    """Uniform numbers 0 .. below - 1, one per column keyed by its true position."""
    return jax.vmap(lambda p: jax.random.randint(jax.random.fold_in(key, p), (), 0, below, jnp.int32))(position)
