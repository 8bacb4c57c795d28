"""How near a forward is to what the machine can do, and a plain PyTorch forward of the same shapes beside it.

    python benchmarks/roofline.py                                                          # CPU, the embedded model
    python benchmarks/roofline.py --model shape:llada-8b --dtype bfloat16 --rows 1 8 32    # one GPU with 80 GB

Per number of rows: milliseconds of an ordinary forward behind the cache (a compiled loop of them, head and arg-max of
the block included), operations and bytes counted as in `jaxdlm.plan.cost`, the floor max(operations / matrix rate,
bytes / copy bandwidth) with both rates measured in the same run, and tokens per second at a stated number of tokens
per forward. `--bits 8` or `4`: the same from quantised weights, `--kind power` or `uniform`. `--tiles`: the head in
tiles also where a GPU would read it whole.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from step_memory import Ordinary

import jaxdlm
from jaxdlm import layout, resolve
from jaxdlm.core import loop
from jaxdlm.core.carry import Carry
from jaxdlm.core.compiled import compiled
from jaxdlm.core.readout import Readout, mask_invalid, summarise
from jaxdlm.core.rule import Decoding
from jaxdlm.plan.aot import Job
from jaxdlm.plan.cost import work
from jaxdlm.quant import KINDS, quantize_params
from jaxdlm.sharding import make_mesh, striped
from jaxdlm.typing import Array, PyTree

CONFIGS: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Loaded(Job):
    """A job whose model is in memory."""

    @functools.cached_property
    def config(self) -> Any:
        return CONFIGS[self.model]


@compiled(static_argnames=("times",))
def forwards(carry: Carry, decoding: Decoding, times: int) -> Array:
    """`times` ordinary forwards, each with the arg-max of its block; each depends on the one before."""
    model, params = decoding.model, decoding.params
    ordinary = decoding.replace(cache=Ordinary(decoding.cache))

    def once(_: Any, rows: Any) -> Any:
        start = loop.window_start(rows, decoding.policy, decoding.geometry)
        hidden = loop.read_window(rows, start, carry.cache, ordinary)[0].hidden
        if model.tiling.count == 1:
            token = jnp.argmax(mask_invalid(model.head(params, hidden), model), -1)
        else:
            read = lambda h: summarise(Readout(h, h, params, model)).token  # noqa: E731
            token = jax.vmap(read)(hidden)
        return rows._replace(tokens=rows.tokens + (jnp.sum(token) < 0).astype(jnp.int32))

    return jax.lax.fori_loop(0, times, once, carry.rows).tokens


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """Median over rounds, after one to warm up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def machine(dtype: Any, rounds: int) -> tuple[float, float]:
    """(bytes per second of a large copy, reads and writes counted; operations per second of a large matrix product).

    The copy runs in place: pages that a process touches for the first time cost a CPU four times the copy.
    """
    gpu = jax.default_backend() != "cpu"
    x = jnp.ones((2**30 if gpu else 2**26) // 4, jnp.float32)
    times = 8
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda _, x: x + 1, x))
    side = 8192 if gpu else 1024
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)  # a GPU multiplies ones faster than numbers
    multiply = jax.jit(lambda a: a @ a)
    bandwidth = 2 * times * x.nbytes / seconds(lambda: copy(x), rounds)
    return bandwidth, 2 * side**3 / seconds(lambda: multiply(a), rounds)


def measure(lm: Any, params: PyTree, args: argparse.Namespace, rows: int) -> dict[str, float]:
    """Milliseconds per forward, and what it counts."""
    policy, cache = resolve.resolve_policy("threshold"), resolve.resolve_cache(args.cache)
    prompts = np.random.default_rng(0).integers(5, 50, (rows, args.prompt)).tolist()
    laid = layout.lay_out(lm, prompts, max_new=args.max_new, block=args.block, seed=0, ids=None)
    columns = 0 if args.tiles else rows * loop.width(policy, laid.geometry)
    model = striped(resolve.blocked(lm.model, laid.geometry.block), lm.params, columns)
    decoding = Decoding(model, params, policy, cache, laid.geometry)
    carry = jax.jit(loop.init, static_argnames="save")(laid.rows, decoding, save="none")
    # what is always recomputed has no ordinary step: the refresh is one
    used = cache if not cache.recomputes_all else _Refreshing(cache)
    run = lambda: forwards(carry, decoding.replace(cache=used), times=args.forwards)  # noqa: E731
    job = Loaded(args.model, rows, args.prompt, args.max_new, args.block, "threshold", args.cache)
    count = work(job, make_mesh({"data": 1}, jax.devices()[:1]), refresh=cache.recomputes_all)
    return {
        "ms": 1e3 * seconds(run, args.rounds) / args.forwards, "flops": count.flops,
        "bytes": read_bytes(count.weight_bytes, lm, params) + count.cache_bytes,
    }  # fmt: skip


