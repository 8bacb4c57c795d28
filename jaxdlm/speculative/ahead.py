"""Texts that go ahead of the committed ones, token by token: what methods that look behind a candidate share."""

from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxdlm.core.model import KV
from jaxdlm.core.readout import proposable
from jaxdlm.speculative import guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows, Verdict
from jaxdlm.typing import Array, Bool, Float32, Int32, PyTree


class OneAnswer:
    """What searches have in common that write one answer of each prompt, which is its one row."""

    @property
    def width(self) -> int:
        return 1

    @property
    def streams(self) -> int:
        return 1

    def returning(self, n: int) -> Self:
        return self  # n is 1, as the width is

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> PyTree:
        """Nothing but the row itself."""
        return ()

    def answers(self, rows: Any, trace: Any) -> tuple[Any, Any]:
        return rows, trace


def grown(carry: Carry, decoding: Decoding) -> tuple[Float32[Array, "R 1 V"], KV]:
    """(the logits behind the last token of each row, the cache with it)."""
    nothing, _ = decoding.policy.drafter.propose((), carry.rows, loop.stage_keys(carry.rows, loop.DRAFT))
    forward = loop.read(carry, nothing, decoding)
    return forward.logits, store.put(carry.kv, forward.kv, carry.rows.length[:, None] - 1)


def guided(
    logits: Float32[Array, "B 1 V"], rows: Rows, guide: Any
) -> tuple[Float32[Array, "B V"], Bool[Array, "B"], guiding.Nodes]:
    """(log p of the next tokens by the guided model, rows that may go on, the guide over the rows)."""
    nodes = guiding.nodes_of(guide, rows.guide)
    if guide is None:
        return jax.nn.log_softmax(logits[:, 0], axis=1), jnp.ones(rows.done.shape, bool), nodes
    bent, live = nodes.transform(logits, nodes.root())
    return jax.nn.log_softmax(bent[:, 0], axis=1), live[:, 0], nodes


def appended(rows: Rows, token: Int32[Array, "R"], guide: Any) -> tuple[Rows, Bool[Array, "R"]]:
    """(the rows with one token more, whether it ends them)."""
    nodes = guiding.nodes_of(guide, rows.guide)
    state = () if guide is None else nodes.row(nodes.advance(nodes.root(), token[:, None]))
    ended = loop.columns_to_stop(rows, token[:, None], jnp.ones(token.shape, jnp.int32)) <= 1
    row = jnp.arange(token.shape[0])
    text = rows.tokens.at[row, rows.length].set(token, mode="drop")
    full = rows.length + 1 >= rows.stop
    return rows._replace(tokens=text, length=jnp.minimum(rows.length + 1, rows.stop), guide=state), ended | full


def committed(
    carry: Carry, decoding: Decoding, token: Int32[Array, "B"], logits: Float32[Array, "B 1 V"], live: Bool[Array, "B"],
    nodes: guiding.Nodes,
) -> Carry:  # fmt: skip
    """The carry with this token behind each row, as if it were the bonus of a round without a draft; rows end whose logits are
    not finite, or that may not go on (~live)."""
    nothing, _ = decoding.policy.drafter.propose((), carry.rows, loop.stage_keys(carry.rows, loop.DRAFT))
    zero = jnp.zeros_like(token)
    verdict = Verdict(zero[:, None][:, :0], zero, token, jnp.ones(token.shape, bool))
    bad = ~proposable(jnp.max(logits, axis=2)) | ~live
    guide = () if nodes.guide is None else nodes.row(nodes.advance(nodes.root(), token[:, None]))
    return loop.closed(carry, decoding.policy, nothing, verdict, bad, guide, logits)
