"""Acceptance rules, each once: which draft tokens stay, and the token that follows them. Written for one row.

logits or logp Float32[1 + R, V]: row 0 predicts the children of the root, row 1 + r those of the r-th node that
the target read (`Tree.read`). P is the target's distribution, Q the distribution that a node was drawn from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.speculative.state import Proposal, Verdict
from jaxdlm.speculative.tree import Grown, Tree, shape_of
from jaxdlm.speculative.warp import draw
from jaxdlm.typing import Array, Bool, Float32, Int32, Key

Acceptance = Callable[[Array, Proposal, Array], Verdict]


def read_row(tree: Tree | Grown) -> np.ndarray:
    """int32[1 + N]: the row of logits of the root and of each node that the target read; of the others 0."""
    row = np.zeros(1 + tree.size, np.int32)
    row[1 + tree.read] = 1 + np.arange(len(tree.read))
    return row


def logit_row(tree: Tree) -> np.ndarray:
    """int32[N]: the row of logits that predicts each node, its parent's."""
    return read_row(tree)[1 + np.asarray(tree.parent, np.int32)]


def parent_row(proposal: Proposal) -> Int32[Array, "... N"]:
    """`logit_row`, of a grown tree as well."""
    if isinstance(proposal.tree, Tree):
        return jnp.asarray(logit_row(proposal.tree))
    assert proposal.parent is not None
    return 1 + proposal.parent


def longest(proposal: Proposal, ok: Bool[Array, "N"]) -> tuple[Int32[Array, "D"], Int32[Array, ""], Int32[Array, ""]]:
    """(path, its length, its last node or -1) of the deepest node that is ok with all above it; lowest on a tie."""
    tree = proposal.tree
    if tree.size == 0:
        return jnp.zeros(0, jnp.int32), jnp.int32(0), jnp.int32(-1)
    _, deep, above = (each[0] for each in shape_of(tree, None if proposal.parent is None else proposal.parent[None]))
    reached = jnp.all(ok[None, :] | ~above, axis=1)
    depth = jnp.where(reached, deep, 0)
    end = jnp.where(jnp.any(reached), jnp.argmax(depth), -1).astype(jnp.int32)
    if isinstance(tree, Tree):
        return jnp.asarray(tree.paths)[end + 1], jnp.max(depth), end
    level = jnp.arange(1, tree.depth + 1, dtype=jnp.int32)
    path = jnp.argmax(above[end][None, :] & (deep[None, :] == level[:, None]), axis=1).astype(jnp.int32)
    return path, jnp.max(depth), end


def after(proposal: Proposal, end: Int32[Array, ""]) -> tuple[Int32[Array, ""], Bool[Array, ""]]:
    """(row of logits that predicts what follows node `end` (-1: the root), whether a token follows it now).

    It does where a child was refused; behind a proposal that was accepted whole only with `tree.bonus`.
    """
    tree = proposal.tree
    parent = jnp.asarray(tree.parent, jnp.int32) if isinstance(tree, Tree) else proposal.parent
    refused = jnp.any(proposal.valid & (parent == end)) if tree.size else jnp.bool_(False)
    return jnp.asarray(read_row(tree))[end + 1], refused | tree.bonus


def greedy(logits: Float32[Array, "1_R V"], proposal: Proposal, key: Key[Array, ""]) -> Verdict:
    """A node stays iff it is argmax P behind its parent; then argmax P. Output = greedy decoding of the target."""
    best = jax.lax.argmax(logits, logits.ndim - 1, jnp.int32)
    ok = proposal.valid & (proposal.token == best[parent_row(proposal)])
    path, count, end = longest(proposal, ok)
    row, read = after(proposal, end)
    return Verdict(path, count, best[row], read)


@dataclass(frozen=True)
class Relaxed:
    """A node stays iff it is among the `beta` best behind its parent and max log P - log P(x) <= tau; then argmax P.

    Lossy (GAD++, arXiv 2205.10350); with beta = 1 it is `greedy`. Reads logits: differences are those of log P.
    """

    beta: int
    tau: float

    def __call__(self, logits: Float32[Array, "1_R V"], proposal: Proposal, key: Key[Array, ""]) -> Verdict:
        row = parent_row(proposal)
        own = logits[row, proposal.token]
        ids = jnp.arange(logits.shape[1], dtype=jnp.int32)[None, :]
        ahead = (logits[row] > own[:, None]) | ((logits[row] == own[:, None]) & (ids < proposal.token[:, None]))
        near = jnp.max(logits, axis=1)[row] - own <= self.tau
        ok = proposal.valid & (jnp.sum(ahead, axis=1) < self.beta) & near
        path, count, end = longest(proposal, ok)
        last, read = after(proposal, end)
        return Verdict(path, count, jax.lax.argmax(logits, logits.ndim - 1, jnp.int32)[last], read)


