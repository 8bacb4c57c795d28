"""A server under load, against the batch engine and against the loop.

    python benchmarks/serve.py load --requests 10000   # 300 clients, slow readers, aborts: none lost, none mixed
    python benchmarks/serve.py rate                    # rows per second at 64 clients / those of the batch engine
    python benchmarks/serve.py first                   # first block at 1 client / that of the loop
    python benchmarks/serve.py crowd --clients 10000   # as many connections that ask for nothing, and one that does

The server runs in this process, its clients in another. Every answer that a client waits for is compared with
`jaxdlm.decode` of the same prompt and seed; a client that leaves does so at a random moment, a slow one reads a few bytes at a
time. Contestants take turns within a run, and ratios are taken inside rounds, by the clock and by the time of this process's
cores, which other programs do not change and which leaves the clients out.
"""

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

BLOCK, POLICY = 16, "low_confidence,temperature=0.7"
SEEDS = 4


# -------------------------------------------------------------------------------- clients, in a process without JAX


async def ask(port: int, body: dict[str, Any], leave: float | None, slow: bool) -> tuple[int, bytes, float]:
    """(status, what came, seconds to the first text). leave: seconds after which the client goes."""
    begun, first, data = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
    try:
        content = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        async with asyncio.timeout(leave):
            while part := await reader.read(64 if slow else 1 << 16):
                data += part
                first = first or (time.perf_counter() - begun) * (b'"text"' in data)
                await asyncio.sleep(0.01 * slow)
    except TimeoutError:
        return 0, b"", 0.0
    finally:
        writer.close()
    status = int(data.split(b" ", 2)[1]) if data else -1
    return status, data.partition(b"\r\n\r\n")[2], first


def text_of(data: bytes, stream: bool) -> str:
    """The answer's text, out of a body that may come in chunks."""
    if not stream:
        return str(json.loads(data)["choices"][0]["text"])
    lines = [line for line in data.decode().split("\r\n") if line.startswith("data: {")]
    return "".join(json.loads(line.strip()[6:])["choices"][0]["text"] for line in lines)


async def client(plan: Any, port: int, told: collections.Counter, firsts: list[float]) -> None:
    for task in plan:
        while True:
            try:
                status, data, first = await ask(port, task["body"], task["leave"], task["slow"])
            except OSError:
                status = -1
            if status not in (429, 503):
                break
            told["told to wait"] += 1
            await asyncio.sleep(0.2)
        if task["leave"] is not None and status == 0:
            told["left"] += 1
        elif status != 200:
            told["lost"] += 1
        else:
            told["right" if text_of(data, task["body"]["stream"]) == task["text"] else "wrong"] += 1
            firsts.append(first)


async def clients(tasks: list[Any], port: int, number: int) -> dict[str, Any]:
    told, firsts = collections.Counter(dict.fromkeys(("right", "wrong", "lost", "left", "told to wait"), 0)), []
    plan, begun = iter(tasks), time.perf_counter()
    await asyncio.gather(*(client(plan, port, told, firsts) for _ in range(number)))
    return {**told, "seconds": round(time.perf_counter() - begun, 2), "firsts": firsts}


