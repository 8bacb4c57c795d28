"""Time and error of each implementation of attention on this machine, forward over a row of each length.

    python benchmarks/attention_time.py --lengths 512 2048 8192                 # a GPU: plain against cuDNN's
    python benchmarks/attention_time.py --lengths 512 --dtype float32 --kinds xla   # a CPU

Heads as in LLaDA-8B. A quarter of the row's columns are pads, on its left. Per length and kind: milliseconds of a call
(medians of `--rounds` compiled loops of `--calls` calls, contestants in turns), the ratio to plain attention in the same
round, and the largest difference from plain attention in float32, against the largest value there. A kind that
the platform does not have is an error.
"""

import argparse
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
from contest import contest, ratio

from jaxdlm.models.attention import attend, choose
from jaxdlm.typing import Array


@functools.partial(jax.jit, static_argnames=("kind", "calls"))
def repeat(q: Array, k: Array, v: Array, allow: Array, kind: str, calls: int) -> Array:
    """The attention of the attention of ..., so that no call can be left out."""
    once = choose(kind, alone=True)
    return jax.lax.fori_loop(0, calls, lambda _, x: once(x, k, v, allow, q.shape[-1] ** -0.5), q)


def inputs(rows: int, length: int, heads: int, size: int, dtype: Any) -> tuple[Array, ...]:
    draw = functools.partial(jax.random.normal, shape=(rows, length, heads, size), dtype=dtype)
    q, k, v = (draw(key) for key in jax.random.split(jax.random.key(0), 3))
    real = jnp.arange(length) >= length // 4
    return q, k, v, jnp.broadcast_to(real, (rows, length, length))


def error(q: Array, k: Array, v: Array, allow: Array, kind: str) -> float:
    exact = jax.jit(attend, static_argnums=4)(*(x.astype(jnp.float32) for x in (q, k, v)), allow, q.shape[-1] ** -0.5)
    return float(jnp.max(jnp.abs(repeat(q, k, v, allow, kind, 1) - exact)) / jnp.max(jnp.abs(exact)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and error of each implementation of attention.")
    parser.add_argument("--kinds", nargs="+", default=["xla", "cudnn"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--dtype", default="bfloat16")
    for name, size in (("rows", 1), ("heads", 32), ("size", 128), ("calls", 20), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=size)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {args.dtype}, {args.rows} rows, {args.heads} heads of {args.size}\n")
    print("| columns | attention | ms | against xla | largest error |\n|--:|---|--:|--:|--:|")
    for length in args.lengths:
        data = inputs(args.rows, length, args.heads, args.size, args.dtype)
        kinds = dict.fromkeys(["xla", *args.kinds])
        calls = {kind: functools.partial(repeat, *data, kind=kind, calls=args.calls) for kind in kinds}
        times = contest(calls, args.rounds)
        for kind in args.kinds:
            figures = f"{1e3 * statistics.median(times[kind]) / args.calls:.3f} | {ratio(times, kind, 'xla'):.3f}"
            print(f"| {length} | {kind} | {figures} | {error(*data, kind):.1e} |", flush=True)


if __name__ == "__main__":
    main()
