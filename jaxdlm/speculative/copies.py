"""Several rows behind one prompt: it is read once, and its keys and values are copied."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.keys import sampled
from jaxdlm.core.model import KV
from jaxdlm.errors import InputError
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, PyTree


def spread(carry: Carry, count: int, streams: int) -> Carry:
    """The carry with each row `count` times, one behind the other: samples, each with a key of its own. streams: how many
    of them have keys and values of their own, `count` or 1."""
    if count == 1:
        return carry
    index = jnp.asarray(np.repeat(np.arange(carry.rows.done.shape[0]), count))
    parts = (carry.rows, carry.kv, carry.drafter, carry.trace)
    rows, kv, drafter, trace = rows_of(parts, index)
    return Carry(_keyed(rows, count), carry.kv if streams == 1 else kv, drafter, trace, carry.loops)


def expanded(rows: Rows, count: int) -> Rows:
    """The same of rows whose prompts were not read yet."""
    index = np.repeat(np.arange(rows.done.shape[0]), count)
    return _keyed(jax.tree.map(lambda leaf: leaf[jnp.asarray(index)], rows), count)


def _keyed(rows: Rows, count: int) -> Rows:
    sample = jnp.arange(rows.done.shape[0], dtype=jnp.int32) % count
    return sampled(rows, sample)


def rows_of(parts: PyTree, index: Array) -> PyTree:
    """The rows with these indices of leaves [B, ...]; keys and values have their layers before their rows."""

    def one(part: Any) -> Any:
        if isinstance(part, KV):
            return jax.tree.map(lambda leaf: leaf[:, index], part)
        return part[index]

    return jax.tree.map(one, parts, is_leaf=lambda part: isinstance(part, KV))


def several(policy: Speculation, n: int) -> Speculation:
    """The policy with n answers per prompt. Raises InputError where they would all be the same."""
    if policy.search is not None:
        if n > policy.search.width:
            raise InputError(f"n={n}: this policy finds {policy.search.width} per prompt, ask for no more")
        return dataclasses.replace(policy, search=policy.search.returning(n))
    if n > 1 and policy.warp.greedy:
        raise InputError(f"n={n}: at temperature 0 all answers are the same, raise the temperature or leave n out")
    return dataclasses.replace(policy, samples=n)


def prompts_of(size: int, samples: int) -> int:
    """Prompts of a program of so many rows."""
    if size % samples:
        raise InputError(
            f"rows_per_program={size}: the {samples} rows of a prompt share a program, use a multiple of {samples}"
        )
    return size // samples
