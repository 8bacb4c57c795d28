"""Contrastive search in the loop: of the likeliest tokens the one whose representation is least like those before it.

A step reads all K candidates behind the text in one forward, each seeing the text and itself. The forward of the chosen one has
the logits of the next step, so a token costs one forward of K tokens, and no cache is copied.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.readout import mask_invalid
from jaxdlm.core.select import select_rows
from jaxdlm.speculative import guiding
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import OneAnswer, committed
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32

TINY = 1e-12  # of a norm


class Behind(NamedTuple):
    """What the model has read of a row: its whole text, unlike in the other methods, which read the last token next."""

    logits: Float32[Array, "B V"]  # of the next token
    hidden: Float32[Array, "B L D"]  # of each column, of norm 1


@struct.dataclass
class ContrastiveSearch(OneAnswer):
    """See `methods.contrastive`."""

    rereads: ClassVar[str] = "contrastive"

    alpha: Any
    k: int = struct.field(pytree_node=False)

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> Behind:
        """The prompt's own rows, of the forward that filled the cache."""
        rows, model = carry.rows, decoding.model
        shape = (rows.done.shape[0], prompt)
        position = jnp.broadcast_to(jnp.arange(prompt, dtype=jnp.int32)[None, :], shape)
        hidden = model.apply(decoding.params, rows.tokens[:, :prompt], position, jnp.ones(shape, bool)).hidden
        last = jnp.take_along_axis(hidden, (rows.length - 1)[:, None, None], axis=1)
        logits = mask_invalid(model.head(decoding.params, last), model)[:, 0]
        return Behind(logits, jnp.pad(unit(hidden), [(0, 0), (0, columns), (0, 0)]))

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1 V"]]:
        """(the carry with one token more, the logits that proposed the candidates)."""
        rows, policy, behind = carry.rows, decoding.policy, carry.drafter
        logits = behind.logits[:, None]
        nodes = guiding.nodes_of(policy.guide, rows.guide)
        bent, live = (logits, jnp.ones(logits.shape[:2], bool))
        if nodes.guide is not None:
            bent, live = nodes.transform(logits, nodes.root())
        chance, token = jax.lax.top_k(jax.nn.softmax(bent[:, 0], axis=1), min(self.k, logits.shape[2]))
        read, hidden, fresh = self.read(carry, token, decoding)
        pick = self.chosen(chance, hidden, behind.hidden, rows)
        own = lambda x: jnp.take_along_axis(x, pick.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)  # noqa: E731
        bonus = own(token)[:, 0]
        kv = store.put(carry.kv, one_of(fresh, pick), rows.length[:, None])
        row = jnp.arange(bonus.shape[0])
        seen = behind.hidden.at[row, rows.length].set(own(hidden)[:, 0], mode="drop")
        behind = select_rows(~rows.done, Behind(own(read)[:, 0], seen), behind)
        carry = committed(carry, decoding, bonus, logits, live[:, 0], nodes)
        return carry._replace(kv=kv, drafter=behind), logits

    def read(
        self, carry: Carry, token: Int32[Array, "B K"], decoding: Decoding
    ) -> tuple[Float32[Array, "B K V"], Float32[Array, "B K D"], Any]:
        """(logits behind each candidate, its hidden row of norm 1, its keys and values)."""
        rows, model = carry.rows, decoding.model
        position = jnp.broadcast_to(rows.length[:, None], token.shape)
        past = store.seen(carry.kv, rows.length)
        own = np.pad(np.eye(token.shape[1], dtype=bool), [(0, 0), (past.position.shape[1], 0)], constant_values=True)
        mask = jnp.broadcast_to(jnp.asarray(own)[None], (token.shape[0], *own.shape))
        out = model.apply(decoding.params, token, position, jnp.ones(token.shape, bool), past, mask=mask)
        return mask_invalid(model.head(decoding.params, out.hidden), model), unit(out.hidden), out.kv

    def chosen(
        self,
        chance: Float32[Array, "B K"],
        hidden: Float32[Array, "B K D"],
        before: Float32[Array, "B L D"],
        rows: Rows,
    ) -> Int32[Array, "B"]:
        """argmax (1 - alpha) p - alpha max cos, the likelier one on a tie."""
        alike = jnp.einsum("bkd,bld->bkl", hidden, before, precision=jax.lax.Precision.HIGHEST)
        written: Bool[Array, "B L"] = jnp.arange(before.shape[1])[None, :] < rows.length[:, None]
        alike = jnp.max(jnp.where(written[:, None, :], alike, -1.0), axis=2)
        return jnp.argmax((1 - self.alpha) * chance - self.alpha * alike, axis=1).astype(jnp.int32)


def unit(hidden: Array) -> Float32[Array, "... D"]:
    """Rows of norm 1."""
    hidden = hidden.astype(jnp.float32)
    return hidden / jnp.maximum(jnp.linalg.norm(hidden, axis=-1, keepdims=True), TINY)


def one_of(fresh: Any, pick: Int32[Array, "B"]) -> Any:
    """One column of each row of new keys and values."""
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, pick[None, :, None, None, None], axis=2), fresh)
