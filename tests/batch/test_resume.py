"""Interrupted at any write, resumed on other devices: no row lost, none doubled, the same bytes."""

import contextlib
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jaxdlm.batch import store as stores
from jaxdlm.batch.claims import Heartbeat, locked
from jaxdlm.batch.shards import Line, Shards, wipe
from jaxdlm.batch.store import Bucket, Folder
from jaxdlm.errors import InputError
from tests.batch.jobs import job, results, rows, write

ROOT = pathlib.Path(__file__).parents[2]
ROWS = rows(23)


class Killed(BaseException):
    """As good as kill -9: nothing that the job does afterwards reaches the store."""


def dying(part, writes: int):
    """The job, whose store dies at its n-th write."""
    left = [writes]

    def guarded(method):
        def attempt(*args):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return method(*args)

        return attempt

    for name in ("put", "create", "delete"):
        setattr(part.store, name, guarded(getattr(part.store, name)))
    return part


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    source = write(folder / "in.jsonl", ROWS)
    assert job(source, folder / "out").run() == 0
    return source, results(folder / "out")


@pytest.mark.slow
def test_death_at_every_write(whole, tmp_path):
    """Writes are: job.json, parts, shards, markers, deletions, _SUCCESS; a job that dies at each of them in turn."""
    source, expected = whole
    deaths = 0
    for writes in range(40):
        out = tmp_path / str(writes)
        for devices, flush in ((1, 1e-9), (4, 30.0)):
            part = job(source, out, devices=devices, slots=4 // devices, flush=flush)
            try:
                ended = dying(part, writes).run() == 0
            except Killed:
                ended, deaths = False, deaths + 1
            if ended:
                break
        if not ended:
            assert job(source, out).run() == 0
        assert results(out) == expected
        assert not list(out.rglob(".partial-*")) and not list((out / "parts").rglob("*.jsonl"))
        if ended and flush < 1:
            break
    assert deaths >= 20


def test_a_finished_job_is_left_alone(whole, tmp_path):
    source, _ = whole
    assert job(source, tmp_path / "out").run() == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = job(source, tmp_path / "out")
    assert again.run() == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path in before} == before
    assert again.engine.counts.trips == 0


