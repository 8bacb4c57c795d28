"""How well the slots of `jaxdlm batch` are filled, against static batching, and what the host costs.

    python benchmarks/slots.py                # one device: slot use, static batching, recompiles, idle time
    python benchmarks/slots.py --devices 4    # rows/s with 4 simulated devices against 1: pin it to one core

Rows ask for 6 to 64 tokens, log-uniformly, one token per forward. Static batching is the same compiled program that
takes the same rows in chunks and lets every chunk run dry before the next. Contestants take turns within a round and
ratios are taken inside rounds. Idle is the share of the job's time that the device alone would not have needed: the
job's queues are recorded and sent again, back to back, with no host work between them.

With --devices N every contestant does the same rows: N devices with S slots each, one device with S slots, and one with
N S slots. Beside the time on the wall stands that of the processor, which other programs on the core do not change.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

from contest import in_turns, ratio

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
        self.inner, self.counts, self.ahead = engine, engine.counts, engine.ahead

    def run(self, feed: Any, sink: Any, stopped: Any) -> None:
        while (window := feed.get()) is not None:
            size = self.inner.slots * self.inner.replicas
            for begin in range(0, len(window), size):
                chunk = window[begin : begin + size]
                self.inner._enter(self.inner.group(chunk[0]), sink)
                self.inner._send(chunk, self.inner._group, sink)
                self.inner._drain(sink)


class Recorder:
    """Notes the queues that go to the device."""

    def __init__(self, advance: Any) -> None:
        self.advance, self.calls, self.eval_shape = advance, [], advance.eval_shape

    def __call__(self, pool: Any, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.advance(pool, *args, **options)


def replay(calls: list[Any], slots: int, start: Any, advance: Any) -> float:
    """Seconds of the device alone for the same queues."""
    import jax

    from jaxdlm.batch.slots import Sides

    (queue, _, _, *parts), options = calls[0]
    ends = None if queue.ends is None else queue.ends.shape[-2:]
    pool = jax.block_until_ready(start(*parts, **options, slots=slots, sides=Sides(ends)))
    begin = time.perf_counter()
    for args, options in calls:
        pool, _ = advance(pool, *args, **options)
    jax.block_until_ready(pool)
    return time.perf_counter() - begin


class Bench:
    """Jobs of the same rows on `tiny`, one token per forward."""

    def __init__(self, rows: int) -> None:
        from jaxdlm.batch.cli import read_policies
        from jaxdlm.resolve import resolve_cache

        self.rows = rows
        self.policies, self.cache = read_policies("low_confidence"), resolve_cache("none")
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.models: dict[str, Any] = {}
        self._number = iter(range(10**6))

    def model(self, words: str) -> tuple[Any, Any]:
        """(model, mesh), loaded once."""
        import jaxdlm as jd
        from jaxdlm.batch.cli import make_mesh

        if words not in self.models:
            mesh = make_mesh(words)
            self.models[words] = jd.load("tiny", mesh=mesh), mesh
        return self.models[words]

    def job(self, slots: int, order: str = "longest", mesh: str = "data=1", static: bool = False) -> tuple[float, Any]:
        """(seconds, engine counts) of one whole job: reading, decoding, writing."""
        from jaxdlm.batch import run

        lm, devices = self.model(mesh)
        source = self.folder / "in.jsonl"
        if not source.exists():
            source.write_text("".join(f"{json.dumps(row)}\n" for row in requests(lm, self.rows)))
        options = run.Options(
            input=str(source), output=str(self.folder / f"out{next(self._number)}"), policy="low_confidence",
            max_new=LONG, slots=slots, order=order, quiet=True, stop=False,  # each row takes the columns that it asks for
        )  # fmt: skip
        work = run.job(options, lm, self.policies, self.cache, devices)
        work.engine = Static(work.engine) if static else work.engine
        begin = time.perf_counter()
        assert work.run() == 0
        return time.perf_counter() - begin, work.engine.counts


def one_device(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from jaxdlm.batch import slots

    bench = Bench(args.rows)
    compiled: list[str] = []
    advance = slots.advance
    names = ("longest", "input", "static")
    bench.job(args.slots)
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    rounds: dict[str, list[float]] = {name: [] for name in (*names, "device")}
    use = {}
    for _ in range(args.rounds):
        for name in names:
            slots.advance = recorder = Recorder(advance)
            seconds, counts = bench.job(args.slots, "input" if name == "static" else name, static=name == "static")
            slots.advance = advance
            rounds[name].append(seconds)
            use[name] = counts.use
            if name == "longest":
                rounds["device"].append(replay(recorder.calls, args.slots, slots.start, advance))
    return {
        "rows": args.rows, "slots": args.slots,
        "slot_use": {name: round(value, 3) for name, value in use.items()},
        "speedup_over_static": {name: round(ratio(rounds, "static", name), 2) for name in names[:2]},
        "rows_per_second": round(args.rows / statistics.median(rounds["longest"]), 2),
        "idle": round(1 - ratio(rounds, "device", "longest"), 3), "recompiles": compiled.count(COMPILE),
        "job_seconds": [round(value, 2) for value in rounds["longest"]],
        "device_seconds": [round(value, 2) for value in rounds["device"]],
    }  # fmt: skip


def several_devices(args: argparse.Namespace) -> dict[str, Any]:
    many = args.devices
    bench = Bench(args.rows)
    contestants = {
        f"{many} devices, {args.slots} slots each": (args.slots, f"data={many}"),
        f"1 device, {args.slots} slots": (args.slots, "data=1"),
        f"1 device, {many * args.slots} slots": (many * args.slots, "data=1"),
    }
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    processor: dict[str, list[float]] = {name: [] for name in contestants}
    use = {}
    for slots, mesh in contestants.values():
        bench.job(slots, mesh=mesh)  # compiles
    for name in in_turns(contestants, args.rounds):
        slots, mesh = contestants[name]
        begin = time.process_time()
        seconds, counts = bench.job(slots, mesh=mesh)
        wall[name].append(seconds)
        processor[name].append(time.process_time() - begin)
        use[name] = round(counts.use, 3)
    first, *others = contestants
    return {
        "rows": args.rows, "slot_use": use,
        "rows_per_second": {name: round(args.rows / statistics.median(wall[name]), 2) for name in contestants},
        "rows_per_core_second": {name: round(args.rows / statistics.median(processor[name]), 2) for name in contestants},
        "times_as_fast": {f"as {name}": round(ratio(wall, name, first), 3) for name in others},
        "times_as_fast_by_processor": {f"as {name}": round(ratio(processor, name, first), 3) for name in others},
        "seconds": {name: [round(value, 2) for value in values] for name, values in wall.items()},
        "processor_seconds": {name: [round(value, 2) for value in values] for name, values in processor.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Slots against static batching.")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--slots", type=int, default=8, help="per device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, help="compare that many simulated devices with one, in turns")
    args = parser.parse_args()
    if args.devices is None:
        print(json.dumps(one_device(args)))
        return
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"
    print(json.dumps(several_devices(args), indent=1))


if __name__ == "__main__":
    main()
