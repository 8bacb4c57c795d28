"""Drafts without a model: what followed when the last tokens stood here before."""

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.registry import drafter
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.drafters._free import Free
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.typing import Array, Bool, Int32, Key, PyTree


@drafter(lambda target, draft, sampling: Lookup(depth=3, ngram=2))
@struct.dataclass
class Lookup(Free):
    """The k tokens behind the earliest of the longest matches, up to `ngram` tokens, of the row's last tokens.

    Prompt-lookup decoding (github.com/apoorvumang/prompt-lookup-decoding); no row without a match drafts anything.
    """

    depth: int = struct.field(pytree_node=False, default=8)
    ngram: int = struct.field(pytree_node=False, default=3)

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        end, matched = jax.vmap(self.match)(rows.tokens, rows.length)
        index = end[:, None] + jnp.arange(1, self.depth + 1, dtype=jnp.int32)[None, :]
        valid = matched[:, None] & (index < rows.length[:, None])
        return Proposal(store.take(rows.tokens, index), valid, None, self.tree), state

    def match(self, tokens: Int32[Array, "L"], length: Int32[Array, ""]) -> tuple[Int32[Array, ""], Bool[Array, ""]]:
        """(last column of the match, whether there is one)."""
        column = jnp.arange(tokens.shape[0], dtype=jnp.int32)
        alike = []
        for back in range(self.ngram):
            wanted = tokens[jnp.maximum(length - 1 - back, 0)]
            shifted = jnp.concatenate([jnp.full(back, -1, jnp.int32), tokens[: tokens.shape[0] - back]])
            alike.append((shifted == wanted) & (length - 1 - back >= 0))
        run = jnp.sum(jnp.cumprod(jnp.stack(alike).astype(jnp.int32), axis=0), axis=0)
        run = jnp.where(column < length - 1, run, 0)
        return jnp.argmax(run).astype(jnp.int32), jnp.max(run) > 0
