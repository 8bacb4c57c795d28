"""Prophet: the gap by hand, the stages, and a host that is left alone until the exit."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm import InputError, Status, chain
from jaxdlm.core.carry import Geometry, Update
from jaxdlm.core.readout import dense_logits, summarise
from jaxdlm.rules import finish_when_clear, sample, select_above, select_top_k
from jaxdlm.rules.prophet import answer_gap
from tests.rules.hand import call, row

W = 8
HOST = chain(sample(), select_top_k(W))


def raw(gap: float):
    """Columns whose two best logits differ by `gap`; the best token differs by column."""
    best = np.arange(W) % 3
    logits = np.full((W, 5), -9.0)
    logits[:, 4], logits[np.arange(W), best] = 0.0, gap
    return logits.astype(np.float32), best


def act(rule, gap, view):
    return call(rule, Update(raw(gap)[0]), rule.init(W, 5), view)[0]


@pytest.mark.slow
def test_the_mean_gap_by_hand():
    logits = jnp.asarray([[3, 1, 0], [5, 4.5, 0], [1, 9, 2], [0, 0, 0]], jnp.float32)
    found, all_exist = summarise(dense_logits(logits)), jnp.ones(4, bool)
    assert answer_gap(found, all_exist, 0, 3) == pytest.approx((2 + 0.5 + 7) / 3)
    assert answer_gap(found, all_exist, 2, 5) == pytest.approx(3.5)  # cut at the end of the window
    assert answer_gap(found, all_exist.at[2:].set(False), 1, 3) == pytest.approx(0.5)  # and of the row's canvas
    assert answer_gap(found, all_exist, 4, 2) == -np.inf
    moved = summarise(dense_logits(logits + jnp.asarray([[1.0], [-2.0], [3.0], [4.0]])))
    shifted = answer_gap(moved, all_exist, 0, 3)
    assert shifted == pytest.approx(9.5 / 3)


def test_exit_writes_every_open_column():
    can = [True, False, True, True, True, False, True, True]
    update = act(finish_when_clear(HOST, W, 3, 2), 8.0, row(can))
    np.testing.assert_array_equal(update.commit, can)
    np.testing.assert_array_equal(np.asarray(update.token)[can], raw(8.0)[1][can])
    assert bool(update.halt)
    assert int(update.status) == Status.EXIT


def test_until_then_the_host_decides():
    can = [True] * W
    update, alone = act(finish_when_clear(HOST, W, 3, 2), 7.0, row(can)), act(HOST, 7.0, row(can))
    np.testing.assert_array_equal(update.commit, alone.commit)
    np.testing.assert_array_equal(update.token, alone.token)
    assert not bool(update.halt)
    never, always = (float("inf"),) * 3, (0.0,) * 3
    assert not bool(act(finish_when_clear(HOST, W, 3, 2, never), 1e6, row(can)).halt)
    assert bool(act(finish_when_clear(HOST, W, 3, 2, always), 0.0, row(can)).halt)


def test_stages_of_256_forwards():
    rule, early = finish_when_clear(HOST, 256, 3, 2), finish_when_clear(HOST, 256, 3, 2, official=True)
    leaves = lambda rule, gap, at: bool(act(rule, gap, row([True] * W, tick=at)).halt)  # noqa: E731
    for last, gap in ((84, 6.0), (171, 3.0)):  # the gap passes the stage after, not the one that ends here
        assert not leaves(rule, gap, last)
        assert leaves(rule, gap, last + 1)
        assert not leaves(early, gap, last - 1)
        assert leaves(early, gap, last)


def test_progress_by_written_columns():
    rule = finish_when_clear(chain(sample(), select_above(1.0)), None, 3, 2, progress="decoded")
    for written, expected in ((0, False), (2, False), (3, True), (6, True)):
        assert bool(act(rule, 6.0, row([False] * written + [True] * (W - written))).halt) is expected


def test_released_blocks_last_their_share():
    rule, view = finish_when_clear(HOST, 16, 3, 2, official=True), row([True] + [False] * 7)
    assert bool(act(rule, 1.0, view).hold)
    assert not bool(act(rule, 1.0, row([True] + [False] * 7, tick=15)).hold)
    assert int(rule.forwards(Geometry(4, W, 1))) == 16
    assert not bool(act(finish_when_clear(HOST, 16, 3, 2), 1.0, view).hold)
    assert rule.traits.view == "canvas"


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"answer_start": -1}, {"answer_length": 0}, {"thresholds": (1.0, 2.0)}, {"progress": "time"}],
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        finish_when_clear(HOST, **wrong)
    with pytest.raises(InputError, match="host"):
        finish_when_clear("threshold")
