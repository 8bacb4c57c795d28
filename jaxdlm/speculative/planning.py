"""PG-TD in the loop: a round takes the next leaves of every prompt's tree, completes them greedily together, and counts rewards.

The two halves of a round, `asked` and `backed`, are functions of arrays: with a reward inside the program they are one, with a
reward on the host (`speculative.planned`) two.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import rewards, struct
from jaxdlm.core import engine
from jaxdlm.core.carry import Status
from jaxdlm.core.model import KV
from jaxdlm.core.readout import proposable
from jaxdlm.core.select import select_rows
from jaxdlm.errors import InputError
from jaxdlm.rewards import Likelihood
from jaxdlm.speculative import guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import OneAnswer, appended, grown, guided
from jaxdlm.speculative.copies import rows_of
from jaxdlm.speculative.planned_tree import Completed, Law, Leaf, Tree, descended, planted, returned
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32


class Asked(NamedTuple):
    """The leaves of a round, [B, L, ..], and the answers of those that ask, R = B L rows."""

    leaves: Leaf
    made: Completed
    tokens: Int32[Array, "R T"]  # prompts and answers
    start: Int32[Array, "R"]
    length: Int32[Array, "R"]
    broken: Bool[Array, "R"]  # the model's logits were not finite, or a guide allowed nothing
    steps: Int32[Array, "R"]  # forwards of each


class Completing(NamedTuple):
    """Answers under way."""

    rows: Rows
    kv: KV
    logp: Float32[Array, "R C"]
    token: Int32[Array, "R C K"]
    token_logp: Float32[Array, "R C K"]
    over: Bool[Array, "R"]
    broken: Bool[Array, "R"]
    read: Int32[Array, "R"]


@struct.dataclass
class PlanSearch(OneAnswer):
    """See `methods.pg_td`."""

    reward: Any  # None: the target's own likelihood
    law: Law
    nodes: int = struct.field(pytree_node=False)
    k: int = struct.field(pytree_node=False)
    leaves: int = struct.field(pytree_node=False, default=1)

    def check(self, lm: Any) -> None:
        rewards.check(self.reward, lm)

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> Tree:
        if carry.trace.top_token is not None:
            raise InputError(
                "top_logprobs: a plan keeps log-probabilities of its answers' own tokens alone, leave it out"
            )
        kinds = min(self.k, decoding.model.config.vocab_size)
        tree = planted(self.nodes, columns, kinds)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (carry.rows.done.shape[0], *leaf.shape)), tree)

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 0 V"]]:
        """(the carry a round later, no logits: it reads many texts)."""
        carry, asked = self.asked(carry, decoding)
        earns = Likelihood(decoding.params, decoding.model) if self.reward is None else self.reward
        worth = functools.partial(earns, asked.tokens, asked.start, asked.length)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(worth))
        reward = jax.lax.cond(jnp.any(asked.leaves.asks), worth, lambda: nothing)
        carry = self.backed(carry, asked, reward.astype(jnp.float32))
        return carry, jnp.zeros((carry.rows.done.shape[0], 0, decoding.model.config.vocab_size), jnp.float32)

    def asked(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Asked]:
        """(the carry with leaves in its trees, these with their answers); the same leaf for nobody twice."""
        tree, picked = carry.drafter, []
        for _ in range(self.leaves):
            tree, leaf = jax.vmap(descended, in_axes=(0, None, 0))(tree, self.law, carry.rows.done)
            picked.append(leaf)
        leaves = jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *picked)
        asks = leaves.asks.reshape(-1)
        at = jnp.minimum(leaves.node, self.nodes - 1)
        of_leaf = lambda leaf: jax.vmap(lambda row, at: row[at])(leaf, at).reshape(-1, *leaf.shape[2:])  # noqa: E731
        text, depth = of_leaf(tree.text), of_leaf(tree.depth)
        rows, kv = rows_of((carry.rows, carry.kv), np.repeat(np.arange(carry.rows.done.shape[0]), self.leaves))
        rows, over = behind(rows, text, depth, decoding.policy.guide)
        reads = asks & ~over & (depth > 0)
        kv = jax.lax.cond(jnp.any(reads), lambda: read(kv, rows, depth, reads, text.shape[1], decoding), lambda: kv)
        zero = jnp.zeros(asks.shape, jnp.int32)
        begin = Completing(
            rows, kv, of_leaf(tree.logp), of_leaf(tree.token), of_leaf(tree.token_logp), over | ~asks, zero > 0, zero
        )
        end = jax.lax.while_loop(lambda now: jnp.any(~now.over), lambda now: self.further(now, carry, decoding), begin)
        grouped = lambda leaf: leaf.reshape(*leaves.node.shape, *leaf.shape[1:])  # noqa: E731
        answer = store.take(end.rows.tokens, rows.start[:, None] + jnp.arange(text.shape[1], dtype=jnp.int32)[None])
        made = Completed(answer, end.rows.length - end.rows.start, end.logp, end.token, end.token_logp)
        steps = end.read + reads.astype(jnp.int32)
        made = jax.tree.map(grouped, made)
        asked = Asked(leaves, made, end.rows.tokens, end.rows.start, end.rows.length, end.broken, steps)
        return carry._replace(drafter=tree), asked

    def further(self, now: Completing, carry: Carry, decoding: Decoding) -> Completing:
        """Every answer one token longer."""
        logits, kv = grown(carry._replace(rows=now.rows, kv=now.kv), decoding)
        logp, live, _ = guided(logits, now.rows, decoding.policy.guide)
        best, token = jax.lax.top_k(logp, now.token.shape[2])
        broken = ~now.over & (~live | ~proposable(jnp.max(logits, axis=2)))
        going = ~now.over & ~broken
        rows, ended = appended(now.rows, token[:, 0].astype(jnp.int32), decoding.policy.guide)
        row = jnp.arange(token.shape[0])
        column = jnp.where(going, now.rows.length - now.rows.start, now.logp.shape[1])
        put = lambda leaf, value: leaf.at[row, column].set(value, mode="drop")  # noqa: E731
        return Completing(
            select_rows(going, rows, now.rows), kv, put(now.logp, best[:, 0]), put(now.token, token),
            put(now.token_logp, best), now.over | broken | ended, now.broken | broken,
            now.read + (~now.over).astype(jnp.int32),
        )  # fmt: skip

    def backed(self, carry: Carry, asked: Asked, reward: Float32[Array, "R"]) -> Carry:
        """The carry with the rewards of the answers in its trees; a reward that is no number ends its row."""
        rows, shape = carry.rows, asked.leaves.node.shape
        each = lambda leaf: leaf.reshape(shape)  # noqa: E731
        lost = jnp.any(each(jnp.isnan(reward) & asked.leaves.asks.reshape(-1)), axis=1)
        reward = each(jnp.where(asked.broken | jnp.isnan(reward), -jnp.inf, reward))
        tree = jax.vmap(returned)(carry.drafter, asked.leaves, asked.made, reward)
        rows = rows._replace(
            step=rows.step + jnp.max(each(asked.steps), axis=1),
            drafted=rows.drafted + jnp.sum(each(asked.steps), axis=1, dtype=jnp.int32),
        )
        nothing = tree.known[:, 0] & (tree.length[:, 0] == 0)
        over = jax.vmap(self.law.over)(tree) | nothing | lost
        bad = over & (lost | (tree.best_reward == -jnp.inf))
        best = lambda leaf: jnp.take_along_axis(leaf, tree.best.reshape(-1, *(1,) * (leaf.ndim - 1)), axis=1)[:, 0]  # noqa: E731
        text, length = best(tree.text), jnp.where(bad, 0, best(tree.length))
        column = jnp.arange(text.shape[1], dtype=jnp.int32)[None, :]
        column = jnp.where((column < length[:, None]) & over[:, None], column, text.shape[1])
        trace = engine.record(carry.trace, rows.step - 1, over, column, best(tree.logp), text)
        new = select_rows(over, closed(rows, text, length, bad), rows)
        new, trace, tree = select_rows(~rows.done, (new, trace, tree), (carry.rows, carry.trace, carry.drafter))
        return Carry(new, carry.kv, tree, trace, carry.loops + 1)


def behind(
    rows: Rows, text: Int32[Array, "R C"], depth: Int32[Array, "R"], guide: Any
) -> tuple[Rows, Bool[Array, "R"]]:
    """(the rows with the first tokens of these texts, whether they end there)."""
    row, column = jnp.arange(depth.shape[0])[:, None], jnp.arange(text.shape[1], dtype=jnp.int32)[None, :]
    at = jnp.where(column < depth[:, None], rows.start[:, None] + column, rows.tokens.shape[1])
    length = rows.start + depth
    longer = rows._replace(tokens=rows.tokens.at[row, at].set(text, mode="drop"), length=length)
    last = store.take(text, depth[:, None] - 1)
    before = longer._replace(length=length - 1)
    ended = loop.columns_to_stop(before, last, jnp.ones(depth.shape, jnp.int32)) <= 1
    over = (ended & (depth > 0)) | (length >= rows.stop)
    if guide is None:
        return longer, over

    def on(at: Array, state: Any) -> Any:
        nodes = guiding.nodes_of(guide, state)
        token = jax.lax.dynamic_slice_in_dim(text, at, 1, axis=1)
        return select_rows(at < depth, nodes.row(nodes.advance(nodes.root(), token)), state)

    return longer._replace(guide=jax.lax.fori_loop(0, jnp.max(depth), on, rows.guide)), over


def read(kv: KV, rows: Rows, depth: Int32[Array, "R"], reads: Bool[Array, "R"], columns: int, decoding: Decoding) -> KV:
    """The cache with all tokens but the last of these rows, from the last one of the prompt on, in one forward."""
    model, params = loop.target_of(decoding)
    index = rows.start[:, None] - 1 + jnp.arange(columns, dtype=jnp.int32)[None, :]
    valid = (index < rows.length[:, None] - 1) & reads[:, None]
    past = store.seen(kv, rows.start - 1)
    past = past._replace(place=index) if decoding.policy.placed else past
    out = model.apply(params, store.take(rows.tokens, index), index, valid, past)
    return store.put(kv, out.kv, index, valid)


def closed(rows: Rows, text: Int32[Array, "B C"], length: Int32[Array, "B"], bad: Bool[Array, "B"]) -> Rows:
    """The rows with these answers, done."""
    longer, _ = behind(rows, text, length, None)
    last = store.take(text, length[:, None] - 1)
    before = longer._replace(length=longer.length - 1)
    ended = loop.columns_to_stop(before, last, jnp.ones(length.shape, jnp.int32)) <= 1
    status = jnp.where(ended, int(Status.EOS), int(Status.FINISHED))
    return longer._replace(done=jnp.ones(bad.shape, bool), status=engine.failed(status, bad))
