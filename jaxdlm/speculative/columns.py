"""Drafts of several columns whose laws one pass gives at once: each is drawn from its own."""

import jax
import jax.numpy as jnp

from jaxdlm.speculative.guiding import States, nodes_of
from jaxdlm.speculative.state import Rows
from jaxdlm.speculative.warp import Warp, draft
from jaxdlm.typing import Array, Float32, Int32, Key


def draft_columns(
    warp: Warp, logits: Float32[Array, "B W V"], rows: Rows, key: Key[Array, "B"]
) -> tuple[Int32[Array, "B W"], Float32[Array, "B W V"] | None]:
    """(a chain of tokens behind each row, the laws that they were drawn from; None where the verdict does not ask).

    A guide bends the law of a column by the tokens before it, so that the chain's law is the product of these still.
    """
    guide = nodes_of(warp.guide, rows.guide)

    def one(states: States, column: tuple[Array, Array]) -> tuple[States, tuple[Array, Array | None]]:
        number, logits = column
        bent = guide.bend(logits[:, None], states)
        if warp.greedy:
            token, logq = jnp.argmax(bent[:, 0], axis=-1).astype(jnp.int32), None
        else:
            logq = warp.log_prob(bent)[:, 0]
            token = draft(warp, logq, rows, rows.length + number, key, number)
        return guide.advance(states, token[:, None]), (token, None if warp.shared else logq)

    numbers = jnp.arange(logits.shape[1], dtype=jnp.int32)
    _, (tokens, logqs) = jax.lax.scan(one, guide.root(), (numbers, jnp.moveaxis(logits, 1, 0)))
    return tokens.T, None if logqs is None else jnp.moveaxis(logqs, 0, 1)
