"""Compiles draft-and-target decoding of released sizes for TPUs that are not here; prints bytes per chip.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/speculative_tpu.py --topology v5e:2x4

Needs `libtpu` (extra `tpu-aot`), no TPU; no weight is ever made.
"""

import argparse
import dataclasses
import json
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm import speculative as S
from jaxdlm._load import LM
from jaxdlm.layout import lay_out_rows
from jaxdlm.models import Backbone
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import placed, prepare, slice_mesh
from jaxdlm.plan.chips import chip_of
from jaxdlm.sharding import batch_sharding, param_shardings
from jaxdlm.speculative.decode import generate


def shapes(name: str, mesh: Mesh) -> LM:
    """A released size in bfloat16: its weights as shapes with shardings."""
    config = dataclasses.replace(released_config(name), param_dtype="bfloat16")
    params = jax.tree.map(placed, abstract_params(config), param_shardings(config, mesh))
    return LM(Backbone(config), params, None, name)


def compiled(target: str, draft: str, mesh: Mesh, *, batch: int, prompt: int, max_new: int, k: int) -> Any:
    """The generation that `decode` would run."""
    lm, small = shapes(target, mesh), shapes(draft, mesh)
    rows, bucket = lay_out_rows(lm, [[1] * prompt] * batch, max_new=max_new, seed=0, ids=None, raw=False)
    rows = jax.tree.map(lambda x: placed(x, batch_sharding(mesh)), rows)
    whole = NamedSharding(mesh, PartitionSpec())
    number = lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else placed(np.float32(x), whole)  # noqa: E731
    policy = jax.tree.map(number, S.speculative(small, k=k))
    return generate.lower(rows, lm.model, lm.params, policy, bucket, max_new, "none").compile()


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory per chip of draft-and-target decoding, from the TPU compiler.")
    parser.add_argument("--target", default="qwen2.5-7b")
    parser.add_argument("--draft", default="qwen2.5-0.5b")
    parser.add_argument("--topology", default="v5e:2x4")
    for name, size in (("batch", 8), ("prompt", 256), ("max-new", 256), ("k", 4), ("data", 2)):
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in ("batch", "prompt", "max_new", "k")}
    prepare()
    start = time.perf_counter()
    mesh = slice_mesh(given.topology, {"data": given.data, "tensor": -1})
    program = compiled(given.target, given.draft, mesh, **sizes)
    stats = program.memory_analysis()
    need = {
        "arguments": stats.argument_size_in_bytes, "temporaries": stats.temp_size_in_bytes,
        "output": stats.output_size_in_bytes - stats.alias_size_in_bytes, "program": stats.generated_code_size_in_bytes,
    }  # fmt: skip
    limit = chip_of(given.topology).hbm
    print(json.dumps(vars(given) | need | {"limit": limit, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