CHANGES = {
    "seed": ({"seed": 1}, "seed: 0 -> 1"),
    "policy": ({"policy": "threshold,tau=0.5"}, "policy.numbers..rules[1].tau: 0.05"),
    "recipe": ({"policy": "low_confidence"}, "policy.recipe"),
    "max_new": ({"max_new": 7}, "max_new: 8 -> 7"),
    "block": ({"block": 8}, "block: 4 -> 8"),
    "cache": ({"cache": "dual"}, "cache.structure"),
    "schema": ({"schema": "openai"}, "schema"),
    "shard size": ({"shard_rows": 6}, "shard_rows: 5 -> 6"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_job_is_refused_by_name(whole, tmp_path, name):
    changes, message = CHANGES[name]
    source, expected = whole
    out = tmp_path / "out"
    with pytest.raises(Killed):
        dying(job(source, out), 3).run()
    left = {path.name for path in out.rglob("*")}
    with pytest.raises(InputError) as caught:
        job(source, out, **changes).run()
    assert message in str(caught.value) and "--new-run" in str(caught.value)
    assert {path.name for path in out.rglob("*")} == left
    assert job(source, out).run() == 0
    assert results(out) == expected


def test_another_input_or_model_is_refused(whole, tmp_path):
    from tests.conformance.toy_models import model

    source, _ = whole
    out = tmp_path / "out"
    assert job(source, out).run() == 0
    longer = write(tmp_path / "longer.jsonl", [*ROWS, ROWS[0] | {"id": "new"}])
    with pytest.raises(InputError, match=r"input\.rows: 23 -> 24"):
        job(longer, out).run()
    with pytest.raises(InputError, match=r"model\.config\.family"):
        job(source, out, lm=model("next")).run()
    assert job(longer, out, new_run=True).run() == 0
    assert len(results(out).splitlines()) == 24


def test_a_second_run_is_refused_while_the_first_works(whole, tmp_path):
    source, _ = whole
    folder = Folder(str(tmp_path / "out"))
    with locked(folder, "me", shared=False, lease=1):
        with pytest.raises(InputError, match="in use by another run"):
            job(source, tmp_path / "out").run()
        with pytest.raises(InputError, match="in use"):
            job(source, tmp_path / "out", worker=True).run()
    with locked(folder, "me", shared=True, lease=1), locked(folder, "you", shared=True, lease=1):
        with pytest.raises(InputError, match="in use"):
            job(source, tmp_path / "out").run()


# ------------------------------------------------------------------------------------------------- object stores


class Strict(MemoryFileSystem):
    """What an object store does not do, this does not either."""

    protocol = "strict"
    cachable = False
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def mv(self, *args, **kwargs):
        raise AssertionError("renamed")

    rename = move = mv

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb", "xb"), f"opened with {mode}"
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def bucket():
    fsspec.register_implementation("strict", Strict, clobber=True)
    Strict.store.clear()
    return "strict://bucket/out"


def test_a_bucket_holds_the_same_objects(whole, tmp_path, bucket):
    source, expected = whole
    with pytest.raises(Killed):
        dying(job(source, bucket, flush=1e-9), 8).run()
    assert job(source, bucket, lease=0.2).run() == 0
    found = Bucket(bucket)
    names = sorted(found.names())
    assert b"".join(found.get(name) for name in names if name.endswith(".jsonl")) == expected
    assert "_SUCCESS" in names and not any(name.startswith(("parts/", "owner")) for name in names)


def test_a_lease_on_a_bucket(whole, bucket):
    """A heartbeat that goes on keeps others out; one that stopped is a dead run, and its output is taken over."""
    source, _ = whole
    found = Bucket(bucket)
    with Heartbeat(found, "owner.json", "first", lease=0.2):
        with pytest.raises(InputError, match=r"in use by another run \(first\)"):
            job(source, bucket, lease=2.0).run()
    found.put("owner.json", b'{"who": "dead", "beat": 4}')
    with locked(found, "second", shared=False, lease=0.2):
        assert b"second" in found.get("owner.json")


@pytest.mark.parametrize("make", ["folder", "bucket"])
def test_objects(tmp_path, bucket, make):
    store = Folder(str(tmp_path)) if make == "folder" else Bucket(bucket)
    assert store.get("a/b") is None
    assert store.create("a/b", b"1") and not store.create("a/b", b"2")
    store.put("a/b", b"3")
    store.put("c", b"4")
    assert store.get("a/b") == b"3" and store.names() == {"a/b", "c"}
    store.delete("a/b")
    store.delete("a/b")
    assert store.names() == {"c"}


def test_half_a_part_counts_for_nothing(tmp_path):
    """Were a store to show half an object: the rows are done again rather than believed."""
    store = Folder(str(tmp_path))
    shards = Shards(store, 4, 2, "a" * 12, "me")
    shards.add(0, Line(b"zero\n", 0))
    shards.add(3, Line(b"three\n", 0))
    shards.flush()
    (name,) = (name for name in store.names() if name.startswith("parts/"))
    again = Shards(store, 4, 2, "a" * 12, "you")
    again.look(store.names())
    assert again.missing(0) == [1] and again.missing(1) == [2]
    store.put(name, store.get(name)[:-2])
    torn = Shards(store, 4, 2, "a" * 12, "you")
    torn.look(store.names())
    assert torn.missing(0) == [0, 1] and torn.missing(1) == [2, 3]
    other = Shards(store, 4, 2, "b" * 12, "you")
    other.look(store.names())
    assert other.missing(0) == [0, 1], "another job's part"
    wipe(store)
    assert not store.names()


# ------------------------------------------------------------------------------------------------------- failures


def test_a_full_disk_ends_the_run_and_the_next_goes_on(whole, tmp_path, monkeypatch):
    source, expected = whole
    write_all, left = os.fsync, [6]

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_all(handle)

    monkeypatch.setattr(stores.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        job(source, tmp_path / "out").run()
    assert not list((tmp_path / "out").rglob(".partial-*"))
    assert threading.active_count() < 10
    monkeypatch.undo()
    assert job(source, tmp_path / "out").run() == 0
    assert results(tmp_path / "out") == expected


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made"):
        Folder(str(tmp_path / "file" / "out"))
    with pytest.raises(InputError, match="output nothing://x"):
        Bucket("nothing://x")


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_read_only_output(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="read-only"):
        Folder(str(tmp_path))


def test_a_lock_that_is_a_pipe(tmp_path):
    """It would be waited for without end."""
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / ".lock")
    with pytest.raises(InputError, match="regular file"):
        job(write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out").run()


def test_a_damaged_job_file_is_named(whole, tmp_path):
    source, _ = whole
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text('{"format": "jaxdlm-b')
    with pytest.raises(InputError, match=r"job\.json is damaged"):
        job(source, tmp_path / "out").run()
    assert job(source, tmp_path / "out", new_run=True).run() == 0


@pytest.mark.slow
def test_sigterm_saves_what_is_finished(tmp_path):
    """Status 143 within the grace, and the rest is done by the same command."""
    source = write(tmp_path / "in.jsonl", [{"tokens": [3, 9, 4 + i % 8], "max_new": 4} for i in range(4000)])
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "jaxdlm", "batch", source, "--output", str(out), "--max-new", "4", "--flush", "0.2",
        "--slots", "4", "--shard-rows", "4000",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if list(out.glob("parts/*/*.jsonl")) or process.poll() is not None:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said
    assert "the same command goes on" in said
    saved = [len(json.loads(part.read_text().partition("\n")[0])["rows"]) for part in out.glob("parts/*/*.jsonl")]
    assert sum(saved) > 0


@pytest.mark.slow
def test_kills_lose_nothing():
    """Five SIGKILLs, in the middle of writes and at random times; `benchmarks/faults.py` does hundreds."""
    command = [sys.executable, "benchmarks/faults.py", "--kills", "5", "--rows", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= 5
    assert (counts["lost"], counts["doubled"], counts["different"], counts["failed"]) == (0, 0, 0, 0)
