"""A fixed set of rows on each device: a finished row leaves its slot to the next waiting one, inside the loop.

The host hands over queues of waiting rows and gets back what has finished; it takes no part in the exchange, so a
queue can be sent while the one before it is still being worked on, and the device never waits. Replicas of the model
(the `data` axis of the mesh) have slots and queues of their own and share no collective.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import languages
from jaxdlm.core import loop
from jaxdlm.core.automaton import Automaton
from jaxdlm.core.carry import Carry, Geometry, Rows, Trace, Witness
from jaxdlm.core.compiled import compiled
from jaxdlm.core.ending import ANY
from jaxdlm.core.keys import row_keys, sampled
from jaxdlm.core.model import Model
from jaxdlm.core.rule import Decoding
from jaxdlm.core.select import select_rows
from jaxdlm.rules.per_row import PerRowState
from jaxdlm.sharding import RULES
from jaxdlm.typing import Array, Bool, Int32, PyTree

FREE = -1
NOTHING = Trace(None, None, None)


class Queue(NamedTuple):
    """Waiting rows."""

    tokens: Int32[Array, "Q L"]
    pads: Int32[Array, "Q"]
    first: Int32[Array, "Q"]  # canvas columns before it belong to the prompt
    stop: Int32[Array, "Q"]  # canvas columns from here on do not exist
    seed: Int32[Array, "Q"]
    id: Array  # uint32[Q]; keys the randomness, together with the seed
    owner: Int32[Array, "Q"]  # which row of the job this is
    numbers: dict[str, Array] | None  # what `per_row` reads
    ends: Int32[Array, "Q N K"] | None = None  # sequences of ids that end a row
    grammar: Automaton | Witness | None = None  # [Q, ...]
    sample: Int32[Array, "Q"] | None = None  # which of the answers of its prompt a row is; None: the first


class Sides(NamedTuple):
    """The shapes of what only some rows have; None where those of a program do not."""

    ends: tuple[int, int] | None = None
    grammar: tuple[int, int, int, int] | None = None


NO_SIDES = Sides()


class Pool(NamedTuple):
    """The state that stays on the device from one queue to the next."""

    rows: Rows
    cache: PyTree
    owner: Int32[Array, "S"]  # the row of the job in each slot, or FREE


class Harvest(NamedTuple):
    """Rows that finished while a queue was taken in; the first `count` entries, in the order of finishing."""

    owner: Int32[Array, "N"]
    tokens: Int32[Array, "N C"]
    forwards: Int32[Array, "N"]
    status: Int32[Array, "N"]
    count: Int32[Array, ""]
    trips: Int32[Array, ""]  # forwards of the whole set of slots
    busy: Int32[Array, ""]  # sum over trips of the rows that took part


class Turn(NamedTuple):
    """How far a set of slots goes before the host hears of it."""

    least: Int32[Array, ""]  # forwards before a closed block or a finished row ends it
    most: Int32[Array, ""]
    gone: Bool[Array, "S"]  # slots whose answer nobody waits for any more


class Standing(NamedTuple):
    """Where a set of slots stands after a turn."""

    owner: Int32[Array, "S"]
    tokens: Int32[Array, "S C"]
    pending: Bool[Array, "S C"]
    block: Int32[Array, "S"]
    forwards: Int32[Array, "S"]
    head: Int32[Array, ""]  # waiting rows that got a slot


class State(NamedTuple):
    pool: Pool
    head: Int32[Array, ""]  # waiting rows that were admitted
    harvest: Harvest
    closed: Bool[Array, ""]  # whether a row has closed a block, or ended


def waiting(queue: Queue, decoding: Decoding) -> Rows:
    """The rows of a queue before their first forward."""
    geometry = decoding.geometry
    column = jnp.arange(geometry.length, dtype=jnp.int32)[None, :] - geometry.prompt
    pending = (column >= queue.first[:, None]) & (column < queue.stop[:, None])
    zero = jnp.zeros_like(queue.pads)
    rows = Rows(
        tokens=queue.tokens, pending=pending, prefilled=~pending, pads=queue.pads, stop=queue.stop,
        key=row_keys(queue.seed, queue.id), done=zero > 0, status=zero, block=zero, step=zero, forwards=zero,
        tick=zero, policy=(), ends=queue.ends, grammar=queue.grammar,
    )  # fmt: skip
    rows = sampled(rows, zero if queue.sample is None else queue.sample)
    rows = loop.enter(rows, decoding)
    if queue.numbers is None:
        return rows
    return rows._replace(policy=PerRowState(queue.numbers, rows.policy.state))


def admit(pool: Pool, head: Array, count: Array, queue: Queue, ready: Rows) -> tuple[Pool, Int32[Array, ""]]:
    """Fills free slots, lowest first, with waiting rows in their order."""
    free = pool.owner == FREE
    index = head + jnp.cumsum(free.astype(jnp.int32)) - 1
    take = free & (index < count)
    index = jnp.clip(index, 0, queue.owner.shape[0] - 1)
    rows = select_rows(take, jax.tree.map(lambda x: x[index], ready), pool.rows)
    owner = jnp.where(take, queue.owner[index], pool.owner)
    return pool._replace(rows=rows, owner=owner), head + jnp.sum(take, dtype=jnp.int32)


def collect(pool: Pool, harvest: Harvest, geometry: Geometry) -> tuple[Pool, Harvest]:
    """Moves finished rows out of their slots."""
    finished = pool.rows.done & (pool.owner != FREE)
    place = harvest.count + jnp.cumsum(finished.astype(jnp.int32)) - 1
    place = jnp.where(finished, place, harvest.owner.shape[0])
    put = lambda old, new: old.at[place].set(new, mode="drop")  # noqa: E731
    harvest = harvest._replace(
        owner=put(harvest.owner, pool.owner),
        tokens=put(harvest.tokens, pool.rows.tokens[:, geometry.prompt :]),
        forwards=put(harvest.forwards, pool.rows.forwards),
        status=put(harvest.status, pool.rows.status),
        count=harvest.count + jnp.sum(finished, dtype=jnp.int32),
    )
    return pool._replace(owner=jnp.where(finished, FREE, pool.owner)), harvest


def serve(pool: Pool, queue: Queue, count: Array, drain: Array, decoding: Decoding) -> tuple[Pool, Harvest]:
    """Works until the first `count` rows of the queue have a slot; with `drain` until every row is done."""

    def live(state: State) -> Bool[Array, ""]:
        return (state.head < count) | (drain & jnp.any(state.pool.owner != FREE))

    end = work(pool, queue, count, live, decoding)
    return end.pool, end.harvest


def turn(pool: Pool, queue: Queue, count: Array, until: Turn, decoding: Decoding) -> tuple[Pool, Harvest, Standing]:
    """Works until there is something to tell, `until.most` forwards at most, or nothing to do; rows of the queue that found no
    slot wait for another turn. What rows get does not depend on where turns end."""
    gone = until.gone & (pool.owner != FREE)
    pool = pool._replace(owner=jnp.where(gone, FREE, pool.owner), rows=pool.rows._replace(done=pool.rows.done | gone))

    def live(state: State) -> Bool[Array, ""]:
        trips, busy = state.harvest.trips, (state.head < count) | jnp.any(state.pool.owner != FREE)
        return busy & (trips < until.most) & ~(state.closed & (trips >= until.least))

    end = work(pool, queue, count, live, decoding)
    rows, prompt = end.pool.rows, decoding.geometry.prompt
    standing = Standing(
        end.pool.owner, rows.tokens[:, prompt:], rows.pending[:, prompt:], rows.block, rows.forwards, end.head
    )
    return end.pool, end.harvest, standing


def work(pool: Pool, queue: Queue, count: Array, live: Callable[[State], Bool[Array, ""]], decoding: Decoding) -> State:
    """Forwards of the slots, which take in the first `count` rows of the queue, while `live`."""
    cache, geometry, ready = decoding.cache, decoding.geometry, waiting(queue, decoding)
    size = pool.owner.shape[0] + queue.owner.shape[0]
    zero = jnp.int32(0)
    none = jnp.full(size, FREE, jnp.int32)
    blank = Harvest(none, jnp.zeros((size, geometry.canvas), jnp.int32), none, none, zero, zero, zero)

    # where the prompts of new rows are read apart, a reading costs the same for one as for all: some come in together
    batch = max(1, pool.owner.shape[0] // 4) if cache.admits else 1

    def trip(state: State) -> State:
        pool, head, harvest, closed = state
        room = (head < count) & (jnp.sum(pool.owner == FREE) >= jnp.minimum(batch, count - head))
        pool, head = jax.lax.cond(
            room, lambda p, h: admit(p, h, count, queue, ready), lambda p, h: (p, h), pool._replace(cache=()), head
        )
        stored = state.pool.cache
        if cache.admits:
            came = pool.owner != state.pool.owner
            stored = jax.lax.cond(
                room, lambda c: loop.prefill_admitted(pool.rows, came, c, decoding), lambda c: c, stored
            )
        new = loop.step(Carry(pool.rows, stored, NOTHING, zero), decoding)
        busy = jnp.sum(new.rows.forwards) - jnp.sum(pool.rows.forwards)
        harvest = harvest._replace(trips=harvest.trips + 1, busy=harvest.busy + busy)
        ended = (new.rows.done | (new.rows.block != pool.rows.block)) & (pool.owner != FREE)
        pool, harvest = jax.lax.cond(
            jnp.any(new.rows.done & (pool.owner != FREE)),
            lambda p, h: collect(p, h, geometry),
            lambda p, h: (p, h),
            pool._replace(rows=new.rows),
            harvest,
        )
        return State(pool._replace(cache=new.cache), head, harvest, closed | jnp.any(ended))

    return jax.lax.while_loop(live, trip, State(pool, zero, blank, jnp.asarray(False)))


def empty(decoding: Decoding, slots: int, sides: Sides = NO_SIDES) -> Pool:
    """Free slots for rows of these shapes."""
    config, geometry = decoding.model.config, decoding.geometry
    zero = jnp.zeros(slots, jnp.int32)
    ends, grammar = None, None
    if sides.ends is not None:
        ends = jnp.full((slots, *sides.ends), ANY, jnp.int32)
    if sides.grammar is not None:
        columns = geometry.length - geometry.prompt
        grammar = jax.tree.map(jnp.asarray, languages.blank(config.vocab_size, sides.grammar, (slots,), columns))
    queue = Queue(
        jnp.full((slots, geometry.length), config.tokens.pad, jnp.int32), zero + geometry.prompt - 1, zero,
        zero + 1, zero, zero.astype(jnp.uint32), zero, None, ends, grammar,
    )  # fmt: skip
    rows = waiting(queue, decoding)
    return Pool(rows._replace(done=zero == 0), loop.stored(rows, decoding), zero + FREE)


def lie(pool: Pool, model: Model, mesh: Mesh) -> Pool:
    """The pool with stored keys and values split by heads over the devices that share them, and all else whole: a pool
    that lay otherwise before a queue than after it would be moved, and its program compiled twice."""
    if undivided(mesh):
        return pool
    axis = RULES["kv_heads"]
    heads = {model.config.attention_shape(kind)[0] for kind in model.config.kinds}

    def one(leaf: Array) -> Array:
        split = leaf.ndim == 5 and leaf.shape[3] in heads and leaf.shape[3] % mesh.shape.get(axis, 1) == 0
        where = PartitionSpec(None, None, None, axis) if split and axis in mesh.shape else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, where)

    return jax.tree.map(one, pool)


def _per_replica(function: Any, mesh: Mesh, inputs: int, whole: int) -> Any:
    """`function` on each replica: the first `inputs` arguments and the results have a leading axis over `data`."""

    def one(*args: Any) -> Any:
        own = jax.tree.map(lambda x: x[0], args[:inputs])
        return jax.tree.map(lambda x: x[None], function(*own, *args[inputs:]))

    split, same = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        one, mesh=mesh, in_specs=(*[split] * inputs, *[same] * whole), out_specs=split,
        axis_names=set(mesh.axis_names) if undivided(mesh) else {"data"}, check_vma=False,
    )  # fmt: skip


def undivided(mesh: Mesh) -> bool:
    """Whether nothing is split but rows. Then no axis is left to the compiler, which could not split what asks its host in
    between (a checked language)."""
    return bool(mesh.shape["data"] == mesh.size)


@compiled(static_argnames=("slots", "mesh", "sides"))
def start(decoding: Decoding, *, slots: int, mesh: Mesh, sides: Sides = NO_SIDES) -> Pool:
    """Free slots on every replica."""

    def make(decoding: Decoding) -> Pool:
        return lie(empty(decoding, slots, sides), decoding.model, mesh)

    return _per_replica(make, mesh, 0, 1)(decoding)


@compiled(static_argnames=("mesh",), donate_argnames=("pool",))
def advance(
    pool: Pool, queue: Queue, count: Array, drain: Array, decoding: Decoding, *, mesh: Mesh
) -> tuple[Pool, Harvest]:
    """`serve` on every replica; each leaves when its own queue has been taken in."""

    def work(pool: Pool, queue: Queue, count: Array, drain: Array, decoding: Decoding) -> tuple[Pool, Harvest]:
        pool, harvest = serve(pool, queue, count, drain, decoding)
        return lie(pool, decoding.model, mesh), harvest

    return _per_replica(work, mesh, 3, 2)(pool, queue, count, drain, decoding)


@compiled(static_argnames=("mesh",), donate_argnames=("pool",))
def take_turn(
    pool: Pool, queue: Queue, count: Array, until: Turn, decoding: Decoding, *, mesh: Mesh
) -> tuple[Pool, Harvest, Standing]:
    """`turn` on every replica, with its own `until`."""

    def work(pool: Pool, queue: Queue, count: Array, until: Turn, decoding: Decoding) -> tuple[Pool, Harvest, Standing]:
        pool, harvest, standing = turn(pool, queue, count, until, decoding)
        return lie(pool, decoding.model, mesh), harvest, standing

    return _per_replica(work, mesh, 4, 1)(pool, queue, count, until, decoding)


def place(queue: Queue, count: np.ndarray, mesh: Mesh) -> tuple[Queue, Array]:
    """Host arrays with a leading axis over replicas, each part on its own devices."""
    spread = NamedSharding(mesh, PartitionSpec("data"))
    return jax.device_put((queue, count), spread)
