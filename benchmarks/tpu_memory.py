"""Compiles the whole decode of a released model for TPUs that are not here, and says what it needs per chip.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/tpu_memory.py --models llada-8b --topologies v5e:2x4

Needs `libtpu` (extra `tpu-aot`), no TPU. No weight is ever made: parameters are shapes with shardings.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a metadata server which TPU this is

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import _decode
from jaxdlm.load import LM
from jaxdlm.models import Backbone
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.sharding import batch_sharding, make_mesh, param_shardings

GIB = 2**30
HBM = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GiB per chip, as the vendor states them
TOPOLOGIES = ("v5e:2x4", "v5p:2x2x1", "v6e:2x4")
LOCK = pathlib.Path(tempfile.gettempdir()) / f"jaxdlm-libtpu-{os.getuid()}.lock"


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes per chip of one compiled decode, and how long the compiler took."""

    model: str
    topology: str
    mesh: str
    arguments: int
    temporaries: int
    output: int
    program: int
    seconds: float

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.output + self.program

    @property
    def limit(self) -> int:
        return HBM[self.topology.split(":")[0]] * GIB


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """libtpu serves one process at a time."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mesh_of(topology: str, data: int) -> Mesh:
    """(data, tensor) over the described chips, `data` rows of a batch apart, weights over the rest."""
    devices = topologies.get_topology_desc(topology, "tpu").devices
    return make_mesh({"data": data, "tensor": -1}, devices)


def placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def compiled(model: str, mesh: Mesh, *, batch: int, prompt: int, max_new: int, block: int, policy: str) -> Any:
    """The decode that `jaxdlm.decode` would run, compiled for the mesh."""
    config = dataclasses.replace(released_config(model), param_dtype="bfloat16")
    lm = LM(Backbone(config), None, None, model)
    layout = _decode.lay_out(lm, [[0] * prompt] * batch, max_new=max_new, block=block, seed=0, ids=None)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), layout.rows)
    params = jax.tree.map(placed, abstract_params(config), param_shardings(config, mesh))
    whole = NamedSharding(mesh, PartitionSpec())
    rule = jax.tree.map(lambda x: placed(np.asarray(x, np.float32), whole), _decode.resolve_policy(policy))
    cache = _decode.resolve_cache("none")
    return _decode._run.lower(rows, lm.model, params, rule, cache, layout.geometry, "commit", 0).compile()


def measure(model: str, topology: str, *, data: int = 2, **sizes: Any) -> tuple[Need, Any]:
    """What one decode needs, and the compiled program."""
    mesh = mesh_of(topology, data)
    start = time.perf_counter()
    program = compiled(model, mesh, **sizes)
    seconds = time.perf_counter() - start
    stats = program.memory_analysis()
    shape = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    need = Need(
        model=model, topology=topology, mesh=shape, arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes, output=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        program=stats.generated_code_size_in_bytes, seconds=seconds,
    )  # fmt: skip
    return need, program


def table(needs: list[Need]) -> str:
    """Markdown, GiB per chip."""
    lines = [
        "| model | topology | mesh | arguments | temporaries | output | program | sum | chip | compile |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for need in needs:
        bytes_ = (need.arguments, need.temporaries, need.output, need.program, need.total, need.limit)
        figures = " | ".join(f"{x / GIB:.3f}" for x in bytes_)
        lines.append(f"| {need.model} | {need.topology} | {need.mesh} | {figures} | {need.seconds:.0f} s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory per chip of a decode, from the TPU compiler (GiB).")
    parser.add_argument("--models", nargs="+", default=["llada-8b", "dream-7b"])
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--policy", default="threshold")
    parser.add_argument("--data", type=int, default=2, help="chips along the batch; the others share the weights")
    for name, size in (("batch", 8), ("prompt", 256), ("max-new", 256), ("block", 32)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    parser.add_argument("--hlo", type=pathlib.Path, help="write the last compiled program here")
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in ("batch", "prompt", "max_new", "block", "policy", "data")}
    needs = []
    with alone():
        for model in given.models:
            for topology in given.topologies:
                need, program = measure(model, topology, **sizes)
                needs.append(need)
                if given.json:
                    print(json.dumps(dataclasses.asdict(need) | {"limit": need.limit}), flush=True)
    if not given.json:
        print(table(needs))
    if given.hlo:
        given.hlo.write_text(program.as_text())


if __name__ == "__main__":
    main()
