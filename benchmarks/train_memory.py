"""Memory per chip of one distillation step of a released model on TPUs that are not here, from the TPU compiler.

    python benchmarks/train_memory.py --model llada-8b --topology v5p:2x2x1 --mesh data=1,tensor=4

Needs `libtpu` (extra `tpu-aot`), no TPU. The step is that of `scripts/train.py --recipe dparallel`: low-rank updates of
all projections, AdamW on them, the weights frozen. No weight is ever made: parameters are shapes with shardings.
"""

import argparse
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdlm._load import LM
from jaxdlm.models import Backbone
from jaxdlm.models.params import abstract_params
from jaxdlm.models.registry import released_config
from jaxdlm.plan.aot import prepare, slice_mesh
from jaxdlm.plan.chips import GIB, chip_of
from jaxdlm.sharding import batch_sharding, param_shardings, partition
from jaxdlm.train import lora
from jaxdlm.train.recipes.dparallel import distillation
from jaxdlm.train.step import State, frozen_outside, make_step


def shape(size: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)


def abstract_state(recipe: Any, config: Any, rank: int, mesh: Mesh) -> State:
    """The state of a low-rank run as shapes: weights by the table of shardings, moments where their update lies."""
    whole = NamedSharding(mesh, PartitionSpec())
    base = jax.tree.map(
        lambda leaf, where: shape(leaf.shape, leaf.dtype, where), abstract_params(config), param_shardings(config, mesh)
    )
    pairs = {
        path.replace("/", "."): {
            name: shape(spec.shape, jnp.float32, NamedSharding(mesh, partition(spec, mesh)))
            for name, spec in zip("ab", pair, strict=True)
        }
        for path, pair in lora.specs(config, rank).items()
    }
    params = {"base": base, "lora": pairs}
    opt = jax.eval_shape(
        lambda: frozen_outside(recipe, params).init(jax.tree.map(lambda x: jnp.zeros(x.shape), params))
    )

    def place(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        names = [str(getattr(part, "key", "")) for part in path]
        where = pairs[names[-2]][names[-1]].sharding if len(names) > 1 and names[-2] in pairs else whole
        return shape(leaf.shape, leaf.dtype, where)

    opt = jax.tree_util.tree_map_with_path(place, opt)
    return State(params, opt, shape((), jnp.int32, whole), shape((), jnp.float32, whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llada-8b")
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--mesh", default="data=1,tensor=4")
    for name, size in (("rows", 2), ("prompt", 128), ("canvas", 256), ("rank", 32)):
        parser.add_argument(f"--{name}", type=int, default=size)
    args = parser.parse_args()
    prepare()
    mesh = slice_mesh(args.topology, {k: int(v) for k, v in (part.split("=") for part in args.mesh.split(","))})
    config = dataclasses.replace(released_config(args.model), param_dtype="bfloat16")
    recipe = distillation(LM(Backbone(config), None, None, args.model), None, steps=1, rank=args.rank, mesh=mesh)
    split, columns = batch_sharding(mesh), args.prompt + args.canvas
    batch = {
        "tokens": shape((2 * args.rows, columns), jnp.int32, split),
        "pads": shape((2 * args.rows,), jnp.int32, split),
        "target": shape((2 * args.rows, args.canvas), jnp.int32, split),
        "masked": shape((2 * args.rows, args.canvas), bool, split),
    }
    rate = shape((), jnp.float32, NamedSharding(mesh, PartitionSpec()))
    start = time.perf_counter()
    lowered = make_step(recipe).lower(abstract_state(recipe, config, args.rank, mesh), batch, rate)
    stats = lowered.compile().memory_analysis()
    state, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    print(
        f"{args.model}, {2 * args.rows} rows of {columns} columns on {args.topology} ({args.mesh}), GiB per chip: "
        f"state {state / GIB:.2f}, temporaries {temporaries / GIB:.2f}, of {chip_of(args.topology).hbm / GIB:.2f}; "
        f"compiled in {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
