"""What a draft head reads of an image: the pairs at its embeddings, by one of five ways fewer (SpecVLM, arXiv 2509.11815).

The target reads every embedding, so that no way changes the text; the draft's keys are fewer, and its text stands nearer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.models.layers import product, read
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key

BRANCHES = ("prune", "pool", "conv", "resample", "text")
FACTOR, STRIDE, QUERIES = 20, 3, 2
NEEDS = {"conv": ("conv", "conv_bias"), "resample": ("queries", "seek", "keys", "values", "out")}
GATE = ("choice", "choice_bias")
LEAVES = (*NEEDS["conv"], *NEEDS["resample"], *GATE)


class Visual(NamedTuple):
    """The embeddings that prompts begin with, and how many there are of each row."""

    embeddings: Float[Array, "B P D"]
    count: Int32[Array, "B"]


class Gap(NamedTuple):
    """Columns from `begin` to `end` of each row that the draft's keys leave out; what stands behind is nearer by as many."""

    begin: Int32[Array, "B"]
    end: Int32[Array, "B"]

    def hides(self, column: Int32[Array, "... T"]) -> Bool[Array, "B T"]:
        return (column >= self.begin[:, None]) & (column < self.end[:, None])

    def nearer(self, position: Int32[Array, "B T"]) -> Int32[Array, "B T"]:
        """Positions of columns without those that are left out; of these it means nothing."""
        return position - jnp.where(position >= self.end[:, None], (self.end - self.begin)[:, None], 0)


class Short(NamedTuple):
    """What is left: the first `count` of x."""

    x: Float[Array, "B C D"]
    count: Int32[Array, "B"]


@struct.dataclass
class Compressor:
    """One of `BRANCHES`, by its number; or, with that of none, the one that `gate` says of each row's question."""

    number: Any = struct.field(default=len(BRANCHES))

    def of(
        self, leaves: Mapping[str, Array], x: Float[Array, "B P D"], count: Int32[Array, "B"], key: Key[Array, "B"],
        question: Float[Array, "B D"], noise: Float32[Array, "B N"] | None = None,
    ) -> Short:  # fmt: skip
        """noise: on the gate's logits, in training: the choice then passes its gradient on as softmax would."""
        names = [name for name in BRANCHES if all(leaf in leaves for leaf in NEEDS.get(name, ()))]
        shorts, weight = (
            [made(name, leaves, x, count, key) for name in names],
            self.weights(names, leaves, question, noise),
        )
        size = max(short.x.shape[1] for short in shorts)
        every = jnp.stack(
            [jnp.pad(short.x, [(0, 0), (0, size - short.x.shape[1]), (0, 0)]) for short in shorts], axis=1
        )
        counts = jnp.stack([short.count for short in shorts], axis=1)
        chosen = jnp.argmax(weight, axis=1)[:, None]
        mixed = jnp.einsum("bn,bncd->bcd", weight.astype(x.dtype), every)
        return Short(mixed, jnp.take_along_axis(counts, chosen, axis=1)[:, 0])

    def weights(
        self, names: list[str], leaves: Mapping[str, Array], question: Float[Array, "B D"], noise: Array | None
    ) -> Float32[Array, "B N"]:
        """1 for the way that each row goes."""
        place = jnp.asarray([BRANCHES.index(name) for name in names], jnp.int32)
        stated = jnp.broadcast_to((place == self.number).astype(jnp.float32)[None], (question.shape[0], len(names)))
        if not all(leaf in leaves for leaf in (*LEAVES,)):
            return stated
        logits = gate(leaves, question)
        hard = jax.nn.one_hot(
            jnp.argmax(logits if noise is None else logits + noise, axis=1), len(names), dtype=jnp.float32
        )
        if noise is not None:
            soft = jax.nn.softmax(logits + noise)
            hard = hard + soft - jax.lax.stop_gradient(soft)
        return jnp.where(jnp.asarray(self.number, jnp.int32) < len(BRANCHES), stated, hard)


