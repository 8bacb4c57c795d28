"""Draft and verify: one forward makes as many steps of the host as its drafts foresaw (FreeDave, arXiv 2510.00294)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm import argument, struct
from jaxdlm.core import compose, loop
from jaxdlm.core.carry import Carry, Geometry, LogitsAccess, Row, Rows, Status, Trace, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import Decoding, PolicyWrapper, Rule, Stepper
from jaxdlm.core.select import select_rows
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree

MOST = 64  # versions of a row: as many rows in every forward


class Drafts(NamedTuple):
    """The host's next steps, if the next forward gave the last logits again."""

    tokens: Int32[Array, "N W"]  # the window after 1, 2, .. N more steps; N = draft_steps - 1
    read: Bool[Array, ""]  # the next forward reads them; not at the start of a block, where it refreshes the cache


class State(NamedTuple):
    inner: PyTree
    drafts: Drafts


class Verified(NamedTuple):
    """The rows after the steps that one forward has verified."""

    rows: Rows
    changed: Bool[Array, "B W"]
    score: Float32[Array, "B W"]
    last: Int32[Array, "B"]  # the version whose logits made the last step


@struct.dataclass
class FreeDave(PolicyWrapper):
    """See `freedave`. State: the host's, and (draft_steps - 1) W tokens."""

    inner: Any
    draft_steps: int = struct.field(pytree_node=False, default=4)
    official: bool = struct.field(pytree_node=False, default=False)

    @property
    def traits(self) -> Traits:
        return super().traits._replace(official=self.official, versions=self.draft_steps)

    def init(self, window: int, vocab: int) -> State:
        drafts = Drafts(jnp.zeros((self.draft_steps - 1, window), jnp.int32), jnp.asarray(False))
        return State(self.inner.init(window, vocab), drafts)

    def apply(self, update: Update, state: State, row: Row, key: Key[Array, ""]) -> tuple[Update, State]:
        """One step of the host."""
        update, inner = self.inner.apply(update, state.inner, row, key)
        return update, State(inner, state.drafts)

    def advance(self, carry: Carry, decoding: Decoding) -> Carry:
        """One forward over the row as it stands and its drafts, the steps that they allow, and new drafts."""
        rows, host = carry.rows, dataclasses.replace(decoding, policy=self.inner)
        start = loop.window_start(rows, self.inner, decoding.geometry)
        window, active = loop.read_window(rows, start, carry.cache, host, self.versions(rows, start))
        new, trace = self.apply_policy(rows, carry.trace, start, window.hidden, active, decoding)
        return Carry(new, window.state, trace, carry.loops + 1)

    def apply_policy(
        self, rows: Rows, trace: Trace, start: Int32[Array, "B"], hidden: Float[Array, "BN W D"],
        active: Bool[Array, "B"], decoding: Decoding,
    ) -> tuple[Rows, Trace]:  # fmt: skip
        """(rows, trace) after the steps that a forward over the versions of each row allows; as `loop.apply_policy`."""
        host, geometry = dataclasses.replace(decoding, policy=self.inner), decoding.geometry
        # several steps read the same logits, so tiles of the head would be read several times
        flat = loop.read_head(hidden, LogitsAccess.SUMMARY, host)
        head_output = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> b n ...", n=self.draft_steps), flat)
        unwrapped = rows._replace(policy=rows.policy.inner)
        verified = (subset if self.official else exact)(unwrapped, rows.policy.drafts, head_output, start, host)
        drafts = self.draft(verified, head_output, start, host)
        new = verified.rows._replace(policy=State(verified.rows.policy, drafts), forwards=rows.forwards + 1)
        new = select_rows(active, new, rows)
        return new, loop.record(trace, rows, new, active, verified.changed, verified.score, start, geometry)

    def versions(self, rows: Rows, start: Int32[Array, "B"]) -> Int32[Array, "B N L"]:
        """The row as it stands, then its drafts."""
        put = jax.vmap(jax.lax.dynamic_update_slice_in_dim, (None, 0, None, None))
        drafts = jax.vmap(put, (0, 0, 0, None))(rows.tokens, rows.policy.drafts.tokens, start, 0)
        return jnp.concatenate([rows.tokens[:, None], drafts], axis=1)

    def draft(self, verified: Verified, head_output: loop.HeadOutput, start: Array, host: Decoding) -> Drafts:
        """The host's next steps on the logits of the last step, as drafts of what it would do on fresh ones."""
        stale, width = pick(head_output, verified.last), head_output.logits.shape[2]

        def ahead(rows: Rows, _: None) -> tuple[Rows, Array]:
            new, _, _ = loop.decide(rows, stale, start, host)
            return new, window(new.tokens, start, width)

        _, tokens = jax.lax.scan(ahead, verified.rows, None, length=self.draft_steps - 1)
        read = goes_on(verified.rows, verified.rows.stop, start, host)
        return Drafts(rearrange(tokens, "n b w -> b n w"), read)


