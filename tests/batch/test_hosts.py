"""Several processes on one machine: hosts that know each other, and workers that share nothing but the output."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxdlm.batch import run
from jaxdlm.batch.claims import Claims, Heartbeat
from jaxdlm.batch.shards import Line, Shards
from jaxdlm.batch.store import Folder
from jaxdlm.errors import InputError
from tests.batch.jobs import Stub, job, read, results, rows, stubbed, write
from tests.conftest import CACHE

ROOT = pathlib.Path(__file__).parents[2]
STAMP = "0123456789ab"


@pytest.mark.slow
def test_claims_pass_from_the_dead_to_the_living(tmp_path):
    """A worker whose heartbeat stands still for a lease, or is gone, loses its shards to one other worker."""
    store = Folder(str(tmp_path))
    one, two, three = (Claims(store, STAMP, who, lease=0.2) for who in ("one", "two", "three"))
    take = lambda claims, todo: claims.next(todo, store.names())  # noqa: E731
    with one.heartbeat():
        assert take(one, [0, 1]) == 0
        assert take(two, [0, 1]) == 1
        for _ in range(8):  # more than a lease, and the heart beats on
            assert take(two, [0]) is None
            time.sleep(0.05)
    assert take(two, [0]) == 0, "it took its leave"
    store.put("workers/two", b'{"who": "two", "beat": 7}')  # dies without a word
    assert take(three, [0]) is None and take(one, [0]) is None
    time.sleep(0.25)
    store.put("workers/three", b"{}")
    assert take(three, [0]) == 0
    assert take(one, [0]) is None, "the new owner has yet to be watched"
    assert Claims(store, "another stamp", "four", 0.2).next([0], store.names()) == 0


def test_two_claims_at_once_have_one_winner(tmp_path):
    store = Folder(str(tmp_path))
    seen = store.names()
    winners = [Claims(store, STAMP, str(who), lease=1).next([0], seen) for who in range(5)]
    assert winners == [0, None, None, None, None]


@pytest.mark.slow
def test_a_worker_takes_over_the_parts_of_a_dead_one(tmp_path):
    """What the dead worker had finished and saved is not decoded again, and the bytes are those of an ordinary run."""
    source = write(tmp_path / "in.jsonl", rows(23))
    whole = job(source, tmp_path / "whole")
    assert whole.run() == 0
    lines = results(tmp_path / "whole").splitlines(keepends=True)
    part = job(source, tmp_path / "out", worker=True, lease=0.4)
    from jaxdlm.batch import fingerprint

    stamp = fingerprint.digest(part.agree(set()))
    dead = Shards(part.store, 23, 5, stamp, "dead")
    for row in (0, 1, 2, 3, 7):
        dead.add(row, Line(lines[row], 0))
    dead.flush()
    assert Claims(part.store, stamp, "dead", 0.4).next([0], part.store.names()) == 0
    part.store.put("workers/dead", b"{}")
    assert part.run() == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert part.engine.counts.busy < whole.engine.counts.busy
    assert not (part.store.names() & {"workers/dead"})


def test_shards_are_claimed_as_they_are_needed(tmp_path):
    """Of 60 rows in 6 shards the second worker gets its part, though the first could hold them all."""
    source, out = write(tmp_path / "in.jsonl", rows(60)), tmp_path / "out"
    meeting, claimed = threading.Barrier(2, timeout=60), []

    def first(window) -> None:
        meeting.wait()  # until the other has rows, too
        claimed.append(len(list(out.glob("claims/*/*"))))
        meeting.wait()

    engines = [Stub(first=first), Stub(first=first)]
    jobs = [stubbed(source, out, engine, worker=True, shard_rows=10) for engine in engines]
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(run.Job.run, jobs)] == [0, 0]
    assert claimed == [2, 2], "one shard is more than a device of these needs"
    assert sum(engine.rows for engine in engines) == 60 == len(read(out))
    assert all(engine.rows >= 10 for engine in engines)


@pytest.mark.slow
@pytest.mark.parametrize(("ahead", "shards"), [(1, 1), (10, 1), (11, 2), (25, 3), (1000, 6)])
def test_a_worker_holds_what_keeps_its_device_busy(tmp_path, ahead, shards):
    """Small shards are claimed together and reach the device in one window, sorted."""
    source, out = write(tmp_path / "in.jsonl", rows(60)), tmp_path / "out"
    seen = []

    def first(window) -> None:
        time.sleep(0.3)  # time to claim more
        seen.append((len(window), len(list(out.glob("claims/*/*")))))

    assert stubbed(source, out, Stub(ahead, first), worker=True, shard_rows=10).run() == 0
    assert seen == [(10 * shards, shards)]
    assert (out / "_SUCCESS").exists()


def test_a_host_says_what_it_does_and_when_it_is_done(tmp_path, monkeypatch, capsys):
    """Each counts its own share; the one that is done first says so once, and then that the job is complete."""
    monkeypatch.setattr(run, "meet", lambda name: None)
    asked = [*rows(22), {"id": "empty", "tokens": []}]
    source, out = write(tmp_path / "in.jsonl", asked), tmp_path / "out"
    stubbed(source, out, Stub()).agree(set())  # as host 0 does before they meet
    gone = threading.Event()

    def late(window) -> None:
        while "waiting for the others" not in "".join(said):
            said.append(capsys.readouterr().err)
            gone.wait(0.05)

    said: list[str] = []
    jobs = [
        stubbed(source, out, Stub(first=first), hosts=2, host=host, quiet=False, lease=0.4)
        for host, first in enumerate((late, lambda window: None))
    ]
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(run.Job.run, jobs)] == [0, 0]
    lines = "".join([*said, capsys.readouterr().err]).splitlines()
    done = f"complete: 23 rows, 1 error row, in {out}"
    one, two = ([line for line in lines if line.startswith(f"# host {host} of 2: ")] for host in (0, 1))
    assert "13/13 rows" in one[0] and ", took 0:00:0" in one[0] and one[0].endswith("1 error row")
    assert "10/10 rows" in two[0] and "error" not in two[0]
    assert [line.partition(": ")[2] for line in two[1:]] == ["waiting for the others", done]
    assert one[-1].endswith(done) and len(lines) == len(one) + len(two)


def test_a_heartbeat_changes(tmp_path):
    """However long a busy disk takes for one of them."""
    store, seen = Folder(str(tmp_path)), set()
    patience = time.monotonic() + 60
    with Heartbeat(store, "beat", "me", lease=0.1):
        while len(seen) < 4 and time.monotonic() < patience:
            seen.add(store.get("beat"))
            time.sleep(0.02)
    assert len(seen) == 4 and store.get("beat") is None


def command(source: str, output: pathlib.Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "jaxdlm", "batch", source, "--output", str(output), "--model", "tests/golden/llada_tiny",
        "--max-new", "8", "--block", "8", "--slots", "4", "--shard-rows", "10", "--policy", "low_confidence",
        "--lease", "2", "--window", "10", "--grace", "6", *more,
    ]  # fmt: skip


def spawn(*arguments: str) -> subprocess.Popen:
    fast = {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | fast
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> int:
    _, said = process.communicate(timeout=200)
    assert process.returncode in (0, 143), said
    return process.returncode


def wait_for(output: pathlib.Path, pattern: str, count: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 200
    while len(list(output.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"no {pattern}"
        assert any(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    source = write(folder / "in.jsonl", rows(400))
    assert ended(spawn(*command(source, folder / "out"))) == 0
    return source, results(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_workers_of_which_one_is_killed(alone, tmp_path, count):
    source, expected = alone
    workers = [spawn(*command(source, tmp_path / "out", "--worker", "--flush", "0.1")) for _ in range(count)]
    wait_for(tmp_path / "out", "*.done", 3, workers)
    owners = [path.read_text() for path in sorted((tmp_path / "out" / "claims").rglob("*.0"))]
    victim = next(worker for worker in workers if any(f"-{worker.pid}-" in owner for owner in owners))
    victim.send_signal(signal.SIGKILL)
    for worker in workers:
        if worker is not victim:
            assert ended(worker) == 0
    victim.communicate()
    assert results(tmp_path / "out") == expected
    assert (tmp_path / "out" / "_SUCCESS").exists()


def start(source: str, output: pathlib.Path, hosts: int) -> list[subprocess.Popen]:
    """Hosts that meet on the loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ("--distributed", "--coordinator", f"localhost:{port}", "--hosts", str(hosts))
    return [spawn(*command(source, output, *flags, "--host", str(host))) for host in range(hosts)]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.exhaustive)])
