"""A draft model that writes K independent chains of L tokens behind each row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.kv import take
from jaxdlm.core.model import KV, Model, Past
from jaxdlm.core.readout import mask_invalid
from jaxdlm.registry import drafter
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.guiding import Nodes, States, nodes_of
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree, chains
from jaxdlm.speculative.warp import Warp, draft, draw
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


class DraftState(NamedTuple):
    """The draft's keys: L columns by position, then scratch columns for the nodes of the round, depth by depth."""

    kv: KV


@drafter(lambda target, draft, sampling: DraftModel(draft.params, sampling, draft.model, depth=3))
@struct.dataclass
class DraftModel:
    """Vanilla drafting (K = 1), SpecTr's (K > 1) and EasySpec's (`rough`), from one model with one cache per row.

    A round costs L draft forwards: the first reads the two last committed tokens (after a round that was accepted whole
    the draft has not seen its own last token), each further one the K nodes of the depth before. Their keys lie in
    scratch columns, the same for all rows; what is accepted moves to its position when the verdict is known.
    bonus: whether the target also reads the last depth, see `Tree`.
    rough: a cheaper form of the model over the same weights, which reads the nodes. Then the first forward reads
    L + 1 committed tokens instead, with the model itself, so that no rough key outlives its round; `calibrate=False`
    leaves that out and keeps rough keys.
    """

    params: PyTree
    warp: Warp
    model: Model = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False, default=1)
    depth: int = struct.field(pytree_node=False, default=4)
    bonus: bool = struct.field(pytree_node=False, default=True)
    rough: Model | None = struct.field(pytree_node=False, default=None)
    calibrate: bool = struct.field(pytree_node=False, default=True)

    @property
    def tree(self) -> Tree:
        return chains(self.width, self.depth, bonus=self.bonus)

    @property
    def forwards(self) -> int:
        return self.depth

    @property
    def scratch(self) -> int:
        return self.width * (self.depth - 1)

    def init(self, rows: Rows, prompt: int) -> DraftState:
        return DraftState(store.prefill(self.model, self.params, rows.tokens, prompt, extra=self.scratch))

    def propose(self, state: DraftState, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, DraftState]:
        hidden, kv = self.catch_up(state.kv, rows)
        guide = nodes_of(self.warp.guide, rows.guide)
        token, logq, states = self.choose(hidden[:, -1:], rows, key, jnp.int32(0), guide, guide.root())

        def deeper(carry: tuple[KV, Array, States], level: Array) -> tuple[tuple[KV, Array, States], tuple[Array, Any]]:
            kv, token, states = carry
            hidden, kv = self.extend(kv, rows, token, level)
            token, logq, states = self.choose(hidden, rows, key, level, guide, states)
            return (kv, token, states), (token, logq)

        levels = jnp.arange(1, self.depth, dtype=jnp.int32)
        (kv, *_), (tokens, logqs) = jax.lax.scan(deeper, (kv, token, states), levels)
        tokens = jnp.concatenate([token[None], tokens])  # [L, B, K]
        nodes = jnp.moveaxis(tokens, 0, 1).reshape(tokens.shape[1], -1)
        log_probs = None
        if logq is not None:
            log_probs = jnp.moveaxis(jnp.concatenate([logq[None], logqs]), 0, 1)
            log_probs = log_probs.reshape(log_probs.shape[0], self.tree.size, log_probs.shape[-1])
        return Proposal(nodes, jnp.ones(nodes.shape, bool), log_probs, self.tree), DraftState(kv)

    def observe(self, state: DraftState, rows: Rows, proposal: Proposal, verdict: Verdict) -> DraftState:
        """The state with the keys of accepted nodes at their positions; the last depth was never read and has none."""
        if self.depth == 1 or self.again > 2:
            return state
        base = rows.tokens.shape[1]
        level = jnp.arange(self.depth - 1, dtype=jnp.int32)[None, :]
        moved = take(state.kv, base + verdict.path[:, :-1])
        accepted = level < verdict.count[:, None]
        return DraftState(store.put(state.kv, moved, rows.length[:, None] + level, accepted))

    @property
    def again(self) -> int:
        """Committed tokens that the first forward reads."""
        return self.depth + 1 if self.rough is not None and self.calibrate else 2

    def catch_up(self, kv: KV, rows: Rows) -> tuple[Float[Array, "B A D"], KV]:
        """(their hidden rows, the cache) with the last committed tokens read; to read one again changes nothing."""
        position = rows.length[:, None] - self.again + jnp.arange(self.again, dtype=jnp.int32)[None, :]
        past = store.seen(kv, rows.length - self.again)
        tokens = store.take(rows.tokens, position)
        out = self.model.apply(self.params, tokens, jnp.maximum(position, 0), position >= 0, past)
        return out.hidden, store.put(kv, out.kv, position)

    def extend(
        self, kv: KV, rows: Rows, token: Int32[Array, "B K"], level: Int32[Array, ""]
    ) -> tuple[Float[Array, "B K D"], KV]:
        """(hidden rows, cache) with the nodes of one level (1, 2, ...) read, each behind its own chain."""
        past, mask = self.behind(kv, rows, level)
        position = jnp.broadcast_to((rows.length + level - 1)[:, None], token.shape)
        model = self.model if self.rough is None else self.rough
        out = model.apply(self.params, token, position, jnp.ones(token.shape, bool), past, mask=mask)
        column = rows.tokens.shape[1] + (level - 1) * self.width
        write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), column, 2)  # noqa: E731
        return out.hidden, jax.tree.map(write, kv, out.kv)

    def behind(self, kv: KV, rows: Rows, level: Int32[Array, ""]) -> tuple[Past, Bool[Array, "B K S_K"] | None]:
        """The keys that the nodes of a level see, and their mask: committed columns, and the scratch columns of their
        own chain."""
        batch, base = rows.tokens.shape
        depth = np.arange(self.scratch) // self.width
        committed = store.seen(kv, rows.length)
        scratch = rows.length[:, None] + jnp.asarray(depth, jnp.int32)[None, :]
        position = jnp.concatenate([committed.position[:, :base], scratch], axis=1)
        written = jnp.broadcast_to(jnp.asarray(depth)[None, :] < level - 1, scratch.shape)
        past = Past(kv, position, jnp.concatenate([committed.valid[:, :base], written], axis=1))
        if self.width == 1:  # positions alone order a chain
            return past, None
        own = np.arange(self.scratch)[None, :] % self.width == np.arange(self.width)[:, None]
        mask = np.concatenate([np.ones((self.width, base), bool), own, np.eye(self.width, dtype=bool)], axis=1)
        return past, jnp.broadcast_to(jnp.asarray(mask)[None], (batch, *mask.shape))

    def choose(
        self,
        hidden: Float[Array, "B T D"],
        rows: Rows,
        key: Key[Array, "B"],
        level: Int32[Array, ""],
        guide: Nodes,
        states: States,
    ) -> tuple[Int32[Array, "B K"], Float32[Array, "B K V"] | None, States]:
        """A token per chain, the distribution it was drawn from (None where nothing is drawn), the guide's states there."""
        logits = mask_invalid(self.model.head(self.params, hidden), self.model)
        token, logq = self.pick(guide.bend(logits, states), rows, key, level)
        if hidden.shape[1] != self.width:  # the chains begin here
            states = guide.spread(states, self.width)
        return token, logq, guide.advance(states, token)

    def pick(
        self, logits: Float32[Array, "B T V"], rows: Rows, key: Key[Array, "B"], level: Int32[Array, ""]
    ) -> tuple[Int32[Array, "B K"], Float32[Array, "B K V"] | None]:
        """`choose`, of bent logits."""
        if self.warp.greedy:
            best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return jnp.broadcast_to(best, (best.shape[0], self.width)), None
        logq = self.warp.log_prob(logits)
        if self.warp.shared:
            token = draft(self.warp, logq[:, 0], rows, rows.length + level, key, level)[:, None]
            return jnp.broadcast_to(token, (token.shape[0], self.width)), None
        logq = jnp.broadcast_to(logq, (logq.shape[0], self.width, logq.shape[2]))
        chain = jnp.arange(self.width, dtype=jnp.int32) + level * self.width
        one = jax.vmap(lambda logq, key, node: draw(logq, jax.random.fold_in(key, node)), (0, None, 0))
        return jax.vmap(one, (0, 0, None))(logq, key, chain), logq