def exact(rows: Rows, drafts: Drafts, head_output: loop.HeadOutput, start: Array, host: Decoding) -> Verified:
    """The rows after steps of the host, each on the logits of the draft that equals its row, until none does."""
    stop, (batch, count, width) = rows.stop, head_output.logits.shape[:3]
    blank = jnp.zeros((batch, width), bool)
    begin = Verified(rows, blank, jnp.zeros(blank.shape, jnp.float32), jnp.zeros(rows.step.shape, jnp.int32))

    def body(carry: tuple[Verified, Array], at: Any) -> tuple[tuple[Verified, Array], None]:
        verified, true = carry
        number, following = at
        new, wrote, score = loop.decide(verified.rows, of_version(head_output, number), start, host)
        new, wrote = select_rows(true, new, verified.rows), wrote & true[:, None]
        last = jnp.where(true, number, verified.last)
        verified = Verified(new, verified.changed | wrote, jnp.where(wrote, score, verified.score), last)
        foreseen = jnp.all(window(new.tokens, start, width) == following, axis=1)
        return (verified, true & drafts.read & foreseen & goes_on(new, stop, start, host)), None

    # the last version's successor has no draft to match
    following = jnp.concatenate([rearrange(drafts.tokens, "b n w -> n b w"), jnp.full((1, *blank.shape), -1)])
    numbers = jnp.arange(count, dtype=jnp.int32)
    (verified, _), _ = jax.lax.scan(body, (begin, jnp.ones(rows.done.shape, bool)), (numbers, following))
    return verified


def subset(rows: Rows, drafts: Drafts, head_output: loop.HeadOutput, start: Array, host: Decoding) -> Verified:
    """The released acceptance: go on to the last draft whose written columns the version reached so far leads to.

    And a block that more than one column completed at once is read once more.
    """
    geometry, mask = host.geometry, host.model.config.tokens.mask
    count, width = head_output.logits.shape[1:3]
    here = window(rows.tokens, start, width)
    drafted = jnp.where(drafts.read[:, None, None], drafts.tokens, -1)  # -1: agrees with nothing
    windows = jnp.concatenate([here[:, None], drafted], axis=1)
    full = jax.vmap(lambda tokens, new, at: jax.lax.dynamic_update_slice_in_dim(tokens, new, at, 0))
    reached = []
    for number in range(count):
        tokens = full(rows.tokens, windows[:, number], start)
        version = rows._replace(tokens=tokens, pending=rows.pending & (tokens == mask))
        reached.append((version, *loop.decide(version, of_version(head_output, number), start, host)))
    before, after, _, score = (jax.tree.map(lambda *x: jnp.stack(x, 1), *part) for part in zip(*reached))
    targets = jax.vmap(window, (1, None, None), 1)(after.tokens, start, width)
    match = (windows[:, None] == targets[:, :, None]) | (windows[:, None] == mask)  # [B, from, to, W]
    number = jnp.arange(count, dtype=jnp.int32)
    agree = match.all(-1) & (number[:, None] < number[None, :])[None]
    last = jnp.zeros(rows.step.shape, jnp.int32)
    for _ in range(count - 1):
        last = jnp.maximum(last, jnp.max(jnp.where(pick(agree, last), number[None, :], 0), axis=1))
    old, new = (jax.tree.map(lambda x: pick(x, last), part) for part in (before, after))
    once_more = jnp.sum(old.pending[:, geometry.prompt :] & inside(old, geometry), axis=1) > 1
    once_more = once_more & ((new.block != old.block) | new.done) & (new.status != int(Status.NONFINITE))
    held = {"block": old.block, "tick": old.tick + 1, "done": old.done, "status": old.status}
    new = select_rows(~once_more, new, new._replace(**held))
    changed = window(rows.pending & ~new.pending, start, width)
    return Verified(new, changed, pick(score, last), last)


