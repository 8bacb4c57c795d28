"""The draft-and-target loop: propose, one target forward, accept, keep the accepted keys, until every row is done.

Rows accept different numbers of tokens. Each has its own length, and everything else follows from it: positions,
what is visible, and what is overwritten next. No row waits for another and nothing is padded again.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core import engine
from jaxdlm.core.carry import Status, Trace
from jaxdlm.core.ending import ends_here
from jaxdlm.core.kv import take
from jaxdlm.core.model import KV, Model
from jaxdlm.core.readout import mask_invalid, proposable
from jaxdlm.core.select import select_rows
from jaxdlm.speculative import copies, guiding, prefix, verify
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import taps as tapping
from jaxdlm.speculative.guided import guided
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.state import (
    Borrows,
    Carry,
    Drafter,
    Extends,
    Lent,
    Proposal,
    Rows,
    Seen,
    Verdict,
    Watches,
)
from jaxdlm.speculative.tree import Grown, Tree, shape_of
from jaxdlm.speculative.warp import ACCEPT, DRAFT, Warp, drawn, position_noise, stage_key
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree


def init(rows: Rows, decoding: Decoding, prompt: int, max_new: int, save: str, shared: int = 0) -> Carry:
    """The carry before the first round: prompts (their first `prompt` columns) read by target and drafter.

    save: see `engine.blank_trace`. shared: columns that all rows have alike, which the target reads once.
    """
    policy, drafter = decoding.policy, decoding.policy.drafter
    model, params = target_of(prefix.reading(decoding, rows))
    rows = guiding.begin(policy.guide, rows, model.config.vocab_size)
    given, visual = rows.tokens[:, :prompt], prefix.visual_of(rows)
    rows = prefix.words(rows, model.config)
    batch, columns = rows.tokens.shape
    state = drafter.init(rows, prompt)
    if shared and not isinstance(drafter, Watches):  # who watches sees whole prompts
        kv = store.prefill(model, params, rows.tokens, prompt, shared=shared)
    else:
        places = store.places(batch, prompt)
        out, taps = tapping.apply(model, params, given, *places, taps=tapping.taps_of(drafter))
        kv = store.room(out.kv, columns)
    drafter = drafter_of(decoding, kv)
    if isinstance(drafter, Watches):
        nothing = jnp.zeros((batch, 0, model.config.vocab_size), jnp.float32)
        state = drafter.begin(state, rows, Seen(nothing, taps, visual))
    trace = engine.blank_trace(save, batch, max_new, policy.top)
    carry = Carry(rows, kv, state, trace, jnp.int32(0))
    carry = copies.spread(carry, policy.samples, policy.streams)
    if policy.search is None:
        return carry
    return carry._replace(drafter=policy.search.init(carry, decoding, prompt, max_new))


def run(carry: Carry, until: Int32[Array, ""] | int, decoding: Decoding) -> Carry:
    """Rounds until every row is done or `until` rounds were made; the same carry may go in again."""
    return engine.run_until(carry, functools.partial(step, decoding=decoding), until)


def step(carry: Carry, decoding: Decoding) -> Carry:
    """One round; rows that are done keep every bit."""
    return step_and_logits(carry, decoding)[0]


def step_and_logits(carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1_R V"]]:
    """(the carry one round later, what the target read): before a guide has bent it."""
    rows, search = carry.rows, decoding.policy.search
    if search is not None:
        return search.step(carry, decoding)
    decoding = dataclasses.replace(decoding, policy=decoding.policy.of_rows(rows.sampling))
    drafter = drafter_of(decoding, carry.kv)
    proposal, drafting = drafter.propose(carry.drafter, rows, stage_keys(rows, DRAFT))
    proposal = bounded(proposal, rows)
    forward = (read if drafter.forwards else read_sparse)(carry, proposal, decoding)
    carry, judged = verify_and_commit(carry, proposal, forward.logits, forward.kv, decoding.policy)
    drafting = drafter.observe(drafting, rows, proposal, judged.verdict)
    if isinstance(drafter, Watches):
        drafting = drafter.watch(drafting, rows, proposal, judged.verdict, Seen(judged.logits, forward.taps))
    return carry._replace(drafter=drafting), forward.logits


def bounded(proposal: Proposal, rows: Rows) -> Proposal:
    """The proposal without nodes that could not be committed within the row's limit."""
    room = (rows.stop - rows.length)[:, None]
    depth = shape_of(proposal.tree, proposal.parent).depth
    return proposal.replace(valid=proposal.valid & (depth + int(proposal.tree.bonus) <= room))