def test_hosts_of_which_one_is_killed(alone, tmp_path, before, after):
    """The others keep what they have; another number of hosts then does the rest. Two that end together: below."""
    source, expected = alone
    out = tmp_path / "out"
    hosts = start(source, out, before)
    wait_for(out, "*.done", 3, hosts)
    hosts[-1].send_signal(signal.SIGKILL)
    hosts[-1].communicate()
    for host in hosts[:-1]:
        host.send_signal(signal.SIGTERM)
    assert [ended(host) for host in hosts[:-1]] == [143] * (before - 1)
    assert list(out.glob("*.done")), "nothing was committed"
    assert not (out / "_SUCCESS").exists()
    rest = start(source, out, after) if after > 1 else [spawn(*command(source, out))]
    assert [ended(host) for host in rest] == [0] * after
    assert results(out) == expected


@pytest.mark.slow
def test_two_hosts_to_the_end(alone, tmp_path):
    source, expected = alone
    assert [ended(host) for host in start(source, tmp_path / "out", 2)] == [0, 0]
    assert results(tmp_path / "out") == expected


def test_worker_and_new_run_exclude_each_other():
    from jaxdlm import cli

    arguments = ["batch", "in.jsonl", "--output", "out", "--worker", "--new-run"]
    assert cli.main(arguments) == cli.BAD_INPUT
    with pytest.raises(InputError, match="new-run"):
        cli.root(arguments, standalone_mode=False)
