"""What a job says about itself: rates and the time left are of decoding, not of compiling, and the end is the end."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdlm.batch import progress
from jaxdlm.batch.engine import Counts, Result
from jaxdlm.batch.progress import Building, Progress, clock

COMPILE = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def now(monkeypatch):
    """The time, to be set by hand."""
    time = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: time.seconds))
    return time


def begin(event: str = COMPILE) -> None:
    jax.monitoring.record_scalar(event, 0.0)


def end(event: str = COMPILE) -> None:
    jax.monitoring.record_event_duration_secs(event, 0.0)


class Share:
    done = 0


def made(rows: int, share: Share, **options) -> Progress:
    return Progress(rows, lambda: share.done, Counts(trips=10, busy=60, slots=8), **options)


def answer(shown: Progress, share: Share, rows: int, *, error: bool = False) -> None:
    for _ in range(rows):
        share.done += 1
        shown.add(Result(np.array([1, 2, 9, 9]), 2, "finished"), frozenset({9}), error=error)


def test_the_time_left_does_not_count_compilation(now):
    share = Share()
    with made(100, share, quiet=True) as shown:
        assert shown.summary() == "0/100 rows"
        begin()
        now.seconds += 50
        assert shown.summary() == "0/100 rows, compiling"
        end()
        now.seconds += 10
        answer(shown, share, 10)
        assert shown.summary() == (
            "10/100 rows, 1.0 rows/s, 3 tokens/s, 1.50 tokens/forward, slots 75 % used, 0:01:30 left"
        )
        begin()  # another program: while it compiles the rates stand still
        now.seconds += 500
        assert shown.summary().startswith("10/100 rows, 1.0 rows/s") and shown.summary().endswith("compiling")
        end()
        assert shown.summary().endswith("0:01:30 left")
        shown.finish()
        assert shown.summary().endswith("took 0:09:20 (0:09:10 of it compiling)")
        shown._end = None
        share.done += 30  # by other workers
        assert shown.summary().startswith("40/100 rows, 10 of them here, 1.0 rows/s") and shown.summary().endswith(
            "0:00:15 left"
        )


def test_a_finished_share_ends(now, capsys):
    """One last line, then what others have to say; no more lines every ten seconds."""
    share = Share()
    share.done = 3
    with made(5, share, name="host 1 of 4") as shown:
        now.seconds += 5
        shown.show()
        assert capsys.readouterr().err == "# host 1 of 4: 3 of 5 rows were done before\n"
        now.seconds += 5
        shown.show()
        assert capsys.readouterr().err == "# host 1 of 4: 3/5 rows\n"
        answer(shown, share, 1)
        share.done += 1
        shown.refuse()
        shown.finish()
        shown.say("waiting for the others")
        assert not capsys.readouterr().err, "the main thread draws"
        for _ in range(3):
            now.seconds += 100
            shown.show()
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("# host 1 of 4: 5/5 rows, 0.2 rows/s") and "left" not in first
        assert first.endswith("took 0:00:10, 1 error row")
        assert second == "# host 1 of 4: waiting for the others"
    assert not capsys.readouterr().err
    shown.say("stopped", always=True)
    assert capsys.readouterr().err == "# host 1 of 4: stopped\n"
    share.done = 5
    with made(5, share):
        pass
    assert capsys.readouterr().err == "# 5 of 5 rows were done before\n", "nothing was left to do"


def test_quiet_says_only_what_must_be_said(now, capsys):
    with made(5, Share(), quiet=True) as shown:
        shown.show()
        shown.say("complete")
    shown.say("complete")
    assert not capsys.readouterr().err
    shown.say("stopped by a signal", always=True)
    assert "stopped" in capsys.readouterr().err


def test_building_is_what_jax_reports():
    """Tracing, lowering and compiling, nested or not, from the first call on; a call that compiles nothing adds none."""
    with Building() as building:
        assert building.seconds == 0 and not building.busy
        inner = jax.jit(lambda x: jnp.sin(x) * 17.25)
        seen = []
        run = jax.jit(lambda x: seen.append(building.busy) or inner(x))
        run(jnp.ones(3))
        spent = building.seconds
        assert spent > 0 and not building.busy and seen == [True]
        run(jnp.ones(3))
        assert building.seconds == spent
        with pytest.raises(ZeroDivisionError):
            jax.jit(lambda x: x / (1 // 0))(1.0)
        assert not building.busy, "a failure ends it as well"
    spent = building.seconds
    jax.jit(lambda x: x - 18.25)(jnp.ones(3))
    assert building.seconds == spent


def test_nested_and_parallel_work_counts_once(now):
    with Building() as building:
        begin()
        now.seconds += 1
        begin()
        now.seconds += 2
        end()
        assert building.busy and building.seconds == 3
        now.seconds += 4
        end()
        now.seconds += 50
        assert not building.busy and building.seconds == 7
        end()  # of something that began before anybody listened
        assert building.seconds == 7 and not building.busy
        begin("/jax/other")
        assert not building.busy


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 61, 3600 * 25 + 62)] == [
        "0:00:00",
        "0:00:59",
        "0:01:01",
        "25:01:02",
    ]