def of_version(head_output: loop.HeadOutput, number: Any) -> loop.HeadOutput:
    """The head's output for one version of each row."""
    return jax.tree.map(lambda x: x[:, number], head_output)


def inside(rows: Rows, geometry: Geometry) -> Bool[Array, "B C"]:
    """Canvas columns of each row's block."""
    column = jnp.arange(geometry.canvas, dtype=jnp.int32)
    return (column // geometry.block)[None, :] == rows.block[:, None]


def goes_on(rows: Rows, stop: Int32[Array, "B"], start: Int32[Array, "B"], host: Decoding) -> Bool[Array, "B"]:
    """Whether a forward of the same window, canvas and cache would come next."""
    same = (loop.window_start(rows, host.policy, host.geometry) == start) & (rows.stop == stop) & ~rows.done
    return same if host.cache.recomputes_all else same & ~host.cache.due(rows)


def window(x: Array, start: Int32[Array, "B"], width: int) -> Array:
    """Columns start .. start + width of each row."""
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, width))(x, start)


def pick(tree: PyTree, index: Int32[Array, "B"]) -> Any:
    """x[b, index[b]] for each b, leaf by leaf."""
    return jax.vmap(lambda rows, at: jax.tree.map(lambda x: x[at], rows))(tree, index)


def draft_and_verify(host: Any, draft_steps: int = 4, *, official: bool = False) -> FreeDave:
    """Decodes as `host` does, several of its steps per forward where the drafts come true.

    Versions s_1 .. s_N of a row go through the model as one batch: s_1 is the row as it stands, s_{n+1} what the host
    makes of s_n with the logits of the last step. With the fresh logits l_n of s_n, host(l_1, s_1) is always right;
    if it is s_2, so is host(l_2, s_2), and so on. N = 1 is the host itself.
    Args:
        host: any policy, for example `chain(sample(), select_top_k())`. A random one draws from keys of its own steps, so it
            makes the same draws as without drafts.
        draft_steps: N, a shape: another one compiles again. 4 for LLaDA, 8 for Dream and SDAR in arXiv 2510.00294.
        official: accept a draft whose written columns agree, and spend one more forward where a threshold completes a
            block, as released. Not lossless; for hosts without memory, such as `select_above`.
    The same tokens as the host in no more forwards, with the same cache, at any temperature; as far as the model gives
    the same logits for N versions as for one. Departures from the released code: the last accepted version's own step
    is written at once, not at the next forward; random hosts share their noise with their drafts. Not here: eager
    acceptance over block ends (a view over the whole canvas does cross them).
    Raises InputError for draft_steps outside 1..64, or a host that is no rule or steps on its own.
    """
    if not isinstance(host, Rule):
        raise InputError(f"host={argument.shown(host)}: must be a rule such as chain(sample(), select_top_k())")
    if isinstance(host, Stepper):
        raise InputError(f"host={type(host).__name__}: must be a chain of rules, not a policy that steps on its own")
    compose.complete(host, "freedave's host")
    draft_steps = argument.whole(1, MOST)(draft_steps, "draft_steps")
    return FreeDave(host, draft_steps, argument.flag(official, "official"))
