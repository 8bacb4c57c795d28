"""Lexical units in the loop: a forward says the next token and, at pads behind it, those that go with it (LUD).

The tokens of a unit have no keys of their own yet: they are read again, in front of the next pads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid, proposable
from jaxdlm.core.select import select_rows
from jaxdlm.speculative import guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import OneAnswer
from jaxdlm.speculative.drafters.lexical import leading
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Proposal, Verdict
from jaxdlm.speculative.tree import chains
from jaxdlm.typing import Array, Bool, Float32, Int32


class Last(NamedTuple):
    """The last unit: its first token, which stands in column length - 1 - count, and `count` more."""

    token: Int32[Array, "B 1_K"]
    count: Int32[Array, "B"]


@struct.dataclass
class Units(OneAnswer):
    """See `methods.lud`; the drafter of the policy has the pads. One row of a prompt."""

    beta: Any
    halt: Any
    k: int = struct.field(pytree_node=False)

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> Last:
        rows = carry.rows
        last = store.take(rows.tokens, rows.length[:, None] - 1)
        return Last(jnp.pad(last, [(0, 0), (0, self.k)]), jnp.zeros_like(rows.length))

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1_K V"]]:
        """(the carry with a unit more, the logits by which its tokens were chosen)."""
        rows, last, policy = carry.rows, carry.drafter, decoding.policy
        logits, fresh = self.read(carry, decoding)
        place = jnp.arange(self.k + 1, dtype=jnp.int32)[None, :]
        first = rows.length - 1 - last.count
        real = jax.tree.map(lambda leaf: leaf[:, :, : self.k + 1], fresh)
        kv = store.put(carry.kv, real, first[:, None] + place, place <= last.count[:, None])
        nodes = guiding.nodes_of(policy.guide, rows.guide)
        token, more, states, live = self.unit(logits, nodes)
        at = nodes.pick(states, (more + 1)[:, None])
        bad = ~proposable(jnp.max(logits[:, 0], axis=1)) | ~live
        proposal = Proposal(token[:, : self.k], place[:, : self.k] < more[:, None], None, chains(1, self.k))
        bonus = store.take(token, more[:, None])[:, 0]
        path = jnp.broadcast_to(place[:, : self.k], (token.shape[0], self.k))
        verdict = Verdict(path, more, bonus, jnp.ones_like(live))
        carry = carry._replace(kv=kv, drafter=select_rows(~rows.done, Last(token, more), last))
        guide = nodes.row(at) if policy.guide else ()
        return loop.closed(carry, policy, proposal, verdict, bad, guide, logits), logits

    def read(self, carry: Carry, decoding: Decoding) -> tuple[Float32[Array, "B 1_K V"], KV]:
        """(logits at the last token and at the pads, keys of the unit's tokens and of the pads)."""
        rows, last = carry.rows, carry.drafter
        model, params = loop.target_of(decoding)
        place, pad = (jnp.arange(count, dtype=jnp.int32)[None, :] for count in (self.k + 1, self.k))
        first, count = (rows.length - 1 - last.count)[:, None], last.count[:, None]
        pads = jnp.full((rows.done.shape[0], self.k), decoding.model.config.vocab_size, jnp.int32)
        tokens = jnp.concatenate([last.token, pads], axis=1)
        position = jnp.concatenate([first + place, first + count + 1 + pad], axis=1)
        valid = jnp.concatenate([place <= count, jnp.ones_like(pads, bool)], axis=1)
        out = model.apply(params, tokens, position, valid, store.seen(carry.kv, first[:, 0]))
        at = jnp.concatenate([count, jnp.broadcast_to(self.k + 1 + pad, pads.shape)], axis=1)
        hidden = jnp.take_along_axis(out.hidden, at[:, :, None], axis=1)
        return mask_invalid(model.head(params, hidden), model), out.kv

    def unit(
        self, logits: Float32[Array, "B 1_K V"], nodes: guiding.Nodes
    ) -> tuple[Int32[Array, "B 1_K"], Int32[Array, "B"], guiding.States, Bool[Array, "B"]]:
        """(the likeliest tokens, how many behind the first go with it, the guide's states before and behind each, whether it
        allows a first)."""
        states, tokens, bent, live = [nodes.root()], [], [], []
        for number in range(self.k + 1):
            own, goes = logits[:, number : number + 1], jnp.ones((logits.shape[0], 1), bool)
            own, goes = (own, goes) if nodes.guide is None else nodes.transform(own, states[-1])
            tokens.append(jnp.argmax(own, axis=2).astype(jnp.int32))
            states.append(nodes.advance(states[-1], tokens[-1]))
            bent.append(own)
            live.append(goes)
        token, alive = jnp.concatenate(tokens, axis=1), jnp.concatenate(live, axis=1)
        more = leading(jnp.concatenate(bent, axis=1)[:, 1:], token, self.beta, self.halt, alive[:, 1:])
        every = tuple(jnp.concatenate(leaves, axis=1) for leaves in zip(*states, strict=True))
        return token, more, every, alive[:, 0]
