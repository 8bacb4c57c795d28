"""What the experts of a mixture move and compute on a TPU, from the compiler: nothing runs.

    python benchmarks/expert_bytes.py --model llada2-mini --target v5e:1x1 --rows 8 32      # libtpu, no TPU
    python benchmarks/expert_bytes.py --way ragged --rows 8                                 # what XLA makes by itself

Compiles a loop over the feed-forward layers of a model with experts, `rows` rows of `block` columns, on one chip. Prints a
JSON object: bytes of one layer to and from the large memory (the compiler's text, `hbm.py`, and for the kernel what it says
of itself) against the weights of the experts that an even router touches and of the shared ones; operations, rows that
fill up tiles included, against those of the routed rows; arrays of a layer's size that a trip leaves in HBM.
"""

import argparse
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from hbm import moved
from head_bytes import tiles
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm.models import expert_kernel, expert_ways, moe
from jaxdlm.models.apart import Place, within
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.models.segments import segments
from jaxdlm.plan.aot import placed, prepare, slice_mesh

LAYERS = 2


def compiled(config: Any, target: str, tokens: int) -> Any:
    """The loop over layers for so many tokens."""
    whole = NamedSharding(slice_mesh(target, {"data": 1}), PartitionSpec())
    number = next(n for n, run in enumerate(segments(config)) if run.shapes[0].ffn == "moe")
    leaves = abstract_params(config)["segments"][number][0]
    leaves = {name: leaf for name, leaf in leaves.items() if name[:2] in ("e_", "s_", "ro")}
    x = jax.ShapeDtypeStruct((1, tokens, config.hidden_size), config.param_dtype)
    x, leaves = jax.tree.map(lambda leaf: placed(leaf, whole), (x, leaves))

    def run(x: Any, leaves: Any) -> Any:
        def layer(x: Any, one: Any) -> tuple[Any, None]:
            own, at = one
            own = within(own, leaves, at, Place("tpu"))
            return x + moe.mixture(own, x, x, config), None

        return jax.lax.scan(layer, x, (leaves, jnp.arange(LAYERS, dtype=jnp.int32)))[0]

    return jax.jit(run).lower(x, leaves).compile()


def measure(config: Any, target: str, tokens: int, way: str) -> dict[str, Any]:
    """The compiler's account of one layer."""
    each = 3 * config.hidden_size * config.expert_size
    shared = 3 * config.hidden_size * config.shared_size
    touched = expert_kernel.touched(tokens, config.top_k, config.num_experts)
    weights = int(2 * (touched * each + shared) + 4 * config.hidden_size * config.num_experts)
    routed = 2 * tokens * (config.top_k * each + shared)
    program = compiled(config, target, tokens)
    operations, outside = program.cost_analysis()["flops"], None
    found = {"tokens": tokens, "weights": weights, "routed": routed, "operations": int(operations)}
    found["operations_ratio"] = round(operations / routed, 3)
    if target.startswith("v5e"):  # other programs use instructions that only libtpu prints
        text = program.as_text()
        outside = moved(text) // LAYERS
        inside = 0
        if way == "kernel":
            shape = jax.ShapeDtypeStruct((1, config.num_experts, config.expert_size, config.hidden_size), "bfloat16")
            rows = expert_kernel.rows_of(tokens * config.top_k, config.num_experts, 2)
            inside = expert_kernel.counted((tokens, config.top_k), (shape,) * 3, rows)[2]
        found |= {"bytes": outside + inside, "ratio": round((outside + inside) / weights, 3)}
        found["whole_in_hbm"] = tiles(text, config.num_experts * config.hidden_size * config.expert_size)["hbm"]
    return found | {"temporaries": program.memory_analysis().temp_size_in_bytes}


def main() -> None:
    ways = {way.name: way for way in expert_ways.WAYS}
    parser = argparse.ArgumentParser(description="Bytes and operations of experts, from the compiler.")
    parser.add_argument("--model", default="llada2-mini")
    parser.add_argument("--target", default="v5e:1x1")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--way", choices=("kernel", "every", "ragged"), default="kernel")
    args = parser.parse_args()
    prepare()
    expert_ways.WAYS = (ways[args.way]._replace(refuses=lambda case: None),)
    config = released_config(args.model)
    config = dataclasses.replace(
        config, param_dtype="bfloat16", num_layers=config.first_dense_layers + LAYERS, layer_kinds=()
    )
    found = [measure(config, args.target, rows * args.block, args.way) for rows in args.rows]
    print(json.dumps({"model": args.model, "target": args.target, "way": args.way, "layers": found}))


if __name__ == "__main__":
    main()
