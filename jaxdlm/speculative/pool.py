"""More prompts than slots: rows that are done make room for the next prompts. The loop itself does not change."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.carry import Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import KV, Model
from jaxdlm.speculative import loop
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Int32, PyTree


def generate_pool(
    rows: Rows, model: Model, params: PyTree, policy: Speculation, prompt: int, max_new: int, save: str
) -> tuple[Rows, Trace]:
    """Rows and trace of all N prompts, decoded `policy.slots` at a time.

    The device runs until a quarter of the slots are done, then the host reads those rows out and puts the next prompts
    in their place; only they are prefilled. Any rows may share a batch, so nothing is sorted or grouped.
    """
    total, slots = rows.done.shape[0], policy.slots
    turn = max(1, slots // 4)  # rows that are replaced at once
    sizes = {"model": model, "prompt": prompt, "max_new": max_new, "save": save}
    carry, owner, fresh = _begin(_take(rows, np.arange(slots)), params, policy, **sizes), np.arange(slots), slots
    finished: list[Any] = [None] * total
    while (owner >= 0).any():
        waiting = fresh < total
        carry = _advance(carry, params, policy, jnp.int32(turn if waiting else slots), jnp.asarray(owner >= 0), model)
        out = jax.device_get((carry.rows._replace(key=(), guide=()), carry.trace))
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
            carry = _admit(carry, batch, jnp.asarray(place, jnp.int32), params, policy, **sizes)
            owner[free[: len(new)]] = new
            fresh += len(new)
    return jax.tree.map(lambda *x: np.stack(x), *finished)


def _take(rows: Rows, index: np.ndarray) -> Rows:
    return jax.tree.map(lambda x: x[jnp.asarray(index)], rows)


_SIZES = ("model", "prompt", "max_new", "save")


@compiled(static_argnames=_SIZES)
def _begin(rows: Rows, params: PyTree, policy: Speculation, *, model: Model, **sizes: Any) -> Carry:
    return loop.init(rows, model=model, params=params, policy=policy, **sizes)


@compiled(static_argnames=("model",))
def _advance(
    carry: Carry, params: PyTree, policy: Speculation, enough: Int32[Array, ""], owned: Bool[Array, "B"], model: Model
) -> Carry:
    """Rounds until `enough` slots are done; slots without an owner count as done from the start."""
    rows = carry.rows
    carry = carry._replace(rows=rows._replace(done=rows.done | ~owned))

    def live(c: Carry) -> Bool[Array, ""]:
        ended = jnp.sum(c.rows.done & owned, dtype=jnp.int32)
        return (ended < enough) & jnp.any(~c.rows.done)

    fixed = {"model": model, "params": params, "policy": policy}
    return jax.lax.while_loop(live, functools.partial(loop.step, **fixed), carry)


@compiled(static_argnames=_SIZES)
def _admit(
    carry: Carry,
    rows: Rows,
    slot: Int32[Array, "F"],
    params: PyTree,
    policy: Speculation,
    *,
    model: Model,
    **sizes: Any,
) -> Carry:
    """The carry with new rows, prefilled, in these slots; slots out of range take nothing."""
    new = loop.init(rows, model=model, params=params, policy=policy, **sizes)

    def place(old: Any, part: Any) -> Any:
        if isinstance(old, KV):  # layers come before rows
            return jax.tree.map(lambda a, b: a.at[:, slot].set(b, mode="drop"), old, part)
        return old.at[slot].set(part, mode="drop")

    parts = (carry.rows, carry.kv, carry.drafter, carry.trace)
    fresh = (new.rows, new.kv, new.drafter, new.trace)
    rows, kv, drafter, trace = jax.tree.map(place, parts, fresh, is_leaf=lambda x: isinstance(x, KV))
    return Carry(rows, kv, drafter, trace, carry.loops)