class _Refreshing:
    """A cache without stored state, as `Ordinary` takes it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.window, self.step = inner, inner.window, inner.refresh


def quantised(params: PyTree, bits: int, kind: str) -> PyTree:
    """Quantised weights of the same shapes: the codes of each first layer, for all of them (time does not read values)."""
    first = {**params, "segments": jax.tree.map(lambda leaf: leaf[:1], params["segments"])}
    made, _ = quantize_params(first, bits, kind=kind)
    layers = lambda old, new: jax.tree.map(lambda leaf: jnp.repeat(leaf, len(old["attn_norm"]), axis=0), new)  # noqa: E731
    pairs = [zip(old, new, strict=True) for old, new in zip(params["segments"], made["segments"], strict=True)]
    return {**made, "segments": tuple(tuple(layers(*pair) for pair in each) for each in pairs)}


def read_bytes(plain: float, lm: Any, held: PyTree) -> float:
    """Bytes of weights that a forward reads, from those of the plain ones: layers shrink, the head stays."""
    size = lambda tree: sum(x.on_device_size_in_bytes() for x in jax.tree.leaves(tree))  # noqa: E731
    head = size(lm.params["embed" if lm.config.tie_embeddings else "lm_head"])
    return head + (plain - head) * size(held["segments"]) / size(lm.params["segments"])


def plain_torch(lm: Any, args: argparse.Namespace, rows: int) -> float | None:
    """Milliseconds of a PyTorch forward over every column with the head on the block; None where it knows no such stack."""
    import torch
    from torch_llada import TorchModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        model = TorchModel(lm.config, lm.params, args.dtype)
    except SystemExit as reason:
        print(reason)
        return None
    ids = torch.randint(5, 50, (rows, args.prompt + args.max_new), device=model.device)
    times = []
    with torch.no_grad():
        for _ in range(args.rounds + 1):
            begin = time.perf_counter()
            model.head(model.hidden(ids)[:, -args.block :]).argmax(-1).cpu()
            times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[1:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Milliseconds per forward against what the machine could do.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    for name, size in (("prompt", 128), ("max-new", 128), ("block", 32), ("forwards", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--cache", default="dual")
    parser.add_argument("--bits", type=int, nargs="+", default=[16], help="16: weights as they are; 8, 4: quantised")
    parser.add_argument("--kind", choices=KINDS, default="power", help="how they are quantised")
    parser.add_argument("--tokens-per-forward", type=float, default=2.0)
    parser.add_argument("--tiles", action="store_true", help="read the head in tiles in any case")
    parser.add_argument("--no-torch", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    lm = jaxdlm.load(args.model, dtype=args.dtype)
    CONFIGS[args.model] = lm.config
    bandwidth, rate = machine(args.dtype, args.rounds)
    shapes = f"cache {args.cache}, block {args.block}, {args.prompt} + {args.max_new} columns"
    rates = f"copy {bandwidth / 1e9:.1f} GB/s, matrices {rate / 1e9:.0f} GFLOP/s"
    print(f"{args.model}, {args.dtype}, {jax.devices()[0].device_kind}, {shapes}; {rates}\n")
    print(
        "| rows | bits | ms / forward | GFLOP | MB | floor, ms | share of floor | tokens/s | PyTorch, all columns, ms |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for bits in args.bits:
        params = lm.params if bits == 16 else quantised(lm.params, bits, args.kind)
        for rows in args.rows:
            one = measure(lm, params, args, rows)
            floor = 1e3 * max(one["flops"] / rate, one["bytes"] / bandwidth)
            other = None if args.no_torch or bits != 16 else plain_torch(lm, args, rows)
            speed = 1e3 * rows * args.tokens_per_forward / one["ms"]
            figures = f"{one['ms']:.2f} | {one['flops'] / 1e9:.2f} | {one['bytes'] / 1e6:.1f} | {floor:.2f}"
            beside = "" if other is None else f"{other:.2f}"
            print(f"| {rows} | {bits} | {figures} | {floor / one['ms']:.2f} | {speed:.0f} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
