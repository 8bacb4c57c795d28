"""What quantised weights move on a TPU, from the compiler: nothing runs.

    python benchmarks/weight_bytes.py --model llada-8b --target v5e:1x1 --columns 32     # libtpu, no TPU

Compiles a loop over the feed-forward layers of a model for that many columns on one chip, from weights of 16, 8 and 4
bits. Prints a JSON object: per kind of weights the bytes that the compiler counts for one layer, on-chip ones included,
against the codes and scales themselves; arrays of a whole weight's size that a trip leaves in HBM; and temporaries there.
"""

import argparse
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from head_bytes import tiles
from jax.sharding import NamedSharding, PartitionSpec

from jaxdlm.models.apart import Place, within
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import mlp
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import placed, prepare, slice_mesh
from jaxdlm.quant import KINDS, QuantizedLeaf

LAYERS = 4


def weight(rows: int, columns: int, bits: int, kind: str, group: int | None, dtype: str) -> Any:
    """A stacked weight as shapes, plain or as `quantize` makes it."""
    shape = lambda *sizes, of: jax.ShapeDtypeStruct((LAYERS, *sizes), of)  # noqa: E731
    if bits == 16:
        return shape(rows, columns, of=dtype)
    scale = shape(rows // (group or rows), columns, of="float32")
    root = shape(of="float32") if kind == "power" else None
    return QuantizedLeaf(shape(rows, columns, of=f"int{bits}"), scale, root, (rows, columns), (-2,), bits, dtype)


def compiled(config: ModelConfig, target: str, columns: int, leaves: Any) -> Any:
    """The loop over layers for one row of so many columns."""
    whole = NamedSharding(slice_mesh(target, {"data": 1}), PartitionSpec())
    x = jax.ShapeDtypeStruct((1, columns, config.hidden_size), config.param_dtype)
    x, leaves = jax.tree.map(lambda leaf: placed(leaf, whole), (x, leaves))

    def run(x: Any, leaves: Any) -> Any:
        layer = lambda x, one: (mlp(within(one[0], leaves, one[1], Place("tpu")), x, config), None)  # noqa: E731
        return jax.lax.scan(layer, x, (leaves, jnp.arange(LAYERS, dtype=jnp.int32)))[0]

    return jax.jit(run).lower(x, leaves).compile()


def measure(config: ModelConfig, target: str, columns: int, bits: int, kind: str, group: int | None) -> dict[str, Any]:
    """The compiler's account of one kind of weights."""
    wide, narrow = config.intermediate_size, config.hidden_size
    shapes = {"up": (narrow, wide), "down": (wide, narrow)} | ({"gate": (narrow, wide)} if config.gated_mlp else {})
    leaves = {name: weight(*sizes, bits, kind, group, config.param_dtype) for name, sizes in shapes.items()}
    program = compiled(config, target, columns, leaves)
    held = program.memory_analysis().argument_size_in_bytes // LAYERS
    counted = int(program.cost_analysis()["bytes accessed"])  # of one trip: the compiler counts a loop's body once
    return {
        "bits": bits, "kind": kind, "group": group, "held": held, "counted": counted,
        "whole_in_hbm": tiles(program.as_text(), wide * narrow)["hbm"],
        "temporaries": program.memory_analysis().temp_size_in_bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes of quantised weights, from the compiler.")
    parser.add_argument("--model", default="llada-8b")
    parser.add_argument("--target", default="v5e:1x1")
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--group", type=int, help="rows that share a scale; default: one scale per output")
    args = parser.parse_args()
    config = dataclasses.replace(released_config(args.model), param_dtype="bfloat16")
    kinds = [(16, "plain")] * (args.group is None) + [(bits, kind) for bits in (8, 4) for kind in KINDS]
    prepare()
    found = [measure(config, args.target, args.columns, *kind, args.group) for kind in kinds]
    print(json.dumps({"model": args.model, "target": args.target, "columns": args.columns, "weights": found}))


if __name__ == "__main__":
    main()