def rejection(logp: Float32[Array, "1_R V"], proposal: Proposal, key: Key[Array, ""]) -> Verdict:
    """A node x stays iff u · Q(x) < P(x), u ~ U[0, 1); then a token ~ max(0, P - Q), or ~ P behind the last node.

    Chains only. The committed tokens have the target's distribution (arXiv 2211.17192, 2302.01318). Strict `<`: a token
    with P(x) = 0 never stays.
    """
    tree, (accept, bonus) = proposal.tree, jax.random.split(key)
    assert isinstance(tree, Tree) and tree.is_chain, (
        "rejection sampling walks a chain; for several chains use k_sequence"
    )
    node = jnp.arange(tree.size, dtype=jnp.int32)
    u = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(accept, i), (), jnp.float32))(node)
    q = jnp.ones(tree.size) if proposal.logq is None else jnp.exp(proposal.logq[node, proposal.token])
    ok = proposal.valid & (u * q < jnp.exp(logp[logit_row(tree), proposal.token]))
    path, count, end = longest(proposal, ok)
    row, read = after(proposal, end)
    following = jnp.minimum(end + 1, max(tree.size - 1, 0))  # the node that was refused, if one was
    refused = jnp.bool_(False) if tree.size == 0 else (end + 1 < tree.size) & proposal.valid[following]
    rest = logp[row] if tree.size == 0 else _residual(logp[row], proposal, following, refused)
    return Verdict(path, count, draw(rest, bonus), read)


def _residual(logp: Array, proposal: Proposal, node: Array, refused: Array) -> Float32[Array, "V"]:
    """log max(0, P - Q) where a node was refused, else log P; log P as well where nothing is left by rounding."""
    p = jnp.exp(logp)
    certain = jnp.arange(p.shape[0]) == proposal.token[node]
    q = certain.astype(jnp.float32) if proposal.logq is None else jnp.exp(proposal.logq[node])
    rest = jnp.maximum(p - q, 0)
    use = refused & (jnp.sum(rest) > 0)
    return jnp.where(use, jnp.where(rest > 0, jnp.log(jnp.where(rest > 0, rest, 1.0)), -jnp.inf), logp)


def typical(logp: Float32[Array, "1_R V"], proposal: Proposal, key: Key[Array, ""]) -> Verdict:
    """A node x stays iff P(x) > min(0.09, 0.3 · exp(-H(P))); then a token ~ P. Lossy (Medusa, arXiv 2401.10774)."""
    row = parent_row(proposal)
    p = jnp.exp(logp)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, logp, 0.0), 0.0), axis=1)
    bound = jnp.minimum(TYPICAL_FLOOR, TYPICAL_SCALE * jnp.exp(-entropy))
    path, count, end = longest(proposal, proposal.valid & (p[row, proposal.token] > bound[row]))
    following, read = after(proposal, end)
    return Verdict(path, count, draw(logp[following], key), read)


TYPICAL_FLOOR, TYPICAL_SCALE = 0.09, 0.3  # Medusa's posterior threshold and alpha = sqrt of it


class Transport(NamedTuple):
    """K-SEQ for one token: division factor rho, its acceptance mass beta per candidate, total acceptance."""

    rho: Float32[Array, ""]
    beta: Float32[Array, ""]
    accept: Float32[Array, ""]


def transport(p: Float32[Array, "V"], q: Float32[Array, "V"], k: Float32[Array, ""]) -> Transport:
    """The smallest rho in [1, k] with 1 - (1 - beta)^k <= rho · beta, beta = sum min(q, p / rho), by bisection.

    30 halvings, and the upper end: below rho the residual would be negative somewhere and the distribution biased;
    above it only acceptance is lost.
    """
    k = jnp.asarray(k, jnp.float32)

    def total(rho: Array) -> tuple[Array, Array]:
        beta = jnp.minimum(jnp.sum(jnp.minimum(q, p / rho)), 1.0)
        certain = beta >= 1.0
        rest = jnp.where(certain, 0.0, jnp.exp(k * jnp.log1p(-jnp.where(certain, 0.0, beta))))
        return beta, 1.0 - rest

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        beta, accept = total(middle)
        short = accept > middle * beta
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    _, rho = jax.lax.fori_loop(0, 30, halve, (jnp.float32(1), jnp.maximum(k, 1.0)))
    rho = jnp.where(k <= 1, 1.0, rho)
    beta, accept = total(rho)
    return Transport(rho, beta, accept)


