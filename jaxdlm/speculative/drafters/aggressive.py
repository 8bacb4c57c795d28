"""Drafts that are the rest of the input: for answers that copy it with changes (input-guided aggressive decoding)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.errors import InputError
from jaxdlm.registry import drafter
from jaxdlm.speculative.drafters._free import Free
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.typing import Array, Int32, Key, PyTree


@drafter(lambda target, draft, sampling: Aggressive(depth=4))
@struct.dataclass
class Aggressive(Free):
    """Up to `depth` tokens of the source from where the answer has come to in it.

    That is behind the one place that reads as the answer's last token; where several do, as its last two, and so on up
    to `ngram`. Where none does, or several still do, nothing is drafted. source: ids, the same for all rows, copied from
    its beginning at first; None: each row's own prompt, in which an answer has no place before its first token.
    """

    source: Int32[Array, "S"] | None = None
    depth: int = struct.field(pytree_node=False, default=32)
    ngram: int = struct.field(pytree_node=False, default=3)

    def check(self, lm: Any) -> None:
        most, words = 0 if self.source is None else int(np.max(self.source)), lm.config.vocab_size
        if most >= words:
            raise InputError(
                f"source names token {most}, and target {lm.name} has {words}: encode it by {lm.name}'s tokenizer"
            )

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        if self.source is None:
            source, size = rows.tokens, rows.start
        else:
            source = jnp.broadcast_to(self.source[None], (rows.done.shape[0], self.source.shape[0]))
            size = jnp.full_like(rows.start, self.source.shape[0])
        end = jax.vmap(self.place)(source, size, rows.tokens, rows.start, rows.length)
        index = end[:, None] + jnp.arange(self.depth, dtype=jnp.int32)[None, :]
        token = jnp.take_along_axis(source, jnp.clip(index, 0, source.shape[1] - 1), axis=1)
        return Proposal(token, (end >= 0)[:, None] & (index < size[:, None]), None, self.tree), state

    def place(
        self, source: Int32[Array, "S"], size: Array, tokens: Int32[Array, "L"], start: Array, length: Array
    ) -> Int32[Array, ""]:
        """The column of the source behind what the answer ends in; -1: none, or not one alone."""
        column = jnp.arange(source.shape[0], dtype=jnp.int32)
        alike, ambiguous = column < size, jnp.bool_(True)
        end = jnp.int32(-1)
        for back in range(self.ngram):
            wanted = tokens[jnp.maximum(length - 1 - back, 0)]
            own = length - 1 - back >= start  # a token of the answer
            alike = alike & (jnp.roll(source, back) == wanted) & (column >= back) & own
            count = jnp.sum(alike)
            end = jnp.where(ambiguous & (count == 1), jnp.argmax(alike).astype(jnp.int32) + 1, end)
            ambiguous = ambiguous & (count > 1)
        begins = jnp.int32(-1 if self.source is None else 0)
        return jnp.where(length == start, begins, end)
