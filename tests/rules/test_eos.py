"""Where a row ends: the first end-of-text with nothing open before it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, Status
from jaxdlm.core.carry import Update
from jaxdlm.rules import stop_at_eos
from tests.rules.hand import IDS, row

END, MASK = IDS.eos[0], IDS.mask


def stop(tokens, proposal, commit, **view):
    tokens = np.asarray(tokens)
    update = Update(
        jnp.zeros((len(tokens), 8)), token=jnp.asarray(proposal, jnp.int32), commit=jnp.asarray(commit, bool)
    )
    update = stop_at_eos().apply(update, (), row(tokens == MASK, tokens=tokens, **view), jax.random.key(0))[0]
    return bool(update.halt), int(update.cut), int(update.status)


def test_an_end_written_now_cuts_behind_itself():
    assert stop([1, MASK, MASK], [0, END, 2], [0, 1, 0]) == (True, 2, Status.EOS)


def test_an_end_in_the_last_column_cuts_behind_the_window():
    """W is a cut there, W + 1 is none: what follows the window is gone."""
    assert stop([1, 1, MASK], [0, 0, END], [0, 0, 1]) == (True, 3, Status.EOS)


def test_an_open_column_before_it_waits():
    assert stop([MASK, MASK, 1], [2, END, 0], [0, 1, 0]) == (False, 4, Status.FINISHED)


def test_an_end_written_earlier_counts_once_the_gap_is_closed():
    assert stop([MASK, END, MASK], [2, 0, 2], [1, 0, 0]) == (True, 2, Status.EOS)


def test_an_end_that_was_given_is_text():
    assert stop([1, END, MASK], [0, 0, 2], [0, 0, 1], prefilled=[False, True, False]) == (False, 4, Status.FINISHED)


def test_proposals_that_are_not_committed_do_not_end_anything():
    assert stop([1, MASK, MASK], [0, END, END], [0, 0, 0])[0] is False


def test_the_first_of_several_ends_wins():
    assert stop([1, END, END], [0, 0, 0], [0, 0, 0])[1] == 2


def test_columns_past_the_canvas_do_not_count():
    assert stop([1, 1, END], [0, 0, 0], [0, 0, 0], exists=[True, True, False])[0] is False


def test_needs_a_selection_before_it():
    with pytest.raises(InputError, match="stop_at_eos needs update"):
        stop_at_eos().apply(Update(jnp.zeros((2, 8))), (), row([True, True]), None)


def test_needs_a_model_that_can_end():
    view = row([True, True])
    view = view._replace(ids=dataclasses.replace(view.ids, eos=()))
    update = Update(jnp.zeros((2, 8)), token=jnp.zeros(2, jnp.int32), commit=jnp.ones(2, bool))
    with pytest.raises(InputError, match="leave stop_at_eos out"):
        stop_at_eos().apply(update, (), view, None)