def stage_keys(rows: Rows, stage: int) -> Key[Array, "B"]:
    """A key per row and round: the length of the row grows in every round, so no key is used twice."""
    return jax.vmap(functools.partial(stage_key, stage=stage))(rows.key, rows.length)


def target_of(decoding: Decoding) -> tuple[Model, PyTree]:
    """(the target as the loop runs it, its weights): with words of the drafter's, and guided, where the policy says so."""
    drafter, cfg = decoding.policy.drafter, decoding.policy.cfg
    own = (decoding.model, decoding.params)
    return guided(*(drafter.target(*own) if isinstance(drafter, Extends) else own), cfg)


def drafter_of(decoding: Decoding, kv: KV) -> Drafter:
    """The drafter of a round, with the target at hand where it drafts with what is the target's."""
    drafter: Drafter = decoding.policy.drafter
    return drafter.borrow(Lent(decoding.model, decoding.params, kv)) if isinstance(drafter, Borrows) else drafter


class Forward(NamedTuple):
    """What the target read of a proposal: logits of the root and the nodes, their keys and values, and what was tapped."""

    logits: Float32[Array, "B 1_R V"]
    kv: KV
    taps: Float[Array, "B 1_R K D"] | None


class Judged(NamedTuple):
    """The verdict, and what it was passed on: logits as the guide bends them. guide: its state behind the accepted tokens and
    the bonus; stuck: rows in which it allows nothing."""

    verdict: Verdict
    guide: PyTree
    stuck: Bool[Array, "B"] | bool
    logits: Float32[Array, "B 1_R V"]


def read(carry: Carry, proposal: Proposal, decoding: Decoding) -> Forward:
    """The target forward: the last committed token and the nodes below it, over the cached columns before them."""
    rows, tree = carry.rows, proposal.tree
    model, params = target_of(decoding)
    root = rows.length[:, None] - 1
    nodes, shape = np.asarray(tree.read), shape_of(tree, proposal.parent)
    tokens = jnp.concatenate([store.take(rows.tokens, root), proposal.token[:, nodes]], axis=1)
    position = root + jnp.pad(shape.depth[:, nodes], [(0, 0), (1, 0)])
    valid = jnp.concatenate([jnp.ones_like(root, bool), proposal.valid[:, nodes]], axis=1)
    past = store.seen(carry.kv, rows.length - 1)
    past = past._replace(place=position) if decoding.policy.placed and tree.is_chain else past
    mask = None
    if not tree.is_chain:  # positions alone order a chain
        mask = store.tree_mask(tokens.shape[0], past.position.shape[1], shape.above[:, nodes][:, :, nodes])
    wanted = tapping.taps_of(decoding.policy.drafter)
    out, taps = tapping.apply(model, params, tokens, position, valid, past, mask=mask, taps=wanted)
    return Forward(mask_invalid(model.head(params, out.hidden), model), out.kv, taps)


