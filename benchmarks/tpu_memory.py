"""Memory per chip of a decode on TPUs that are not here, for several models and slices: `jaxdlm plan` as one table.

    python benchmarks/tpu_memory.py --models llada-8b --topologies v5e:2x4
    python benchmarks/tpu_memory.py --models llada-8b --topologies v5e:2x4 --batch 2 --prompt 2048 --max-new 2048

Needs `libtpu` (extra `tpu-aot`), no TPU. No weight is ever made: parameters are shapes with shardings. `--attention`: as in
`Backbone`; the last column counts the attention kernels that a program calls.
"""

import argparse
import dataclasses
import json
from typing import Any

from jaxdlm.plan.aot import Compiled, Job, compile_decode, prepare, slice_mesh
from jaxdlm.plan.chips import GIB, chip_of
from jaxdlm.plan.search import named

TOPOLOGIES = ("v5e:2x4", "v5p:2x2x1", "v6e:2x4")
KINDS = ("weights", "cache", "rows", "temporaries", "program")


@dataclasses.dataclass(frozen=True)
class Attending(Job):
    """A job whose attention is named."""

    attention: str = "auto"

    @property
    def decoder(self) -> Any:
        return dataclasses.replace(super().decoder, attention=self.attention)


def row(job: Job, topology: str, mesh: str, compiled: Compiled) -> str:
    """One line of the table, GiB per chip."""
    memory = compiled.memory
    sizes = [*(getattr(memory, kind) for kind in KINDS), memory.total, chip_of(topology).hbm]
    figures = " | ".join(f"{size / GIB:.3f}" for size in sizes)
    return f"| {job.model} | {topology} | {mesh} | {job.cache} | {figures} | {compiled.seconds:.0f} s | {kernels(compiled)} |"


def kernels(compiled: Compiled) -> int:
    """Calls of a Pallas kernel in the program."""
    return compiled.text.count('custom_call_target="tpu_custom_call"')


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory per chip of a decode, from the TPU compiler (GiB).")
    parser.add_argument("--models", nargs="+", default=["llada-8b", "dream-7b"])
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--policy", default="threshold")
    parser.add_argument("--cache", default="none")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--data", type=int, default=2, help="chips along the batch; the others share the weights")
    for name, size in (("batch", 8), ("prompt", 256), ("max-new", 256), ("block", 32)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    args = parser.parse_args()
    prepare()
    if not args.json:
        print("| model | topology | mesh | cache | " + " | ".join(KINDS) + " | sum | available | compile | kernels |")
        print("|---|---|---|---|" + "--:|" * (len(KINDS) + 4))
    for model in args.models:
        for topology in args.topologies:
            job = Attending(
                model, args.batch, args.prompt, args.max_new, args.block, args.policy, args.cache,
                attention=args.attention,
            )  # fmt: skip
            mesh = slice_mesh(topology, {"data": args.data, "tensor": -1})
            compiled = compile_decode(job, mesh)
            if args.json:
                known = {"model": model, "topology": topology, "mesh": dict(mesh.shape)}
                known |= {"attention": args.attention, "kernels": kernels(compiled)}
                print(json.dumps(known | dataclasses.asdict(compiled.memory)), flush=True)
            else:
                print(row(job, topology, named(mesh), compiled), flush=True)


if __name__ == "__main__":
    main()
