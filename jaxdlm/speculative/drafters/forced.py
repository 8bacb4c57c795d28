"""Drafts of what a grammar leaves no choice of: keys and marks of JSON, the rest of a word."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.registry import drafter
from jaxdlm.speculative.drafters._free import Free
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.guiding import nodes_of
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Key, PyTree


@drafter(lambda target, draft, sampling: Forced(sampling, depth=3))
@struct.dataclass
class Forced(Free):
    """Up to `depth` tokens that every text of the guide's language goes on with, spelled by the longest tokens.

    The guide allows other spellings of the same letters, so the target decides as over any draft. A round in which no
    row has such tokens reads one token per row (`loop.read_sparse`). Without a guide nothing is drafted.
    """

    warp: Warp
    depth: int = struct.field(pytree_node=False, default=5)

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        if self.warp.guide is None:
            none = jnp.zeros((rows.done.shape[0], self.depth), jnp.int32)
            return Proposal(none, none.astype(bool), None, self.tree), state
        nodes = nodes_of(self.warp.guide, rows.guide)
        states, tokens = nodes.root(), []
        for _ in range(self.depth):
            tokens.append(nodes.forced(states))
            states = nodes.advance(states, jnp.maximum(tokens[-1], 0))
        token = jnp.concatenate(tokens, axis=1)
        valid = jnp.cumprod(token >= 0, axis=1).astype(bool)
        return Proposal(jnp.maximum(token, 0), valid, None, self.tree), state


def drafting(policy: Speculation, grammars: Sequence[Any]) -> Speculation:
    """The policy, which drafts what some grammar leaves no choice of if it has no draft."""
    idle = isinstance(policy.drafter, Nothing) and any(grammar.drafts for grammar in grammars)
    return dataclasses.replace(policy, drafter=Forced(policy.warp)) if idle else policy