def read_sparse(carry: Carry, proposal: Proposal, decoding: Decoding) -> Forward:
    """`read`, of the last committed tokens alone in a round in which no row has a draft: drafts that cost nothing are
    often missing. What stands for nodes is then 0."""
    missing = len(proposal.tree.read)
    if not missing:
        return read(carry, proposal, decoding)

    def root() -> Forward:
        none = Proposal(proposal.token[:, :0], proposal.valid[:, :0], None, Tree(()))
        logits, kv, taps = read(carry, none, decoding)
        wide = lambda x, axis: jnp.pad(x, [(0, missing * (at == axis)) for at in range(x.ndim)])  # noqa: E731
        kv = jax.tree.map(lambda leaf: wide(leaf, 2), kv)
        return Forward(wide(logits, 1), kv, None if taps is None else wide(taps, 1))

    drafted = jnp.any(proposal.valid & ~carry.rows.done[:, None])
    return jax.lax.cond(drafted, lambda: read(carry, proposal, decoding), root)


def verify_and_commit(
    carry: Carry, proposal: Proposal, logits: Float32[Array, "B 1_R V"], fresh: KV, policy: Speculation
) -> tuple[Carry, Judged]:
    """(the carry with the accepted tokens committed and their keys stored, what was judged)."""
    rows, tree = carry.rows, proposal.tree
    judged = judge_guided(rows, logits, proposal, policy)
    verdict = judged.verdict
    bad = ~proposable(jnp.max(logits, axis=2))
    bad = bad if policy.guide is None else bad | judged.stuck
    kv = keep(carry.kv, fresh, rows, verdict, tree)
    return closed(carry._replace(kv=kv), policy, proposal, verdict, bad, judged.guide, logits), judged


def judge(rows: Rows, logits: Float32[Array, "B 1_R V"], proposal: Proposal, policy: Speculation) -> Verdict:
    """The verdict of the acceptance rule on each row; models of one tokenizer may be padded to vocabularies of
    different size."""
    key = stage_keys(rows, ACCEPT)
    log_probs = logits if policy.acceptance_reads_logits else policy.warp.log_prob(logits)
    if policy.warp.shared and not policy.warp.greedy:  # the best of what is drawn here is the token that is drawn
        log_probs = contest(rows, log_probs, proposal, policy.warp)
    if proposal.logq is not None:
        size = max(log_probs.shape[-1], proposal.logq.shape[-1])
        log_probs, proposal = fit(log_probs, size), proposal.replace(logq=fit(proposal.logq, size))
    return jax.vmap(policy.acceptance)(log_probs, proposal, key)


def contest(rows: Rows, logp: Float32[Array, "B 1_R V"], proposal: Proposal, warp: Warp) -> Float32[Array, "B 1_R V"]:
    """Scores whose best is the token that plain sampling draws at the position that each row of `logp` predicts: by noise that
    is the same for all nodes of one depth, or by its number."""
    tree, size = proposal.tree, logp.shape[2]
    if tree.is_chain:
        depth = jnp.broadcast_to(jnp.arange(1 + len(tree.read), dtype=jnp.int32), logp.shape[:2])
    else:
        depth = jnp.pad(shape_of(tree, proposal.parent).depth[:, tree.read], [(0, 0), (1, 0)])
    if warp.inverse:
        token = drawn(warp, logp, rows, rows.length[:, None] + depth)
        return jnp.where(jax.nn.one_hot(token, size, dtype=bool), jnp.float32(0), -jnp.inf)
    noise = position_noise(rows.key, rows.length, tree.depth + 1, size)
    if tree.is_chain:
        return logp + noise[:, : 1 + len(tree.read)]
    return logp + jnp.take_along_axis(noise, depth[:, :, None], axis=1)


