"""How well the slots of `jaxdlm batch` are filled, against static batching, and what the host costs.

    python benchmarks/slots.py                # one device: slot use, static batching, recompiles, idle time
    python benchmarks/slots.py --devices 4    # and rows/s with 4 simulated devices against 1, on the same core

Rows ask for 6 to 64 tokens, log-uniformly, one token per forward. Static batching is the same compiled program that
takes the same rows in chunks and lets every chunk run dry before the next. Contestants take turns within a round and
ratios are taken inside rounds. Idle is the share of the job's time that the device alone would not have needed: the
job's queues are recorded and sent again, back to back, with no host work between them.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SHORT, LONG = 6, 64
COMPILE = "/jax/core/compile/backend_compile_duration"


def requests(lm: Any, rows: int) -> list[dict]:
    """Prompts of the model's own tasks, with the columns that each asks for."""
    import numpy as np

    prompts = [lm.tokenizer.encode_prompt(prompt) for prompt in lm.tokenizer.examples]
    prompts = [prompt for prompt in prompts if len(prompt) == min(map(len, prompts))]
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(SHORT), np.log(LONG + 1), rows)).astype(int)
    return [
        {"id": i, "tokens": prompts[i % len(prompts)], "max_new": min(int(length), LONG)}
        for i, length in enumerate(lengths)
    ]


class Static:
    """An engine that lets every chunk of rows run dry."""

    def __init__(self, engine: Any) -> None:
        self.inner, self.counts = engine, engine.counts

    def run(self, feed: Any, sink: Any, stopped: Any) -> None:
        while (window := feed.get()) is not None:
            size = self.inner.slots * self.inner.replicas
            for begin in range(0, len(window), size):
                chunk = window[begin : begin + size]
                self.inner._enter(self.inner.group(chunk[0]), sink)
                self.inner._send(chunk, self.inner._group)
                self.inner._drain(sink)


class Recorder:
    """Notes the queues that go to the device."""

    def __init__(self, advance: Any) -> None:
        self.advance, self.calls = advance, []

    def __call__(self, pool: Any, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.advance(pool, *args, **options)


def replay(calls: list[Any], slots: int, start: Any, advance: Any) -> float:
    """Seconds of the device alone for the same queues."""
    import jax

    (_, _, _, *parts), options = calls[0]
    pool = jax.block_until_ready(start(*parts, **options, slots=slots))
    begin = time.perf_counter()
    for args, options in calls:
        pool, _ = advance(pool, *args, **options)
    jax.block_until_ready(pool)
    return time.perf_counter() - begin


def measure(given: argparse.Namespace) -> dict[str, Any]:
    import jax

    import jaxdlm as jd
    from jaxdlm._decode import resolve_cache
    from jaxdlm.batch import run, slots
    from jaxdlm.batch.cli import make_mesh, read_policies

    mesh = make_mesh(None)
    lm = jd.load("tiny", mesh=mesh)
    policies, cache = read_policies("low_confidence"), resolve_cache("none")
    rows = given.rows * mesh.shape["data"]
    folder = pathlib.Path(tempfile.mkdtemp())
    source = folder / "in.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in requests(lm, rows)))
    compiled: list[str] = []
    advance = slots.advance
    number = iter(range(10**6))

    def job(order: str, static: bool = False) -> tuple[float, Any, list[Any]]:
        options = run.Options(
            input=str(source), output=str(folder / f"out{next(number)}"), policy="low_confidence", max_new=LONG,
            slots=given.slots, order=order, quiet=True,
        )  # fmt: skip
        work = run.job(options, lm, policies, cache, mesh)
        work.engine = Static(work.engine) if static else work.engine
        slots.advance = recorder = Recorder(advance)
        begin = time.perf_counter()
        assert work.run() == 0
        seconds = time.perf_counter() - begin
        slots.advance = advance
        return seconds, work.engine.counts, recorder.calls

    names = ("longest",) if given.inner else ("longest", "input", "static")
    job("longest")
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    rounds: dict[str, list[float]] = {name: [] for name in (*names, "device")}
    use = {}
    for _ in range(given.rounds):
        for name in names:
            seconds, counts, calls = job("input" if name == "static" else name, name == "static")
            rounds[name].append(seconds)
            use[name] = counts.use
            if name == "longest":
                rounds["device"].append(replay(calls, given.slots, slots.start, advance))
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(rounds[a], rounds[b]))  # noqa: E731
    return {
        "devices": mesh.shape["data"], "rows": rows, "slots": given.slots,
        "slot_use": {name: round(value, 3) for name, value in use.items()},
        "speedup_over_static": {name: round(ratio("static", name), 2) for name in names if name != "static"}
        if "static" in names
        else None,
        "rows_per_second": round(rows / statistics.median(rounds["longest"]), 2),
        "idle": round(1 - ratio("device", "longest"), 3), "recompiles": compiled.count(COMPILE),
        "job_seconds": [round(value, 2) for value in rounds["longest"]],
        "device_seconds": [round(value, 2) for value in rounds["device"]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Slots against static batching.")
    parser.add_argument("--rows", type=int, default=160, help="per device")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, help="compare that many simulated devices with one, in turns")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.devices is None or given.inner:
        print(json.dumps(measure(given)))
        return
    found: dict[int, list[float]] = {1: [], given.devices: []}
    for _ in range(given.rounds):
        for devices, rates in found.items():
            flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
            size = ["--rows", str(given.rows), "--slots", str(given.slots), "--rounds", "1", "--inner"]
            done = subprocess.run(
                [sys.executable, __file__, *size], env=flags, capture_output=True, text=True, check=True
            )
            rates.append(json.loads(done.stdout)["rows_per_second"])
            print(done.stdout, end="", flush=True)
    ratios = [many / one for one, many in zip(*found.values())]
    print(json.dumps({"rows_per_second": found, "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
