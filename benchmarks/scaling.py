"""How the cost of a decode grows: time, memory and compilation against rows, columns, words, layers and devices.

    taskset -c 1 python benchmarks/scaling.py
    taskset -c 1 python benchmarks/scaling.py --axes rows columns --hidden 256

Random weights of a small dense model; a policy that commits one block in `--forwards` forwards, no cache. Along each axis one
number grows and the others stay. Of every size: processor seconds of the compiled loop (least of `--rounds`), bytes of
temporaries by the compiler's account, processor seconds of lowering and compiling, with no program kept on disk. An exponent is
the slope of a straight line through the logarithms of the upper half of the sizes, where fixed costs count least. The
expected one of time is the same slope of the operations that `jaxdlm.plan` counts; that of memory and compilation is
stated: temporaries in proportion to rows and columns (scores of attention are made in chunks), none from more words (the head
is read in tiles) or more layers (they are one loop); compilation the same whatever the size. On several simulated devices
each has its share of the rows, 128 in all: its memory falls as their number grows.
"""

import argparse
import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ["JAXDLM_COMPILE_CACHE"] = "off"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm import _decode, load, low_confidence
from jaxdlm._load import LM
from jaxdlm.models import Backbone
from jaxdlm.models.config import TokenIds
from jaxdlm.models.params import init_params
from jaxdlm.plan.aot import Job
from jaxdlm.plan.cost import work
from jaxdlm.sharding import make_mesh

PROMPT = 32
BASE = {"rows": 8, "columns": 64, "words": 1024, "layers": 4, "devices": 1}
AXES: dict[str, tuple[int, ...]] = {
    "rows": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "columns": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "words": (1024, 4096, 16384, 65536, 131072),
    "layers": (2, 4, 8, 16, 32, 64),
    "devices": (1, 2, 4, 8),
}
EXPECTED = {  # axis -> exponents of (memory, compilation)
    "rows": (1.0, 0.0), "columns": (1.0, 0.0), "words": (0.0, 0.0), "layers": (0.0, 0.0), "devices": (-1.0, 0.0),
}  # fmt: skip


def model(words: int, layers: int, hidden: int) -> LM:
    """Random weights."""
    heads = hidden // 32
    config = dataclasses.replace(
        load("tiny").config, vocab_size=words, num_layers=layers, hidden_size=hidden, num_heads=heads, num_kv_heads=heads,
        head_dim=32, intermediate_size=4 * hidden, max_position=8192, tokens=TokenIds(mask=0, pad=1, eos=(2,)),
    )  # fmt: skip
    return LM(Backbone(config), init_params(config, jax.random.key(0)), None, "random")


@dataclasses.dataclass(frozen=True)
class Counted(Job):
    """A job of a model that has no name."""

    own: Any = None

    @functools.cached_property
    def config(self) -> Any:
        return self.own


def operations(lm: LM, size: dict[str, int], forwards: int) -> float:
    """Of all forwards, as `jaxdlm.plan` counts them."""
    job = Counted(
        "random",
        size["rows"],
        PROMPT,
        size["columns"],
        size["columns"],
        low_confidence(forwards),
        "none",
        own=lm.config,
    )
    return forwards * work(job, make_mesh({"data": 1}, jax.devices()[:1]), refresh=True).flops


def measure(size: dict[str, int], args: argparse.Namespace) -> dict[str, float]:
    """What one size costs; `operations` with it."""
    lm = model(size["words"], size["layers"], args.hidden)
    prompts = np.random.default_rng(0).integers(5, 500, (size["rows"], PROMPT)).tolist()
    whole = _decode.prepare(
        lm, prompts, low_confidence(args.forwards), "none", size["columns"], size["columns"], save="none", stop=False
    ).parts[0]
    rows, decoding = whole.batch.rows, whole.decoding
    if size["devices"] > 1:
        mesh = make_mesh({"data": size["devices"]}, jax.devices()[: size["devices"]])
        over = NamedSharding(mesh, PartitionSpec("data"))
        rows = jax.device_put(rows, over)
        decoding = jax.device_put(decoding, NamedSharding(mesh, PartitionSpec()))
    begin = time.process_time()
    program = _decode._run.lower(rows, decoding, "none", structure=0).compile()
    compiled = time.process_time() - begin
    spent = []
    for _ in range(args.rounds + 1):
        begin = time.process_time()
        jax.block_until_ready(program(rows, decoding))
        spent.append(time.process_time() - begin)
    memory = program.memory_analysis().temp_size_in_bytes
    return {
        "time": min(spent[1:]), "memory": memory, "compilation": compiled, "operations": operations(lm, size, args.forwards)
    }  # fmt: skip


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """The slope of log(value) over log(size), of the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0])


def lines(axis: str, sizes: tuple[int, ...], args: argparse.Namespace) -> Iterator[str]:
    """The table of an axis, a line per quantity."""
    found = []
    for size in sizes:
        found.append(measure(BASE | ({"rows": 128} if axis == "devices" else {}) | {axis: size}, args))
        jax.clear_caches()
    counted = exponent(sizes, [one["operations"] for one in found])
    memory, compilation = EXPECTED[axis]
    for name, expected in {"time": counted, "memory": memory, "compilation": compilation}.items():
        values = [one[name] for one in found]
        if axis == "devices" and name == "time":
            continue  # simulated devices share the cores
        ends = (
            f"{value / 2**20:.1f} MiB" if name == "memory" else f"{value:.3f} s" for value in (values[0], values[-1])
        )
        slope = exponent(sizes, values)
        note = "" if slope <= expected + 0.1 else "above"
        yield f"| {axis} | {sizes[0]} to {sizes[-1]} | {name} | {' to '.join(ends)} | {slope:.2f} | {expected:.2f} | {note} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--forwards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=10**9, help="leave out larger sizes")
    args = parser.parse_args()
    print("| axis | sizes | of | from, to | exponent | expected | |\n|---|---|---|---|--:|--:|---|")
    for axis in args.axes:
        for line in lines(axis, tuple(size for size in AXES[axis] if size <= args.most), args):
            print(line, flush=True)


if __name__ == "__main__":
    main()