def judge_guided(rows: Rows, logits: Float32[Array, "B 1_R V"], proposal: Proposal, policy: Speculation) -> Judged:
    """The verdict on the logits as the guide bends them.

    The text may come to where the guide allows nothing. What is drafted behind such a node does not count, no bonus
    follows it, and a row whose root it is is stuck. A forbidden token needs no such care: its probability is 0.
    """
    tree = proposal.tree
    if policy.guide is None:
        return Judged(judge(rows, logits, proposal, policy), (), False, logits)
    nodes = guiding.nodes_of(policy.guide, rows.guide)
    states = nodes.below(proposal)
    bent, live = nodes.transform(logits, nodes.pick(states, np.concatenate([[0], 1 + tree.read])))
    live_parent = store.take(live, jnp.broadcast_to(verify.parent_row(proposal), proposal.token.shape))
    proposal = proposal.replace(valid=proposal.valid & live_parent)
    verdict = judge(rows, bent, proposal, policy)
    end = jnp.zeros_like(verdict.bonus)[:, None]  # the last node that stays, 0: the root
    if tree.size:
        last = store.take(verdict.path, verdict.count[:, None] - 1)
        end = jnp.where(verdict.count[:, None] > 0, 1 + last, 0)
    at = nodes.pick(states, end)
    emit = verdict.emit & store.take(live, jnp.asarray(verify.read_row(tree))[end])[:, 0]
    state = select_rows(emit, nodes.advance(at, verdict.bonus[:, None]), at)
    return Judged(verdict._replace(emit=emit), nodes.row(state), ~live[:, 0], bent)


def fit(logp: Float32[Array, "B T U"], size: int) -> Float32[Array, "B T V"]:
    """The log-probabilities, filled with -inf up to `size` ids."""
    missing = size - logp.shape[-1]
    return logp if not missing else jnp.pad(logp, [(0, 0), (0, 0), (0, missing)], constant_values=-jnp.inf)


def keep(kv: KV, fresh: KV, rows: Rows, verdict: Verdict, tree: Tree | Grown) -> KV:
    """The cache with the keys of the root and of the accepted path; of a chain all, as rejected ones stay invisible."""
    if not tree.is_chain:
        path = jnp.asarray(verify.read_row(tree))[1 + verdict.path]
        fresh = take(fresh, jnp.concatenate([jnp.zeros_like(path[:, :1]), path], axis=1))
    count = jax.tree.leaves(fresh.k)[0].shape[2]
    return store.put(kv, fresh, rows.length[:, None] - 1 + jnp.arange(count, dtype=jnp.int32)[None, :])


def commit(
    rows: Rows, proposal: Proposal, verdict: Verdict, bad: Bool[Array, "B"], policy: Speculation, guide: PyTree
) -> tuple[Rows, Int32[Array, "B 1_D"], Int32[Array, "B"]]:
    """(rows with the new tokens, these tokens, their count): accepted ones and the bonus, cut at an end and at the
    limit. guide: the state behind all of them; a row that is cut is done, and needs none."""
    path = store.take(proposal.token, verdict.path) if proposal.tree.size else verdict.path
    place = jnp.arange(path.shape[1] + 1, dtype=jnp.int32)[None, :]
    padded = jnp.concatenate([path, jnp.zeros_like(verdict.bonus)[:, None]], axis=1)
    tokens = jnp.where(place == verdict.count[:, None], verdict.bonus[:, None], padded)
    count = jnp.minimum(verdict.count + verdict.emit.astype(jnp.int32), rows.stop - rows.length)
    stop = columns_to_stop(rows, tokens, count)
    stopped = stop <= count
    count = jnp.minimum(count, stop)
    count = jnp.where(rows.done | bad, 0, count)
    column = jnp.where(place < count[:, None], rows.length[:, None] + place, rows.tokens.shape[1])
    text = rows.tokens.at[jnp.arange(count.shape[0])[:, None], column].set(tokens, mode="drop")
    full = rows.length + count >= rows.stop
    status = jnp.where(stopped, int(Status.EOS), jnp.where(full, int(Status.FINISHED), rows.status))
    new = rows._replace(
        tokens=text,
        length=rows.length + count,
        done=stopped | full | bad,
        status=engine.failed(status, bad),
        step=rows.step + 1,
        draft_step=rows.draft_step + (policy.drafter.forwards if proposal.forwards is None else proposal.forwards),
        drafted=rows.drafted + jnp.sum(proposal.valid, axis=1, dtype=jnp.int32),
        accepted=rows.accepted + jnp.minimum(verdict.count, count),
        guide=guide,
    )
    return select_rows(~rows.done, new, rows), tokens, count


