"""Draft and verify: one forward makes as many steps of the host as its drafts foresaw (FreeDave, arXiv 2510.00294)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxdlm import argument, struct
from jaxdlm.core import compose, loop
from jaxdlm.core.cache import Cache
from jaxdlm.core.carry import Carry, Draft, Geometry, Reach, Row, Rows, Status, Trace
from jaxdlm.core.model import Model
from jaxdlm.core.rule import Hosting, Rule, Stepper
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key, PyTree

MOST = 64  # versions of a row: as many rows in every forward


class Drafts(NamedTuple):
    """Where the host would go from here on the last logits alone."""

    tokens: Int32[Array, "N W"]  # the window after 1, 2, .. N more steps; N = draft_steps - 1
    read: Bool[Array, ""]  # the next forward reads them; not at the start of a block, where it refreshes the cache


class State(NamedTuple):
    host: PyTree
    drafts: Drafts


class Found(NamedTuple):
    """How far one forward led."""

    rows: Rows
    changed: Bool[Array, "B W"]
    score: Float32[Array, "B W"]
    last: Int32[Array, "B"]  # the version whose logits made the last step


@struct.dataclass
class FreeDave(Hosting):
    """See `freedave`. State: the host's, and (draft_steps - 1) W tokens."""

    host: Any
    draft_steps: int = struct.field(pytree_node=False, default=4)
    official: bool = struct.field(pytree_node=False, default=False)

    def init(self, window: int, vocab: int) -> State:
        drafts = Drafts(jnp.zeros((self.draft_steps - 1, window), jnp.int32), jnp.asarray(False))
        return State(self.host.init(window, vocab), drafts)

    def apply(self, draft: Draft, state: State, row: Row, key: Key[Array, ""]) -> tuple[Draft, State]:
        """One step of the host."""
        draft, host = self.host.apply(draft, state.host, row, key)
        return draft, State(host, state.drafts)

    def advance(
        self, carry: Carry, *, model: Model, params: PyTree, policy: Rule, cache: Cache, geometry: Geometry
    ) -> Carry:
        """One forward over the row as it stands and its drafts, the steps that they allow, and new drafts."""
        rows, fixed = carry.rows, {"model": model, "params": params, "geometry": geometry}
        start = loop.window_start(rows, self.host, geometry)
        hidden, state, active = loop.window_hidden(
            rows, start, carry.cache, self.versions(rows, start), policy=self.host, cache=cache, **fixed
        )
        new, trace = self.settle(rows, carry.trace, start, hidden, active, cache=cache, **fixed)
        return Carry(new, state, trace, carry.loops + 1)

    def settle(
        self, rows: Rows, trace: Trace, start: Int32[Array, "B"], hidden: Float[Array, "BN W D"],
        active: Bool[Array, "B"], *, model: Model, params: PyTree, cache: Cache, geometry: Geometry,
    ) -> tuple[Rows, Trace]:  # fmt: skip
        """What comes of a forward over the versions of each row; as `loop.settle`."""
        fixed = {"model": model, "params": params, "policy": self.host}
        # several steps read the same logits, so tiles of the head would be read several times
        flat = loop.read(hidden, Reach.SUMMARY, **fixed)
        said = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> b n ...", n=self.draft_steps), flat)
        hosted, fixed = rows._replace(policy=rows.policy.host), fixed | {"geometry": geometry}
        found = (subset if self.official else exact)(hosted, rows.policy.drafts, said, start, cache, fixed)
        drafts = self.draft(found, said, start, cache, fixed)
        new = found.rows._replace(policy=State(found.rows.policy, drafts), forwards=rows.forwards + 1)
        new = loop.freeze(active, new, rows)
        return new, loop.record(trace, rows, new, active, found.changed, found.score, start, geometry)

    def versions(self, rows: Rows, start: Int32[Array, "B"]) -> Int32[Array, "B N L"]:
        """The row as it stands, then its drafts."""
        put = jax.vmap(jax.lax.dynamic_update_slice_in_dim, (None, 0, None, None))
        drafts = jax.vmap(put, (0, 0, 0, None))(rows.tokens, rows.policy.drafts.tokens, start, 0)
        return jnp.concatenate([rows.tokens[:, None], drafts], axis=1)

    def draft(self, found: Found, said: loop.Read, start: Array, cache: Cache, fixed: dict[str, Any]) -> Drafts:
        """The host's next steps if the model did not change its mind: replayed on the logits of the last step."""
        stale, width = pick(said, found.last), said.logits.shape[2]

        def ahead(rows: Rows, _: None) -> tuple[Rows, Array]:
            new, _, _ = loop.decide(rows, stale, start, **fixed)
            return new, window(new.tokens, start, width)

        _, tokens = jax.lax.scan(ahead, found.rows, None, length=self.draft_steps - 1)
        read = goes_on(found.rows, found.rows.stop, start, cache, fixed)
        return Drafts(rearrange(tokens, "n b w -> b n w"), read)