def choose(
    logp: Float32[Array, "V"], logq: Float32[Array, "V"], token: Int32[Array, "K"], alive: Bool[Array, "K"],
    key: Key[Array, ""],
) -> Int32[Array, ""]:  # fmt: skip
    """One token with distribution P out of candidates drawn independently from Q: the first x with u · rho · Q(x) <
    P(x), else one ~ max(0, P - min(Q, P / rho) · accept / beta) (SpecTr's K-SEQ, arXiv 2310.15141)."""
    p, q = jnp.exp(logp), jnp.exp(logq)
    plan = transport(p, q, jnp.sum(alive).astype(jnp.float32))
    uniform, rest = jax.random.split(key)
    u = jax.vmap(lambda m: jax.random.uniform(jax.random.fold_in(uniform, m), (), jnp.float32))(
        jnp.arange(token.shape[0], dtype=jnp.int32)
    )
    ok = alive & (u * plan.rho * q[token] < p[token])
    mass = jnp.maximum(p - jnp.minimum(q, p / plan.rho) * plan.accept / jnp.maximum(plan.beta, 1e-30), 0)
    mass = jnp.where(jnp.sum(mass) > 0, mass, p)
    other = draw(jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1.0)), -jnp.inf), rest)
    return jnp.where(jnp.any(ok), token[jnp.argmax(ok)], other)


def k_sequence(logp: Float32[Array, "1_R V"], proposal: Proposal, key: Key[Array, ""]) -> Verdict:
    """SpecTr over K chains: at each depth one token is chosen from the live chains, those that carry it live on.

    A chain lives by the equality of tokens, however the token was chosen. Chains of one tree `chains(K, L)`, drawn
    independently; logq is needed.
    """
    tree, logq = proposal.tree, proposal.logq
    assert isinstance(tree, Tree) and logq is not None, (
        "k_sequence needs the distribution that the nodes were drawn from"
    )
    width = tree.parent.count(-1)
    level = proposal.token.reshape(-1, width)
    valid = proposal.valid.reshape(-1, width)
    row = logit_row(tree).reshape(-1, width)

    def descend(carry: tuple[Array, Array, Array], depth: Array) -> tuple[tuple[Array, Array, Array], Array]:
        alive, count, bonus = carry
        open_ = alive & valid[depth]
        chain = jnp.argmax(alive)
        stop = ~jnp.any(open_)  # nothing is submitted here: the token comes from P itself
        own = jnp.where(stop, -jnp.inf, 0.0) + logq[depth * width + jnp.argmax(open_)]
        here = jax.random.fold_in(key, depth)
        chosen = choose(logp[jnp.asarray(row)[depth, chain]], own, level[depth], open_, here)
        alive_after = open_ & (level[depth] == chosen)
        going = jnp.any(alive)  # false: an earlier depth has ended the walk
        bonus = jnp.where(going, chosen, bonus)
        count = count + jnp.any(alive_after).astype(jnp.int32)
        return (alive_after, count, bonus), jnp.argmax(alive_after).astype(jnp.int32) + depth * width

    begin = (jnp.ones(width, bool), jnp.int32(0), jnp.int32(0))
    (alive, count, bonus), path = jax.lax.scan(descend, begin, jnp.arange(level.shape[0], dtype=jnp.int32))
    whole = jnp.any(alive)
    end = jnp.where(whole, jnp.argmax(alive) + tree.size - width, -1)
    last, _ = after(proposal, end)
    more = draw(logp[last], jax.random.fold_in(key, tree.size))
    # the nodes of the path must belong to one chain: that of any chain alive at the last depth reached
    deepest = path[jnp.maximum(count - 1, 0)] if tree.size else jnp.int32(0)
    return Verdict(jnp.asarray(tree.paths)[deepest + 1], count, jnp.where(whole, more, bonus), ~whole | tree.bonus)