async def silent(port: int, told: collections.Counter) -> None:
    """A connection that asks for nothing until it is closed."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = await reader.read(12)
        told[data.decode() or "closed"] += 1
        writer.close()
    except OSError as error:
        told[type(error).__name__] += 1


async def crowd_of(port: int, number: int) -> dict[str, Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, number + 100), hard))
    told, begun = collections.Counter(), time.perf_counter()
    await asyncio.gather(*(silent(port, told) for _ in range(number)))
    return {**told, "seconds": round(time.perf_counter() - begun, 2)}


def in_another_process(tasks: list[Any], port: int, number: int) -> dict[str, Any]:
    """What the clients tell in the end; without tasks they ask for nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(tasks, file)
        file.flush()
        command = [sys.executable, __file__, "clients", file.name, "--port", str(port), "--clients", str(number)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# ------------------------------------------------------------------------------------------------------ the server


class Bench:
    """`tiny`, the answers that are right, and servers of it."""

    def __init__(self, new: int) -> None:
        import jaxdlm as jd
        from jaxdlm.batch.cli import make_mesh, read_policies
        from jaxdlm.resolve import resolve_cache

        self.new, self.mesh = new, make_mesh("data=1")
        self.lm = jd.load("tiny", mesh=self.mesh)
        self.policies, self.cache = read_policies(POLICY), resolve_cache("none")
        self.prompts = [self.lm.tokenizer.encode_prompt(prompt) for prompt in self.lm.tokenizer.examples]

    def rows(self) -> list[tuple[list[int], int, str]]:
        """(prompt, seed, text that `decode` gives) of every prompt under every seed."""
        import jaxdlm as jd

        how = {"max_new": self.new, "block": BLOCK, "stop": False}
        texts = {
            seed: jd.decode(self.lm, self.prompts, POLICY, seed=seed, ids=[0] * len(self.prompts), **how).text
            for seed in range(SEEDS)
        }
        return [(prompt, seed, texts[seed][at]) for at, prompt in enumerate(self.prompts) for seed in range(SEEDS)]

    def tasks(
        self, rows: list[Any], number: int, leave: float = 0.0, slow: float = 0.0, within: float = 0.5, **body: Any
    ) -> list[dict]:
        """Requests of these rows in turn. leave, slow: shares of clients that go `within` seconds, or read slowly."""
        draw = random.Random(0)
        made = []
        for index, (prompt, seed, text) in zip(range(number), itertools.cycle(rows)):
            own = {"prompt": prompt, "seed": seed, "max_tokens": self.new, "stream": index % 2 == 0, **body}
            gone = draw.uniform(0, within) if draw.random() < leave else None
            made.append({"body": own, "text": text, "leave": gone, "slow": draw.random() < slow})
        return made

    @contextlib.contextmanager
    def server(self, slots: int, queue: int = 1000, connections: int = 500, patience: float = 60) -> Any:
        from jaxdlm.serve.app import create_app
        from jaxdlm.serve.keys import Keys
        from jaxdlm.serve.reading import Limits
        from jaxdlm.serve.server import Running, listening, make_server
        from jaxdlm.serve.service import Service

        service = Service(
            self.lm, self.policies, self.cache, max_new=self.new, block=BLOCK, mesh=self.mesh, slots=slots, stop=False,
            limits=Limits(queue=queue, connections=connections, patience=patience),
        )  # fmt: skip
        app = create_app(service, Keys([]), local=True)
        server = make_server(app, patience=patience, connections=connections, grace=30, quiet=True)
        with Running(server, listening("127.0.0.1", 0, patience)) as running:
            yield service, int(running.url.rpartition(":")[2])


def load(args: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(args.new)
    tasks = bench.tasks(bench.rows(), args.requests, leave=0.3, slow=0.1, within=args.within)
    with bench.server(args.slots, queue=args.queue) as (service, port):
        in_another_process(bench.tasks(bench.rows(), 4), port, 4)  # compiles
        told = in_another_process(tasks, port, args.clients)
        end = time.monotonic() + 30
        while (service.scheduler.busy or service.scheduler.waiting) and time.monotonic() < end:
            time.sleep(0.05)
        told |= {"busy slots in the end": service.scheduler.busy, "waiting in the end": service.scheduler.waiting}
    del told["firsts"]
    return {"requests": args.requests, "clients": args.clients, "slots": args.slots} | told


def rate(args: argparse.Namespace) -> dict[str, Any]:
    from contest import ratio

    bench = Bench(args.new)
    rows = bench.rows()
    tasks = bench.tasks(rows, args.requests, stream=args.stream)
    folder = pathlib.Path(tempfile.mkdtemp())
    source = folder / "in.jsonl"
    asked = [
        {"id": at, "tokens": task["body"]["prompt"], "seed": task["body"]["seed"]} for at, task in enumerate(tasks)
    ]
    source.write_text("".join(f"{json.dumps(row)}\n" for row in asked))

    def job(name: str) -> None:
        from jaxdlm.batch import run

        options = run.Options(
            str(source), str(folder / name), POLICY, bench.new, block=BLOCK, slots=args.slots, quiet=True, stop=False
        )
        assert run.job(options, bench.lm, bench.policies, bench.cache, bench.mesh).run() == 0

    wall: dict[str, list[float]] = {"server": [], "batch": []}
    cores: dict[str, list[float]] = {"server": [], "batch": []}
    with bench.server(args.slots) as (_, port):
        job("warm")
        in_another_process(tasks[:64], port, args.clients)
        for turn in range(args.rounds):
            for name in ("server", "batch") if turn % 2 else ("batch", "server"):
                clock, core = time.perf_counter(), time.process_time()
                if name == "server":
                    told = in_another_process(tasks, port, args.clients)
                    assert told["right"] == args.requests, told
                    wall[name].append(told["seconds"])
                else:
                    job(f"out{turn}")
                    wall[name].append(time.perf_counter() - clock)
                cores[name].append(time.process_time() - core)
    return {
        "requests": args.requests, "clients": args.clients, "slots": args.slots, "stream": args.stream,
        "rows per second": {name: round(args.requests / statistics.median(each), 1) for name, each in wall.items()},
        "of the batch engine's, by the clock": round(ratio(wall, "batch", "server"), 3),
        "by processor time": round(ratio(cores, "batch", "server"), 3),
        "seconds": wall, "processor seconds": {name: [round(x, 2) for x in each] for name, each in cores.items()},
    }  # fmt: skip


def first(args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from jaxdlm._decode import prepare

    bench = Bench(args.new)
    rows = bench.rows()
    how = {"max_new": args.new, "block": BLOCK, "stop": False}

    def loop(prompt: list[int], seed: int) -> float:
        """Seconds until the text of the first block is there; its forwards are those of BLOCK columns, one each."""
        begun = time.perf_counter()
        part = prepare(bench.lm, [prompt], POLICY, seed=seed, **how).parts[0]
        carry = part.ahead(part.start(), BLOCK)
        np.asarray(carry.rows.tokens)
        return time.perf_counter() - begun

    every: dict[str, list[list[float]]] = {"server": [], "loop": []}
    with bench.server(1) as (_, port):
        loop(*rows[0][:2])
        in_another_process(bench.tasks(rows, 2, stream=True), port, 1)
        for _ in range(args.rounds):
            every["server"].append(in_another_process(bench.tasks(rows, 24, stream=True), port, 1)["firsts"])
            every["loop"].append([loop(*row[:2]) for row in rows[:24]])
    medians = {name: [statistics.median(times) for times in rounds] for name, rounds in every.items()}
    least = {name: min(map(min, rounds)) for name, rounds in every.items()}
    return {
        "milliseconds, medians of rounds": {name: [round(1e3 * x, 2) for x in each] for name, each in medians.items()},
        "milliseconds, least": {name: round(1e3 * x, 2) for name, x in least.items()},
        "of the loop's, medians": round(statistics.median(a / b for a, b in zip(medians["server"], medians["loop"])), 3),
        "of the loop's, least": round(least["server"] / least["loop"], 3),
    }  # fmt: skip


def crowd(args: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(args.new)
    asked = bench.tasks(bench.rows(), 1)
    with bench.server(1, patience=5) as (_, port):
        in_another_process(asked, port, 1)
        before = len(os.listdir("/proc/self/fd"))
        told = in_another_process([], port, args.clients)
        told["right afterwards"] = in_another_process(asked, port, 1)["right"]
        time.sleep(1)
        told["open files more than before"] = len(os.listdir("/proc/self/fd")) - before
    return {"connections": args.clients, "allowed": 500, "patience": 5} | told


def main() -> None:
    parser = argparse.ArgumentParser(description="A server under load.")
    parser.add_argument("what", choices=("load", "rate", "first", "crowd", "clients"))
    parser.add_argument("tasks", nargs="?", help="of clients: a file")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--queue", type=int, default=1000)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--within", type=float, default=5, help="of load: seconds in which those go who do not stay")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    args.clients = args.clients or {"load": 300, "rate": 64, "crowd": 10_000}.get(args.what, 1)
    if args.what == "clients":
        tasks = json.loads(pathlib.Path(args.tasks).read_text())
        work = clients(tasks, args.port, args.clients) if tasks else crowd_of(args.port, args.clients)
        print(json.dumps(asyncio.run(work)))
        return
    print(json.dumps({"load": load, "rate": rate, "first": first, "crowd": crowd}[args.what](args), indent=1))


if __name__ == "__main__":
    main()
