"""Memory of a forward over a long row with each implementation of attention, from the compiler: nothing runs.

    python benchmarks/attention_memory.py --model llada-8b --layers 2 --length 4096    # libtpu, no TPU
    python benchmarks/attention_memory.py --target v5e:2x4 --tensor 4 --rows 2         # heads over 4 chips, rows over 2

The forward is for one chip of the slice, or for `--tensor` chips along the heads and the others along the rows. Prints a
JSON object with, for `xla` (which goes in chunks where scores would be large) and `auto`, per chip: the bytes of
temporaries, those of the largest float32 array, the bytes that the compiler counts as read and written, how many
kernels the program calls, and the seconds that it took.
"""

import argparse
import dataclasses
import json
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdlm.models import Backbone
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import placed, prepare, slice_mesh
from jaxdlm.sharding import batch_sharding, param_shardings, striped


def compiled(model: Backbone, mesh: Mesh, rows: int, length: int, attention: str) -> Any:
    """The final hidden rows of `rows` rows of `length` columns."""
    params = jax.tree.map(placed, abstract_params(model.config), param_shardings(model.config, mesh))
    kinds = (jnp.int32, jnp.int32, bool)
    inputs = [placed(jax.ShapeDtypeStruct((rows, length), kind), batch_sharding(mesh)) for kind in kinds]
    spread = dataclasses.replace(striped(model, params), attention=attention)
    return jax.jit(lambda params, *x: spread.apply(params, *x).hidden).lower(params, *inputs).compile()


def largest(program: str) -> int:
    """Bytes of the largest float32 array that an instruction makes."""
    return max(4 * math.prod(int(n) for n in shape.split(",")) for shape in re.findall(r"\bf32\[([\d,]+)\]", program))


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of attention, from the compiler.")
    parser.add_argument("--model", default="llada-8b")
    parser.add_argument("--target", default="v5e:1x1")
    parser.add_argument("--tensor", type=int, help="default: one chip alone")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--layers", type=int, help="default: all")
    args = parser.parse_args()
    config = released_config(args.model)
    if args.layers:
        config = dataclasses.replace(config, num_layers=args.layers)
    ways = ("xla", "auto")
    report: dict[str, Any] = {"model": args.model, "target": args.target, "rows": args.rows, "length": args.length}
    report["scores"] = 4 * args.rows * config.num_heads * args.length**2
    prepare()
    axes = {"data": -1, "tensor": args.tensor} if args.tensor else {"data": 1}
    mesh = slice_mesh(args.target, axes)
    for name in ways:
        begin = time.perf_counter()
        program = compiled(Backbone(config), mesh, args.rows, args.length, name)
        cost = program.cost_analysis()
        report[name] = {
            "temporaries": program.memory_analysis().temp_size_in_bytes, "largest": largest(program.as_text()),
            "bytes": int(cost.get("bytes accessed", 0)), "kernels": program.as_text().count("tpu_custom_call"),
            "seconds": round(time.perf_counter() - begin, 1),
        }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
