"""PEARL: the draft writes on while the target verifies what it wrote before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import KV, Model
from jaxdlm.core.readout import mask_invalid
from jaxdlm.core.select import select_rows
from jaxdlm.registry import drafter
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.guiding import Nodes, States, nodes_of
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp, draft
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


class PearlState(NamedTuple):
    """Column j of `kv` holds position j, of the unverified tokens, too. `tail` and `tail_logq`: the last chunk behind its
    first token, meaningful where `post`."""

    kv: KV
    post: Bool[Array, "B"]
    tail: Int32[Array, "B C-1"]
    tail_logq: Float32[Array, "B C-1 V"] | None


@drafter(lambda target, draft, sampling: Pearl(draft.params, sampling, draft.model, chunk=3))
@struct.dataclass
class Pearl:
    """Chunks of C tokens; what the target reads in a round was drafted in the round before (arXiv 2408.11850).

    Pre-verify: the target reads the last committed token and judges the first token of the new chunk. Post-verify, once
    that was accepted: it reads the C - 1 others and judges them and the first of the next chunk. Drafting and target
    forward do not depend on each other, so they can run at the same time. Whole acceptance adds no token, since the
    draft has already written on. No two-token pass: exactly one token is missing in the draft's cache, always.
    """

    params: PyTree
    warp: Warp
    model: Model = struct.field(pytree_node=False)
    chunk: int = struct.field(pytree_node=False, default=4)

    @property
    def tree(self) -> Tree:
        return chains(1, self.chunk, bonus=False)

    @property
    def forwards(self) -> int:
        return self.chunk

    def init(self, rows: Rows, prompt: int) -> PearlState:
        batch, tail = rows.done.shape[0], self.chunk - 1
        logq = None
        if not self.warp.matches:
            logq = jnp.zeros((batch, tail, self.model.config.vocab_size), jnp.float32)
        kv = store.prefill(self.model, self.params, rows.tokens, prompt)
        return PearlState(kv, jnp.zeros(batch, bool), jnp.zeros((batch, tail), jnp.int32), logq)

    def propose(self, state: PearlState, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PearlState]:
        chunk, logq, kv = self.write(state, rows, key)
        return self.submit(state, chunk, logq), self.hold(state, chunk, logq, kv)

    def write(
        self, state: PearlState, rows: Rows, key: Key[Array, "B"]
    ) -> tuple[Int32[Array, "B C"], Float32[Array, "B C V"] | None, KV]:
        """The next chunk behind the committed tokens and the unverified tail. Needs nothing from the target."""
        first = store.take(rows.tokens, rows.length[:, None] - 1)
        if self.chunk > 1:
            first = jnp.where(state.post[:, None], state.tail[:, -1:], first)
        frontier = rows.length + (self.chunk - 1) * state.post.astype(jnp.int32)
        guide, states = self.behind(state, rows)

        def further(
            carry: tuple[KV, Array, States], place: Array
        ) -> tuple[tuple[KV, Array, States], tuple[Array, Any]]:
            kv, token, states = carry
            position = (frontier - 1 + place)[:, None]
            past = store.seen(kv, position[:, 0])
            out = self.model.apply(self.params, token, position, jnp.ones(token.shape, bool), past)
            one = lambda logq: draft(self.warp, logq, rows, frontier + place, key, place)  # noqa: E731
            token, logq, states = self.choose(out.hidden[:, 0], one, guide, states)
            return (store.put(kv, out.kv, position), token, states), (token[:, 0], logq)

        places = jnp.arange(self.chunk, dtype=jnp.int32)
        (kv, *_), (tokens, logq) = jax.lax.scan(further, (state.kv, first, states), places)
        return tokens.T, None if logq is None else jnp.moveaxis(logq, 0, 1), kv

    def behind(self, state: PearlState, rows: Rows) -> tuple[Nodes, States]:
        """The guide, and its state behind the committed tokens and the unverified tail."""
        guide = nodes_of(self.warp.guide, rows.guide)
        states = guide.root()
        for place in range(self.chunk - 1):
            states = select_rows(state.post, guide.advance(states, state.tail[:, place, None]), states)
        return guide, states

    def choose(
        self, hidden: Float[Array, "B D"], draw: Callable[[Array], Array], guide: Nodes, states: States
    ) -> tuple[Int32[Array, "B 1"], Float32[Array, "B V"] | None, States]:
        """The next token, the distribution it was drawn from (None where nothing is drawn), the guide's states there."""
        logits = mask_invalid(self.model.head(self.params, hidden), self.model)
        logits = guide.bend(logits[:, None], states)[:, 0]
        if self.warp.greedy:
            token, logq = jnp.argmax(logits, axis=-1).astype(jnp.int32), None
        else:
            logq = self.warp.log_prob(logits)
            token = draw(logq)
            logq = None if self.warp.shared else logq
        return token[:, None], logq, guide.advance(states, token[:, None])

    def submit(self, state: PearlState, chunk: Int32[Array, "B C"], logq: Array | None) -> Proposal:
        """The proposal of this round: the tail and the chunk's first token, or that one alone."""
        post = state.post[:, None]
        token = jnp.where(post, jnp.concatenate([state.tail, chunk[:, :1]], axis=1), chunk)
        valid = post | (jnp.arange(self.chunk) == 0)[None, :]
        if logq is not None:
            assert state.tail_logq is not None
            logq = jnp.where(post[:, :, None], jnp.concatenate([state.tail_logq, logq[:, :1]], axis=1), logq)
        return Proposal(token, valid, logq, self.tree)

    def hold(self, state: PearlState, chunk: Array, logq: Array | None, kv: KV) -> PearlState:
        """Keeps the chunk behind its first token until the verdict on that one is known."""
        return PearlState(kv, state.post, chunk[:, 1:], None if logq is None else logq[:, 1:])

    def observe(self, state: PearlState, rows: Rows, proposal: Proposal, verdict: Verdict) -> PearlState:
        """The tail lives on iff everything submitted was accepted; a shorter length is all that a refusal needs."""
        whole = verdict.count == jnp.sum(proposal.valid, axis=1, dtype=jnp.int32)
        return state._replace(post=whole)