def exact(rows: Rows, drafts: Drafts, said: loop.Read, start: Array, cache: Cache, fixed: dict[str, Any]) -> Found:
    """Steps of the host, each on the logits of the version that the step before led to, as long as one was drafted."""
    stop, (batch, count, width) = rows.stop, said.logits.shape[:3]
    blank = jnp.zeros((batch, width), bool)
    begin = Found(rows, blank, jnp.zeros(blank.shape, jnp.float32), jnp.zeros(rows.step.shape, jnp.int32))

    def body(carry: tuple[Found, Array], at: Any) -> tuple[tuple[Found, Array], None]:
        found, true = carry
        number, following = at
        new, wrote, score = loop.decide(found.rows, said_of(said, number), start, **fixed)
        new, wrote = loop.freeze(true, new, found.rows), wrote & true[:, None]
        last = jnp.where(true, number, found.last)
        found = Found(new, found.changed | wrote, jnp.where(wrote, score, found.score), last)
        foreseen = jnp.all(window(new.tokens, start, width) == following, axis=1)
        return (found, true & drafts.read & foreseen & goes_on(new, stop, start, cache, fixed)), None

    # what the last version leads to is nobody's draft
    following = jnp.concatenate([rearrange(drafts.tokens, "b n w -> n b w"), jnp.full((1, *blank.shape), -1)])
    numbers = jnp.arange(count, dtype=jnp.int32)
    (found, _), _ = jax.lax.scan(body, (begin, jnp.ones(rows.done.shape, bool)), (numbers, following))
    return found


def subset(rows: Rows, drafts: Drafts, said: loop.Read, start: Array, cache: Cache, fixed: dict[str, Any]) -> Found:
    """The released acceptance: go on to the last draft whose written columns the version reached so far leads to.

    And a block that more than one column completed at once is read once more.
    """
    geometry, mask = fixed["geometry"], fixed["model"].config.tokens.mask
    count, width = said.logits.shape[1:3]
    here = window(rows.tokens, start, width)
    drafted = jnp.where(drafts.read[:, None, None], drafts.tokens, -1)  # -1: agrees with nothing
    windows = jnp.concatenate([here[:, None], drafted], axis=1)
    full = jax.vmap(lambda tokens, new, at: jax.lax.dynamic_update_slice_in_dim(tokens, new, at, 0))
    reached = []
    for number in range(count):
        tokens = full(rows.tokens, windows[:, number], start)
        version = rows._replace(tokens=tokens, pending=rows.pending & (tokens == mask))
        reached.append((version, *loop.decide(version, said_of(said, number), start, **fixed)))
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
    new = loop.freeze(~once_more, new, new._replace(**held))
    changed = window(rows.pending & ~new.pending, start, width)
    return Found(new, changed, pick(score, last), last)


def said_of(said: loop.Read, number: Any) -> loop.Read:
    """What the head says of one version of each row."""
    return jax.tree.map(lambda x: x[:, number], said)


def inside(rows: Rows, geometry: Geometry) -> Bool[Array, "B C"]:
    """Canvas columns of each row's block."""
    column = jnp.arange(geometry.canvas, dtype=jnp.int32)
    return (column // geometry.block)[None, :] == rows.block[:, None]


def goes_on(
    rows: Rows, stop: Int32[Array, "B"], start: Int32[Array, "B"], cache: Cache, fixed: dict[str, Any]
) -> Bool[Array, "B"]:
    """Whether a forward of the same window, canvas and cache would come next."""
    same = (loop.window_start(rows, fixed["policy"], fixed["geometry"]) == start) & (rows.stop == stop) & ~rows.done
    return same if cache.always else same & ~cache.due(rows)


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
        draft_steps: N, a shape: another one compiles anew. 4 for LLaDA, 8 for Dream and SDAR in arXiv 2510.00294.
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
