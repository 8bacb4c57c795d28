"""Kills batch jobs with SIGKILL, goes on with them, and counts rows lost, rows doubled and outputs that differ.

    python benchmarks/faults.py                     # 300 kills; the device is replaced by a function of the prompt
    python benchmarks/faults.py --kills 20 --real   # the same with a model that decodes
    python benchmarks/faults.py --workers 3         # of three workers on one output one is killed; the others do its part

A job runs in a forked process. Half of the kills come from outside at a random time; half strike inside, in the middle
of a random write, before or after a rename, a link or a removal (a file that is being written is cut in half first).
After each kill the same job is started again on the same output, until it completes; then its output is compared with
that of a job that nobody disturbed, and the next output begins. What is decoded does not matter for what is counted,
so that the fast mode leaves it out: reading, refusing, saving, committing and resuming are the product's own.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from jaxdlm._load import LM
from jaxdlm.batch import run
from jaxdlm.batch.cli import make_mesh, read_policies
from jaxdlm.batch.engine import Counts, Result
from jaxdlm.batch.source import scan
from jaxdlm.resolve import resolve_cache
from tests.conformance.toy_models import BASE, model

CALLS = ("fsync", "replace", "link", "unlink")


class Instant:
    """Stands in for the device: tokens are a function of the prompt."""

    def __init__(self, pause: float) -> None:
        self.counts, self.pause, self.ahead = Counts(), pause, 8

    def run(self, feed: Any, sink: Callable[[Any, Result], None], stopped: Callable[[], bool]) -> None:
        while not stopped() and (window := feed.get()) is not None:
            for request in window:
                time.sleep(self.pause)
                tokens = (np.arange(request.max_new) * int(request.tokens.sum()) + request.seed) % 40
                sink(request, Result(tokens.astype(np.int32), len(tokens), "finished"))


def build(source: str, output: str, args: argparse.Namespace) -> run.Job:
    """A job with its own engine."""
    options = run.Options(
        input=source, output=output, policy="threshold,tau=0.05", max_new=8, block=4, slots=4, shard_rows=7,
        flush=0.02, quiet=True, window=20, worker=args.workers > 1, lease=0.4,
    )  # fmt: skip
    policies, cache = read_policies(options.policy), resolve_cache("none")
    if args.real:
        return run.job(options, model("same"), policies, cache, make_mesh("data=1"))
    lm = LM(types.SimpleNamespace(config=BASE), {}, None, "toy")
    return run.Job(options, lm, policies, cache, scan(source), Instant(args.pause))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mine(call: int) -> None:
    """Makes this process die at its call-th operation on files, before or after it."""
    left = [call]

    def armed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and name == "fsync":
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            if left[0] < 0 and call % 2:
                die()
            done = original(*args, **options)
            if left[0] < 0:
                die()
            return done

        return attempt

    for name in CALLS:
        setattr(os, name, armed(name, getattr(os, name)))


Fate = tuple[str, float] | None


def begin(source: str, output: str, args: argparse.Namespace, fate: Fate) -> int:
    """Starts the job in a process of its own that may die; its pid."""
    with warnings.catch_warnings():  # JAX warns of threads; this process has started no backend, so there are none
        warnings.simplefilter("ignore", RuntimeWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if fate is not None and fate[0] == "inside":
                mine(int(fate[1]))
            status = build(source, output, args).run()
        finally:
            os._exit(status)
    return pid


def ended(pid: int, fate: Fate) -> str:
    """How that process ended: "done", "killed" or "failed"."""
    if fate is not None and fate[0] == "outside":
        time.sleep(fate[1])
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
        else:
            return "done"
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if os.WEXITSTATUS(status) == 0 else "failed"


def attempt(source: str, output: str, args: argparse.Namespace, fate: Fate) -> tuple[str, bool]:
    """(how the job that meets this fate ended, whether the output is complete). The other workers meet none."""
    victim = begin(source, output, args, fate)
    others = [begin(source, output, args, None) for _ in range(args.workers - 1)]
    how = ended(victim, fate)
    rest = [ended(pid, None) for pid in others]
    return ("failed" if rest.count("done") < len(rest) else how), how == "done" or bool(rest)


def content(output: pathlib.Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(output.glob("rows-*.jsonl")))


def write_input(path: pathlib.Path, rows: int) -> str:
    chosen = random.Random(0)
    lines = [{"id": f"row {i}", "tokens": [chosen.randrange(1, 40) for _ in range(3 + i % 9)]} for i in range(rows)]
    lines[rows // 2] = {"id": "empty", "tokens": []}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"id": "torn')
    return str(path)


def campaign(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, int]:
    """Counts over all kills."""
    chance = random.Random(args.seed)
    source = write_input(folder / "in.jsonl", args.rows)
    if args.real:  # compiles: what is killed afterwards finds its programs and spends its life on the job
        assert attempt(source, str(folder / "first"), args, None) == ("done", True)
    start = time.monotonic()
    assert attempt(source, str(folder / "whole"), args, None) == ("done", True)
    seconds = time.monotonic() - start
    expected = content(folder / "whole")
    ids = [json.loads(line)["id"] for line in expected.splitlines()]
    counts = collections.Counter(kills=0, inside=0, outside=0, failed=0, outputs=0, lost=0, doubled=0, different=0)
    while counts["kills"] < args.kills:
        output = folder / f"out{counts['outputs']}"
        how, complete = "", False
        while not complete and how != "failed":
            inside = chance.random() < 0.5
            fate = ("inside", chance.randrange(40)) if inside else ("outside", chance.uniform(0, 1.2 * seconds))
            how, complete = attempt(source, str(output), args, fate)
            if how == "killed":
                counts["kills"] += 1
                counts[fate[0]] += 1
            counts["failed"] += how == "failed"
        found = [json.loads(line)["id"] for line in content(output).splitlines()]
        counts["outputs"] += 1
        counts["lost"] += len(set(ids) - set(found))
        counts["doubled"] += len(found) - len(set(found))
        counts["different"] += content(output) != expected
        print(f"\r{counts['kills']} kills", end="", file=sys.stderr, flush=True)
    return dict(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills batch jobs and counts what is lost.")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.004, help="seconds per row of the fast mode")
    parser.add_argument("--real", action="store_true", help="decode with a model")
    parser.add_argument("--workers", type=int, default=1, help="processes on one output; one of them is killed")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        counts = campaign(args, pathlib.Path(folder))
    print(file=sys.stderr)
    print(json.dumps(counts | {"seconds": round(time.monotonic() - start, 1)}))
    return int(bool(counts["lost"] or counts["doubled"] or counts["different"] or counts["failed"]))


if __name__ == "__main__":
    sys.exit(main())
