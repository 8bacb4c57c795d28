"""Drafts of what a grammar leaves no choice of, keys and marks of JSON, and of what the prompt goes on with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.grammar.spelling import spelling_of
from jaxdlm.registry import drafter
from jaxdlm.speculative.drafters._free import Free
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.guiding import nodes_of
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Int32, Key, PyTree


@drafter(lambda target, draft, sampling: Forced(sampling, depth=3))
@struct.dataclass
class Forced(Free):
    """Up to `depth` tokens that every text of the guide's language goes on with, spelled by the longest tokens.

    The guide allows other spellings of the same letters, so the target decides as over any draft. A round in which no
    row has such tokens reads one token per row (`loop.read_sparse`). Without a guide nothing is drafted.

    bare: int32[V], tokens with the same letters, but for a space in front, have the same number; then values that stand in
    the prompt are drafted, too, where the language has a choice: what follows there the last tokens, of the longest match
    of up to `ngram` tokens the earliest. None: they are not.
    """

    warp: Warp
    bare: Int32[Array, "V"] | None = None
    depth: int = struct.field(pytree_node=False, default=5)
    ngram: int = struct.field(pytree_node=False, default=3)

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        if self.warp.guide is None:
            none = jnp.zeros((rows.done.shape[0], self.depth), jnp.int32)
            return Proposal(none, none.astype(bool), None, self.tree), state
        nodes = nodes_of(self.warp.guide, rows.guide)
        states, drafted = nodes.root(), list[Array]()
        text = None if self.bare is None else self.bare.at[rows.tokens].get(mode="clip")
        for depth in range(self.depth):
            token = nodes.forced(states)[:, 0]
            if text is not None and self.bare is not None:
                at = rows.length + depth
                token = jnp.where(token >= 0, token, jax.vmap(self._seen)(rows.tokens, text, at, rows.start))
                own = self.bare.at[jnp.maximum(token, 0)].get(mode="clip")
                text = text.at[jnp.arange(at.shape[0]), at].set(own, mode="drop")
            drafted.append(token)
            states = nodes.advance(states, jnp.maximum(token, 0)[:, None])
        tokens = jnp.stack(drafted, axis=1)
        valid = jnp.cumprod(tokens >= 0, axis=1).astype(bool)
        return Proposal(jnp.maximum(tokens, 0), valid, None, self.tree), state

    def _seen(
        self, tokens: Int32[Array, "L"], text: Int32[Array, "L"], length: Int32[Array, ""], start: Int32[Array, ""]
    ) -> Int32[Array, ""]:
        """What follows the last tokens in the prompt, -1 where they are not in it."""
        column = jnp.arange(tokens.shape[0], dtype=jnp.int32)
        alike = [jnp.roll(text, back) == text.at[length - 1 - back].get(mode="clip") for back in range(self.ngram)]
        run = jnp.sum(jnp.cumprod(jnp.stack(alike).astype(jnp.int32), axis=0), axis=0)
        run = jnp.where((column >= self.ngram) & (column < start - 1), run, 0)
        return jnp.where(jnp.max(run) > 0, tokens[jnp.argmax(run) + 1], -1)


def drafting(policy: Speculation, grammars: Sequence[Any], lm: Any) -> Speculation:
    """The policy, which drafts what some grammar leaves no choice of, and what the prompt goes on with, if it has no draft."""
    if not isinstance(policy.drafter, Nothing) or not any(grammar.drafts for grammar in grammars):
        return policy
    bare = None if lm.tokenizer is None else jnp.asarray(spelling_of(lm).bare)
    return dataclasses.replace(policy, drafter=Forced(policy.warp, bare))
