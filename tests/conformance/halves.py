"""The loop cut in two: a forward that no recipe is part of, and a step that neither the model nor the cache is part of.

A whole decode is one program per recipe, cache and model. Cut, it is one per cache and model and one per recipe, so that
all of them can meet. `test_families` holds the halves to the whole.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import Rule, layout
from jaxdlm.core import loop
from jaxdlm.core.attended import Attended
from jaxdlm.core.carry import Geometry, Rows, Trace, Window
from jaxdlm.core.rule import Decoding, Stepper
from tests.conformance.toys import PROMPTS, model, untrained

GEOMETRY = Geometry(prompt=16, block=4, blocks=3)
# the prompt's tail and the answer fill three blocks: models of both kinds have one geometry
MAX_NEW = {"full": 12, "causal": 12, "block_causal": 9, "prefix_canvas": 12}


class Seen(NamedTuple):
    """All that a forward sees of a recipe."""

    view: str
    uncond: bool
    blind: bool
    attention: int

    @property
    def traits(self) -> "Seen":
        return self


class Outcome(NamedTuple):
    tokens: np.ndarray
    forwards: np.ndarray
    commit_step: np.ndarray
    status: np.ndarray


@functools.partial(jax.jit, static_argnames=("model", "seen"))
def store(rows, params, cache, *, model, seen):
    """The cache's state before the first forward."""
    return loop.stored(rows, Decoding(model, params, seen, cache, GEOMETRY))


@functools.partial(jax.jit, static_argnames=("model", "seen"))
def read(rows, start, versions, state, params, cache, *, model, seen):
    """A forward: the window, with the cache's new state, and which rows took part."""
    return loop.read_window(rows, start, state, Decoding(model, params, seen, cache, GEOMETRY), versions)


def next_window(rows, policy):
    """First column of the window, and the versions of each row that a stepper has read."""
    start = loop.window_start(rows, policy, GEOMETRY)
    return start, policy.versions(rows, start) if isinstance(policy, Stepper) else None


@jax.jit
def enter(rows, policy):
    """Rows before their first forward, and where to look."""
    rows = loop.enter(rows, Decoding(untrained("same").model, (), policy, None, GEOMETRY))
    return rows, next_window(rows, policy)


@jax.jit
def apply_policy(rows, trace, start, window, active, head, policy, cache):
    """The policy's step, and where to look next. Head and token ids of all toys are alike; a stepper asks the cache when
    it is due."""
    decoding = Decoding(untrained("same").model, head, policy, cache, GEOMETRY)
    if isinstance(policy, Stepper):
        rows, trace = policy.apply_policy(rows, trace, start, window.hidden, active, decoding)
    else:
        rows, trace = loop.apply_policy(rows, trace, start, window.hidden, active, decoding, window.attended)
    return rows, trace, next_window(rows, policy)


class Ended(NamedTuple):
    before: Rows
    after: Rows


def one_step(
    kind: str, policy: Rule, cache: Any, *, row: int | None = None, hidden: float = 1.0, head: float = 0.0
) -> Ended:
    """The first step of a policy on hidden states that are all 0.1, of one row all `hidden`; `head` is added to the head's
    weights."""
    lm = model(kind)
    rows, (start, versions) = enter(laid_out(kind, (0, 1, 2), None), policy)
    blank = jnp.full((3, GEOMETRY.canvas), -1, jnp.int32)
    count = 1 if versions is None else versions.shape[1]
    copies = count * (2 if policy.traits.uncond else 1)
    columns = loop.width(policy, GEOMETRY) * (2 if policy.traits.blind else 1)
    states = np.full((3 * copies, columns, lm.config.hidden_size), 0.1, np.float32)
    if row is not None:
        states[row * count : (row + 1) * count] = hidden
    seen = None
    if policy.traits.attention:  # an even spread
        even = jnp.full((3, columns, GEOMETRY.length), 1 / GEOMETRY.length)
        every = jnp.full((3, GEOMETRY.length, states.shape[2]), 0.1)
        seen = Attended(every, even, even[:, 0])
    weights = {"lm_head": lm.params["lm_head"] + head}
    due = cache if isinstance(policy, Stepper) else None
    trace = Trace(blank, jnp.zeros(blank.shape, jnp.float32), None)
    after, _, _ = apply_policy(
        rows, trace, start, Window(jnp.asarray(states), (), seen), ~rows.done, weights, policy, due
    )
    return Ended(*jax.device_get((rows._replace(key=()), after._replace(key=()))))


@functools.cache
def laid_out(kind: str, order: tuple[int, ...], alone: int | None) -> Rows:
    """The prompts in this order, each with its own id; but for `alone`, where given, rows are done from the start."""
    lm = model(kind)
    run = {"max_new": MAX_NEW[lm.config.attention], "block": GEOMETRY.block, "seed": 5, "ids": order}
    batch = layout.lay_out(lm, [PROMPTS[row] for row in order], **run)
    assert batch.geometry == GEOMETRY
    live = np.array([alone is None or row == alone for row in order])
    return batch.rows._replace(pending=batch.rows.pending & live[:, None])


def decode(
    kind: str, policy: Rule, cache: Any, order: tuple[int, ...] = (0, 1, 2), alone: int | None = None
) -> Outcome:
    """As `jaxdlm.decode`, by halves; whole canvases."""
    lm, seen = model(kind), Seen(*(getattr(policy.traits, name) for name in Seen._fields))
    fixed = {"model": lm.model, "seen": seen}
    rows, (start, versions) = enter(laid_out(kind, order, alone), policy)
    blank = jnp.full((len(order), GEOMETRY.canvas), -1, jnp.int32)
    trace = Trace(blank, jnp.zeros(blank.shape, jnp.float32), None)
    state = store(rows._replace(policy=()), lm.params, cache, **fixed)
    head, due = {"lm_head": lm.params["lm_head"]}, cache if isinstance(policy, Stepper) else None
    for _ in range(4 * int(policy.forwards(GEOMETRY))):
        if np.asarray(rows.done).all():
            break
        window, active = read(rows._replace(policy=()), start, versions, state, lm.params, cache, **fixed)
        state, window = window.state, window._replace(state=())
        rows, trace, (start, versions) = apply_policy(rows, trace, start, window, active, head, policy, due)
    assert np.asarray(rows.done).all(), "the loop does not end"
    return jax.device_get(Outcome(rows.tokens[:, GEOMETRY.prompt :], rows.forwards, trace.commit_step, rows.status))