def gate(leaves: Mapping[str, Array], question: Float[Array, "B D"]) -> Float32[Array, "B N"]:
    """How well each of the ways suits a question."""
    weight, bias = leaves["choice"].astype(jnp.float32), leaves["choice_bias"].astype(jnp.float32)
    return question.astype(jnp.float32) @ weight + bias[None]


def made(
    name: str, leaves: Mapping[str, Array], x: Float[Array, "B P D"], count: Int32[Array, "B"], key: Key[Array, "B"]
) -> Short:
    """x by one of the ways."""
    if name == "prune":
        return prune(x, count, key)
    if name == "pool":
        return pool(x, count)
    if name == "conv":
        return conv(x, count, leaves["conv"], leaves["conv_bias"])
    if name == "resample":
        return resample(x, count, *(leaves[leaf] for leaf in NEEDS["resample"]))
    return Short(x[:, :0], jnp.zeros_like(count))


def prune(x: Float[Array, "B P D"], count: Int32[Array, "B"], key: Key[Array, "B"]) -> Short:
    """One in 20 at random, in their order."""
    columns = x.shape[1]
    size, left = -(-columns // FACTOR), -(-count // FACTOR)
    column = jnp.arange(columns, dtype=jnp.int32)[None, :]
    score = jax.vmap(lambda key: jax.random.uniform(key, (columns,), jnp.float32))(key)
    _, index = jax.lax.top_k(jnp.where(column < count[:, None], score, -1.0), size)
    index = jnp.where(jnp.arange(size, dtype=jnp.int32)[None, :] < left[:, None], index, columns)
    index = jnp.minimum(jnp.sort(index, axis=1), columns - 1)
    return Short(jnp.take_along_axis(x, index[:, :, None], axis=1), left)


def pool(x: Float[Array, "B P D"], count: Int32[Array, "B"]) -> Short:
    """Means of 20 each, the last of what is left."""
    runs, there = _runs(x, count, FACTOR)
    total = jnp.sum(runs, axis=2) / jnp.maximum(jnp.sum(there, axis=2), 1)[:, :, None].astype(x.dtype)
    return Short(total, -(-count // FACTOR))


def conv(x: Float[Array, "B P D"], count: Int32[Array, "B"], weight: Array, bias: Array) -> Short:
    """A convolution of kernel and stride 3 behind which the image ends in zeros."""
    runs, _ = _runs(x, count, STRIDE)
    return Short(
        product("bckd,kde->bce", runs, read(weight, x.dtype)) + bias.astype(x.dtype)[None, None], -(-count // STRIDE)
    )


def resample(
    x: Float[Array, "B P D"],
    count: Int32[Array, "B"],
    queries: Array,
    seek: Array,
    keys: Array,
    values: Array,
    out: Array,
) -> Short:
    """Two trained queries, which each attend to all."""
    q, k, v = queries.T.astype(x.dtype) @ read(seek, x.dtype), x @ read(keys, x.dtype), x @ read(values, x.dtype)
    score = jnp.einsum("qd,bpd->bqp", q, k).astype(jnp.float32) / jnp.sqrt(jnp.float32(x.shape[2]))
    there = jnp.arange(x.shape[1], dtype=jnp.int32)[None, None, :] < count[:, None, None]
    share = jax.nn.softmax(jnp.where(there, score, -1e30), axis=2).astype(x.dtype)
    return Short(jnp.einsum("bqp,bpd->bqd", share, v) @ read(out, x.dtype), jnp.where(count > 0, queries.shape[1], 0))


def _runs(x: Array, count: Array, length: int) -> tuple[Float[Array, "B C K D"], Bool[Array, "B C K"]]:
    """(x in runs of this length, zeros behind the end; what is there of each)."""
    there = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :] < count[:, None]
    missing = -x.shape[1] % length
    x = jnp.pad(jnp.where(there[:, :, None], x, 0), [(0, 0), (0, missing), (0, 0)])
    there = jnp.pad(there, [(0, 0), (0, missing)])
    return x.reshape(x.shape[0], -1, length, x.shape[2]), there.reshape(x.shape[0], -1, length)
