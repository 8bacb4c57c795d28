"""The shell of both loops, on carries and traces made by hand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.core import engine
from jaxdlm.core.carry import Status, Trace


class Rows(NamedTuple):
    left: Any

    @property
    def done(self):
        return self.left <= 0


class Carry(NamedTuple):
    rows: Rows
    loops: Any


def step(carry):
    return Carry(Rows(jnp.maximum(carry.rows.left - 1, 0)), carry.loops + 1)


def start(*left):
    return Carry(Rows(jnp.int32(left)), jnp.int32(0))


@pytest.mark.parametrize(("left", "until", "trips"), [((3, 1), 9, 3), ((3, 1), 2, 2), ((0, 0), 9, 0), ((5, 5), 0, 0)])
def test_until_every_row_is_done_or_so_many_trips_were_made(left, until, trips):
    end = jax.jit(lambda carry, until: engine.run_until(carry, step, until))(start(*left), until)
    assert int(end.loops) == trips
    assert end.rows.left.tolist() == [max(0, each - trips) for each in left]
    assert int(engine.run_until(end, step, 9).loops) == max(left), "the same carry goes in again"


def test_another_condition_ends_it_too():
    end = engine.run(start(5, 2), step, lambda c: jnp.sum(c.rows.done) < 1)
    assert end.rows.left.tolist() == [3, 0]


@pytest.mark.parametrize("save", ["none", "commit", "steps"])
def test_a_trace_holds_what_is_saved_and_of_new_rows_nothing(save):
    trace = engine.blank_trace(save, 2, 3)
    kinds = {"none": (None, None, None), "commit": ((2, 3), (2, 3), None), "steps": ((2, 3), (2, 3), (2, 3, 3))}
    assert tuple(None if x is None else x.shape for x in trace) == (*kinds[save], None, None)
    used = jax.tree.map(lambda x: x + 7, trace)
    again = engine.cleared(used, jnp.array([True, False]))
    jax.tree.map(lambda new, blank, old: np.testing.assert_array_equal(new, [blank[0], old[1]]), again, trace, used)


def test_a_trace_has_room_for_the_likeliest_tokens_where_they_are_asked_for():
    trace = engine.blank_trace("commit", 2, 3, top=4)
    assert [x.shape for x in trace[3:]] == [(2, 3, 4), (2, 3, 4)]


@pytest.mark.slow
def test_a_forward_is_written_by_index():
    """Row 1 took no part: its columns lie past the last one, as those do that were not written."""
    trace = engine.blank_trace("steps", 2, 3)
    forward, active = jnp.int32([1, 2]), jnp.array([True, False])
    column, score = jnp.int32([[2, 3], [3, 3]]), jnp.float32([[0.5, 9], [9, 9]])
    text = jnp.int32([[4, 5, 6], [7, 8, 9]])
    made = engine.record(trace, forward, active, column, score, text)
    np.testing.assert_array_equal(made.commit_step, [[-1, -1, 1], [-1, -1, -1]])
    np.testing.assert_array_equal(made.score, [[0, 0, 0.5], [0, 0, 0]])
    expected = np.zeros((2, 3, 3))
    expected[0, 1] = text[0]
    np.testing.assert_array_equal(made.tokens, expected)
    commit = engine.record(trace._replace(tokens=None), forward, active, column, score, text)
    assert commit.tokens is None and (commit.commit_step == made.commit_step).all()
    nothing = Trace(None, None, None)
    assert engine.record(nothing, forward, active, column, score, text) == nothing


def test_rows_with_bad_logits_say_so():
    status = jnp.int32([Status.RUNNING, Status.EOS])
    assert engine.failed(status, jnp.array([False, True])).tolist() == [Status.RUNNING, Status.NONFINITE]