def closed(
    carry: Carry, policy: Speculation, proposal: Proposal, verdict: Verdict, bad: Bool[Array, "B"], guide: PyTree,
    logits: Float32[Array, "B 1_R V"],
) -> Carry:  # fmt: skip
    """The carry behind a round: its verdict committed and recorded. guide: the state behind what was accepted."""
    rows = carry.rows
    new, tokens, count = commit(rows, proposal, verdict, bad, policy, guide)
    trace = record(carry.trace, rows, new, tokens, count, verdict, proposal, logits)
    return Carry(new, carry.kv, carry.drafter, trace, carry.loops + 1)


def columns_to_stop(rows: Rows, tokens: Int32[Array, "B 1_D"], count: Int32[Array, "B"]) -> Int32[Array, "B"]:
    """Of `count` new tokens those up to and with the first that ends the row; above `count` where none does."""
    if rows.ends is None:
        return count + 1
    back = rows.ends.shape[2] - 1  # a sequence may have begun in earlier rounds

    def one(row: Rows, tokens: Array, count: Array) -> Array:
        place = jnp.arange(-back, tokens.shape[0], dtype=jnp.int32)
        before = row.tokens[jnp.maximum(row.length + place[:back], 0)]
        own = (row.length + place >= row.start) & (place < count)
        here = ends_here(jnp.concatenate([before, tokens]), own, row.ends)[back:]
        return jnp.where(here.any(), jnp.argmax(here).astype(jnp.int32) + 1, count + 1)

    return jax.vmap(one)(rows, tokens, count)


def record(
    trace: Trace, old: Rows, new: Rows, tokens: Array, count: Array, verdict: Verdict, proposal: Proposal, logits: Array
) -> Trace:
    """Which target forward committed a column, and log softmax(logits) of its token there; written by index."""
    if trace.commit_step is None:
        return trace
    limit = trace.commit_step.shape[1]
    place = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    column = jnp.where(place < count[:, None], (old.length - old.start)[:, None] + place, limit)
    at = row_before(verdict, proposal.tree)
    score = token_log_probs(tokens, at, logits)
    top = None if trace.top_token is None else likeliest(logits, at, trace.top_token.shape[2])
    written = new.start[:, None] + jnp.arange(limit, dtype=jnp.int32)[None, :]
    text = jnp.where(written < new.length[:, None], store.take(new.tokens, written), 0)
    return engine.record(trace, old.step, ~old.done, column, score, text, top)


def row_before(verdict: Verdict, tree: Tree | Grown) -> Int32[Array, "B 1_D"]:
    """The row of logits behind which each token stands: the root's, then those of the path."""
    path = jnp.asarray(verify.read_row(tree))[1 + verdict.path] if tree.size else verdict.path
    return jnp.concatenate([jnp.zeros_like(verdict.count)[:, None], path], axis=1)


def likeliest(
    logits: Float32[Array, "B 1_R V"], row: Int32[Array, "B 1_D"], count: int
) -> tuple[Int32[Array, "B 1_D K"], Float32[Array, "B 1_D K"]]:
    """(the best tokens by these rows of logits, log softmax of each)."""
    score, token = jax.lax.top_k(jax.nn.log_softmax(logits, axis=2), count)
    own = lambda x: jnp.take_along_axis(x, row[:, :, None], axis=1)  # noqa: E731
    return own(token).astype(jnp.int32), own(score)


def token_log_probs(
    tokens: Int32[Array, "B 1_D"], row: Int32[Array, "B 1_D"], logits: Float32[Array, "B 1_R V"]
) -> Float32[Array, "B 1_D"]:
    """log softmax(logits)[token], each token by its row of logits."""
    total = jax.nn.logsumexp(logits, axis=2)
    index = row * logits.shape[2] + tokens
    flat = logits.reshape(logits.shape[0], -1)
    return jnp.take_along_axis(flat, index, axis=1) - jnp.take_along_axis(total, row, axis=1)
