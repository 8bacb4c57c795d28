"""More prompts than slots: rows that are done make room for the next prompts. The loop itself does not change."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core import engine
from jaxdlm.core.carry import Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import KV
from jaxdlm.speculative import loop
from jaxdlm.speculative.decode import begin
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Int32


def generate_pool(
    rows: Rows, decoding: Decoding, prompt: int, max_new: int, save: str, shared: int = 0
) -> tuple[Rows, Trace]:
    """Rows and trace of all N prompts, decoded as many at a time as the policy has slots.

    The device runs until a quarter of the slots are done, then the host reads those rows out and puts the next prompts
    in their place; only they are prefilled. Any rows may share a batch, so nothing is sorted or grouped.
    """
    total, slots = rows.done.shape[0], decoding.policy.slots
    turn = max(1, slots // 4)  # rows that are replaced at once
    sizes = prompt, max_new, save, shared
    carry, owner, fresh = begin(_take(rows, np.arange(slots)), decoding, *sizes), np.arange(slots), slots
    finished: list[Any] = [None] * total
    while (owner >= 0).any():
        waiting = fresh < total
        carry = _advance(carry, decoding, jnp.int32(turn if waiting else slots), jnp.asarray(owner >= 0))
        out = jax.device_get((carry.rows._replace(key=(), guide=(), group=None), carry.trace))
        done = np.flatnonzero(out[0].done & (owner >= 0))
        for slot in done:
            finished[owner[slot]] = jax.tree.map(lambda x, slot=slot: x[slot].copy(), out)
        owner[done] = -1
        while fresh < total and (owner < 0).any():
            free = np.flatnonzero(owner < 0)[:turn]
            new = np.arange(fresh, min(fresh + len(free), total))
            place = np.full(turn, slots)  # out of range: no row
            place[: len(new)] = free[: len(new)]
            batch = _take(rows, np.resize(new, turn))
            carry = _admit(carry, batch, jnp.asarray(place, jnp.int32), decoding, *sizes)
            owner[free[: len(new)]] = new
            fresh += len(new)
    return jax.tree.map(lambda *x: np.stack(x), *finished)


def _take(rows: Rows, index: np.ndarray) -> Rows:
    return jax.tree.map(lambda x: x[jnp.asarray(index)], rows)


@compiled()
def _advance(carry: Carry, decoding: Decoding, enough: Int32[Array, ""], owned: Bool[Array, "B"]) -> Carry:
    """Rounds until `enough` slots are done; slots without an owner count as done from the start."""
    rows = carry.rows
    carry = carry._replace(rows=rows._replace(done=rows.done | ~owned))

    def too_few(c: Carry) -> Bool[Array, ""]:
        return jnp.sum(c.rows.done & owned, dtype=jnp.int32) < enough

    return engine.run(carry, functools.partial(loop.step, decoding=decoding), too_few)


@compiled(static_argnames=("prompt", "max_new", "save", "shared"))
def _admit(
    carry: Carry,
    rows: Rows,
    slot: Int32[Array, "F"],
    decoding: Decoding,
    prompt: int,
    max_new: int,
    save: str,
    shared: int,
) -> Carry:
    """The carry with new rows, prefilled, in these slots; slots out of range take nothing."""
    new = loop.init(rows, decoding, prompt, max_new, save, shared)

    def place(old: Any, part: Any) -> Any:
        if isinstance(old, KV):  # layers come before rows
            return jax.tree.map(lambda a, b: a.at[:, slot].set(b, mode="drop"), old, part)
        return old.at[slot].set(part, mode="drop")

    parts = (carry.rows, carry.kv, carry.drafter, carry.trace)
    fresh = (new.rows, new.kv, new.drafter, new.trace)
    rows, kv, drafter, trace = jax.tree.map(place, parts, fresh, is_leaf=lambda x: isinstance(x, KV))
    return Carry(rows, kv, drafter, trace, carry.loops)
