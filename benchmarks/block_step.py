"""What a training step of `smollm2-block` takes: floating-point operations by count, memory by the compiler.

    python benchmarks/block_step.py [--batch 64] [--prompt 96] [--tflops 200]

Needs the package of smollm2 (its configuration is read, no weights are). The step is compiled from shapes for the default
platform, its products in bfloat16. `--tflops` is what you expect a device to reach: seconds are an estimate, not a measurement.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm._load import describe
from jaxdlm.models.params import abstract_params
from jaxdlm.train.recipes import block
from jaxdlm.train.step import init_state, make_step


def operations(config: Any, batch: int, prompt: int, canvas: int) -> float:
    """Of one step: a product of n weights takes 2 n per column forward, as much again when a layer is computed again in
    the backward pass, and twice that for gradients. Attention is counted whole, the head (once forward) on the canvas."""
    columns = batch * (prompt + 3 * canvas)
    weights = sum(
        leaf.size for leaf in jax.tree.leaves(abstract_params(config)["segments"]) if leaf.ndim > 2
    )  # norms are small
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * (prompt + 3 * canvas)
    head = batch * canvas * config.vocab_size * config.hidden_size
    return 4 * columns * (2 * weights + attention) + 6 * head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--batch", type=int, default=block.Settings().batch)
    parser.add_argument("--prompt", type=int, default=96, help="columns of the prompts, in whole blocks")
    parser.add_argument("--tflops", type=float, default=200.0)
    args = parser.parse_args()
    lm, settings = describe(args.model), block.Settings(batch=args.batch)
    canvas = -(-(settings.canvas + settings.block - 1) // settings.block) * settings.block
    shape = jax.ShapeDtypeStruct
    base = jax.tree.map(lambda leaf: shape(leaf.shape, jnp.float32), abstract_params(lm.config))

    def recipe(params: Any) -> Any:
        return block.adaptation(dataclasses.replace(lm, params=params), None, settings, 100, "bfloat16")  # type: ignore[arg-type]

    state = jax.eval_shape(lambda params: init_state(recipe(params)), base)
    rows, wide = args.batch, (args.batch, canvas)
    batch = {
        "tokens": shape((rows, args.prompt + canvas), jnp.int32), "pads": shape((rows,), jnp.int32),
        "open": shape(wide, bool), "hidden": shape(wide, bool), "weight": shape(wide, jnp.float32),
    }  # fmt: skip
    stats = make_step(recipe(base)).lower(state, batch, shape((), jnp.float32)).compile().memory_analysis()
    work = operations(lm.config, rows, args.prompt, canvas) / 1e12
    print(
        f"{rows} answers, {args.prompt} + 3 x {canvas} columns: {work:.1f} TFLOP a step, {work / args.tflops:.2f} s at "
        f"{args.tflops:.0f} TFLOP/s; on {jax.default_backend()} state {stats.argument_size_in_bytes / 1e9:.2f} GB, "
        f"temporaries {stats.temp_size_in_bytes / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
