"""Memory of one ordinary forward behind a cache, and of its loop, from the compiler: nothing runs.

    python benchmarks/step_memory.py --model llada-8b --target v5e:2x2 --tensor 4     # libtpu, no TPU
    python benchmarks/step_memory.py --target cpu

Prints a JSON object: `temporaries` of a compiled step against `buffer`, the bytes of bfloat16 logits of the window
(per chip); the seconds that the whole decode took to trace and compile, and those of one core (the sum over threads, which
other work on the machine does not lengthen as much); and how often its loop copies an array as large as the
stored keys of a chip.
"""

import argparse
import json
import math
import pathlib
import re
import time
from typing import Any, ClassVar

import jax
import numpy as np

from jaxdlm import resolve, struct
from jaxdlm.core import loop
from jaxdlm.core.carry import Window
from jaxdlm.core.rule import Decoding
from jaxdlm.plan.aot import Job, per_group, placed, prepare, slice_mesh, weights
from jaxdlm.sharding import batch_sharding, make_mesh, striped


@struct.dataclass
class Ordinary:
    """A cache whose every forward is its ordinary one."""

    inner: Any
    recomputes_all: ClassVar[bool] = True

    @property
    def window(self) -> str:
        return self.inner.window

    def init(self, context: Any, rows: Any) -> Any:
        return self.inner.init(context, rows)

    def refresh(self, context: Any, rows: Any, start: Any, state: Any) -> Window:
        return self.inner.step(context, rows, start, state)


def abstract(job: Job, mesh: Any) -> tuple[Any, Any, Any]:
    """Shapes, with shardings, of the carry, the weights and the policy; no array is made."""
    params = weights(job, mesh)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), job.layout.rows)
    rule = jax.tree.map(lambda x: np.asarray(x, np.float32), resolve.resolve_policy(job.policy))
    return rows, params, rule


def compile_step(job: Job, mesh: Any, cache: Any) -> Any:
    """The ordinary forward of a cached decode: carry in, carry out, buffers donated."""
    rows, params, rule = abstract(job, mesh)
    decoding = Decoding(striped(job.decoder, params), params, rule, cache, job.layout.geometry)
    carry = jax.eval_shape(lambda rows, decoding: loop.init(rows, decoding, "commit"), rows, decoding)
    step = jax.jit(loop.single, donate_argnums=0)
    return step.lower(carry, decoding.replace(cache=Ordinary(cache))).compile()


def buffer_bytes(job: Job, mesh: Any) -> int:
    """bfloat16 logits [B, block, V] of one chip."""
    return 2 * job.batch * job.layout.geometry.block * job.config.vocab_size // math.prod(mesh.shape.values())


def whole_copies(program: str, elements: int) -> list[str]:
    """Copies in the ordinary branch or body that are as large as the stored keys of one chip, or larger."""
    found = []
    for line in program.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?\S+ = \(?(\w+)\[([\d,]+)\][^ ]* copy(?:-start)?\(", line)
        if match and math.prod(int(n) for n in match[2].split(",")) >= elements:
            found.append(line.strip()[:160])
    return found


def weight_copies(program: str, params: Any) -> list[str]:
    """Copies of arrays that have the shape of a chip's part of a stack of matrices."""
    parts = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(params["segments"]) if leaf.ndim > 2}
    copied = re.findall(r"= \(?(\w+\[[\d,]+\])\S* copy(?:-start)?\(", program)
    sizes = {tuple(sorted(part)) for part in parts}  # a copy may have its axes in another order
    return [one for one in copied if tuple(sorted(map(int, one.split("[")[1][:-1].split(",")))) in sizes]


def step_report(job: Job, mesh: Any, cache: Any, hlo: pathlib.Path | None) -> dict[str, Any]:
    """What the compiler says of the ordinary step; its program is written to `hlo`."""
    begin = time.perf_counter()
    step = compile_step(job, mesh, cache)
    stats, text = step.memory_analysis(), step.as_text()
    stored = job.config.num_layers * job.batch * job.layout.geometry.length
    stored *= job.config.num_kv_heads * job.config.head_dim // math.prod(mesh.shape.values())
    if hlo:
        hlo.write_text(text)
    buffer = buffer_bytes(job, mesh)
    return {
        "temporaries": stats.temp_size_in_bytes, "buffer": buffer, "aliased": stats.alias_size_in_bytes,
        "seconds": round(time.perf_counter() - begin, 1), "copies": whole_copies(text, stored),
        "ratio": round(stats.temp_size_in_bytes / buffer, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a cached step, from the compiler.")
    parser.add_argument("--model", default="llada-8b")
    parser.add_argument("--target", default="cpu", help="'cpu', or a slice such as v5e:2x2")
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--policy", default="threshold")
    parser.add_argument("--cache", default="dual")
    for name, size in (("batch", 8), ("prompt", 256), ("max-new", 256), ("block", 32)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--decode", nargs="?", const="too", choices=["too", "alone"], help="compile the whole decode")
    parser.add_argument("--hlo", type=pathlib.Path, help="write the compiled step here")
    args = parser.parse_args()
    job = Job(args.model, args.batch, args.prompt, args.max_new, args.block, args.policy, args.cache)
    cache = resolve.resolve_cache(args.cache)
    if args.target == "cpu":
        mesh = make_mesh({"data": 1, "tensor": 1})
    else:
        prepare()
        mesh = slice_mesh(args.target, {"data": -1, "tensor": args.tensor})
    report = {"model": args.model, "target": args.target, "mesh": dict(mesh.shape), "batch": args.batch}
    if args.decode != "alone":
        report |= step_report(job, mesh, cache, args.hlo)
    if args.decode:
        rows, params, rule = abstract(job, mesh)
        begin, worked = time.perf_counter(), time.process_time()
        decoding = Decoding(striped(job.decoder, params), params, rule, cache, job.layout.geometry)
        program = jax.jit(per_group(mesh)).lower(rows, decoding).compile()
        report["decode_seconds"] = round(time.perf_counter() - begin, 1)
        report["decode_core_seconds"] = round(time.process_time() - worked, 1)
        report["decode_temporaries"] = program.memory_analysis().temp_size_in_bytes
        report["weight_copies"] = weight_copies(program.as_text(), params)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
