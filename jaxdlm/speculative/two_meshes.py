"""PEARL on two sets of devices: the draft writes on one while the target verifies on the other.

Three programs per round are dispatched without waiting. Which mode a row is in, how much was accepted and who is done
are arrays, so the host need not read them; every few rounds it asks whether all rows are done, and rounds after that
change nothing. Weights and caches stay where they are: between the sets go the chunk (with its distributions, where it
was sampled) and the rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from jaxdlm.core.carry import Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import KV, Model
from jaxdlm.errors import InputError
from jaxdlm.speculative import loop
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.drafters.pearl import Pearl, PearlState
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.state import Carry, Proposal, Rows
from jaxdlm.typing import Array, PyTree

LOOK_EVERY = 8  # rounds between two looks at who is done


def generate_on_two(
    rows: Rows, model: Model, params: PyTree, policy: Speculation, prompt: int, max_new: int, save: str,
    *, target: Sharding | Any, draft: Sharding | Any,
) -> tuple[Rows, Trace]:  # fmt: skip
    """(rows, trace) as `generate` returns them for the same PEARL policy, with target and draft on devices (or
    shardings) of their own.

    params and the draft's weights are put there first. Raises InputError for another policy.
    """
    if not isinstance(policy.drafter, Pearl):
        raise InputError("two sets of devices need a policy of jaxdlm.speculative.pearl(...)")
    drafter = policy.drafter.replace(params=jax.device_put(policy.drafter.params, draft))
    bare = policy.replace(drafter=policy.drafter.replace(params=()))  # the target's side never reads the draft
    decoding = Decoding(model, jax.device_put(params, target), bare)
    carry = _begin(jax.device_put(rows, target), decoding, prompt, max_new, save)
    there = jax.device_put(carry.rows, draft)
    state = _begin_draft(drafter, there, prompt)
    carry = carry._replace(drafter=jax.device_put(_light(state), target))
    for count in range(max_new):  # a round commits at least one token
        chunk, logq, kv = _write(drafter, state, there)
        logits, fresh = _read(carry, decoding)
        chunk, logq = jax.device_put((chunk, logq), target)
        carry = _judge(carry, chunk, logq, logits, fresh, bare)
        there, light = jax.device_put((carry.rows, carry.drafter), draft)
        state = light._replace(kv=kv)
        if count % LOOK_EVERY == LOOK_EVERY - 1 and bool(carry.rows.done.all()):
            break
    return carry.rows._replace(guide=()), carry.trace


def _light(state: PearlState) -> PearlState:
    """Without the cache, which stays with the draft."""
    return state._replace(kv=KV((), ()))


@compiled(static_argnames=("prompt", "max_new", "save"))
def _begin(rows: Rows, decoding: Decoding, prompt: int, max_new: int, save: str) -> Carry:
    alone = dataclasses.replace(decoding.policy, drafter=Nothing())
    return loop.init(rows, dataclasses.replace(decoding, policy=alone), prompt, max_new, save)


@compiled(static_argnames=("prompt",))
def _begin_draft(drafter: Pearl, rows: Rows, prompt: int) -> PearlState:
    return drafter.init(rows, prompt)


@compiled()
def _write(drafter: Pearl, state: PearlState, rows: Rows) -> tuple[Array, Array | None, KV]:
    return drafter.write(state, rows, loop.stage_keys(rows, loop.DRAFT))


@compiled()
def _read(carry: Carry, decoding: Decoding) -> tuple[Array, KV]:
    """The target forward over what was drafted before this round: the tail, where there is one."""
    tail, drafter = carry.drafter.tail, decoding.policy.drafter
    unread = jnp.zeros((tail.shape[0], 1), jnp.int32)  # the chunk's first token, judged but never read
    token = jnp.concatenate([tail, unread], axis=1)
    valid = jnp.broadcast_to(carry.drafter.post[:, None], token.shape)
    proposal = Proposal(token, valid, None, drafter.tree)
    proposal = loop.bounded(proposal, carry.rows)
    forward = loop.read(carry, proposal, decoding)
    return forward.logits, forward.kv


@compiled()
def _judge(carry: Carry, chunk: Array, logq: Array | None, logits: Array, fresh: KV, policy: Speculation) -> Carry:
    drafter, rows, state = policy.drafter, carry.rows, carry.drafter
    proposal = loop.bounded(drafter.submit(state, chunk, logq), rows)
    carry, judged = loop.verify_and_commit(carry, proposal, logits, fresh, policy)
    return carry._replace(
        drafter=drafter.observe(drafter.hold(state, chunk, logq, state.kv), rows, proposal, judged.verdict)
    )
