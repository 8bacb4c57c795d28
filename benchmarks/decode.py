"""What decoding costs: against a bare forward, against a PyTorch loop, and in dispatches and traces.

    python benchmarks/decode.py

Contestants take turns within each round and the figures are medians over rounds of ratios inside one round, so that
a machine that is busy for a while disturbs numerator and denominator alike. Needs `torch` (extra `convert`) for (b).
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import contest, ratio

import jaxdlm
from jaxdlm import _decode, layout, low_confidence, resolve
from jaxdlm.core import loop
from jaxdlm.core.cache import Context, forward
from jaxdlm.core.carry import Rows
from jaxdlm.core.compiled import compiled
from jaxdlm.core.rule import Decoding
from jaxdlm.sharding import striped
from jaxdlm.typing import Array, PyTree

TRACE = "/jax/core/compile/jaxpr_trace_duration"
NONE = resolve.resolve_cache("none")


@compiled(static_argnames=("model", "geometry", "columns", "times"))
def bare(rows: Rows, model: Any, params: PyTree, geometry: Any, columns: int, times: int) -> Array:
    """The forward with the head on the block, `times` times, nothing chosen and nothing written."""
    context = Context(model, params, geometry, columns)
    start = jnp.full_like(rows.block, geometry.prompt)

    def once(_: Any, tokens: Array) -> Array:
        window, _ = forward(NONE, context, rows._replace(tokens=tokens), start, ())
        logits = model.head(params, window.hidden)
        # never true, but the compiler cannot know: each forward depends on all logits of the one before
        return tokens + (jnp.sum(logits) > 1e30).astype(jnp.int32)

    return jax.lax.fori_loop(0, times, once, rows.tokens)


def widened(lm: Any, vocab: int) -> Any:
    """The model with random rows behind its embedding up to `vocab` ids, all of which may be written."""
    config = lm.config
    more = 0.05 * jax.random.normal(jax.random.key(0), (vocab - config.vocab_size, config.hidden_size))
    tokens = dataclasses.replace(config.tokens, tokenizer_size=None)
    model = dataclasses.replace(lm.model, config=dataclasses.replace(config, vocab_size=vocab, tokens=tokens))
    params = {**lm.params, "embed": jnp.concatenate([lm.params["embed"], more])}
    return dataclasses.replace(lm, model=model, params=params, tokenizer=None)


def count_while(jaxpr: Any) -> int:
    """`while` equations, those of nested programs included."""
    return sum((eqn.primitive.name == "while") + sum(map(count_while, _inner(eqn.params))) for eqn in jaxpr.eqns)


def _inner(params: dict[str, Any]) -> list[Any]:
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else [value])]
    return [getattr(v, "jaxpr", v) for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def loop_cost(lm: Any, prompts: list[list[int]], args: argparse.Namespace) -> dict[str, list[float]]:
    """(a) the compiled decode and the compiled bare forwards, same shapes, same number of forwards."""
    policy, steps = low_confidence(args.steps), args.steps
    batch = layout.lay_out(lm, prompts, max_new=args.max_new, block=args.block, seed=0, ids=None)
    columns = loop.width(policy, batch.geometry)
    model = striped(lm.model, lm.params, len(prompts) * columns)
    decoding = Decoding(model, lm.params, policy, NONE, batch.geometry)
    works = {
        "decode": lambda: _decode._run(batch.rows, decoding, "commit").rows.tokens,
        "bare": lambda: bare(batch.rows, model, lm.params, batch.geometry, columns, steps),
    }
    carry = _decode._run(batch.rows, decoding, "commit")
    assert int(carry.loops) == steps, f"{int(carry.loops)} forwards instead of {steps}"
    return contest(works, args.rounds)


def against_torch(
    lm: Any, prompts: list[list[int]], args: argparse.Namespace, temperature: float
) -> tuple[dict[str, list[float]], float]:
    """(b) seconds of the whole decode from ids to ids, and the share of columns where PyTorch's tokens are ours."""
    import torch
    from torch_llada import TorchModel, lean, paper

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the cores that XLA uses
    model = TorchModel(lm.config, lm.params, args.dtype)
    ids = torch.tensor(prompts, device=model.device)
    sizes = {"max_new": args.max_new, "block": args.block, "steps": args.steps, "temperature": temperature}
    policy = low_confidence(args.steps, temperature)

    def ours() -> np.ndarray:
        return jaxdlm.decode(lm, prompts, policy, max_new=args.max_new, block=args.block, stop=False).tokens

    works = {
        "ours": ours,
        "paper": lambda: paper(model, ids, **sizes).cpu(),
        "lean": lambda: lean(model, ids, **sizes).cpu(),
    }
    same = float(np.mean(ours() == works["paper"]().numpy()))
    return contest(works, args.rounds), same


def counts(lm: Any, prompts: list[list[int]], args: argparse.Namespace) -> tuple[int, int, int]:
    """(c) `while` in the jaxpr, calls of the compiled loop per decode, traces after warm-up."""
    policy = low_confidence(args.steps)
    batch = layout.lay_out(lm, prompts, max_new=args.max_new, block=args.block, seed=0, ids=None)
    decoding = Decoding(lm.model, lm.params, policy, NONE, batch.geometry)
    traced = _decode._run.trace(batch.rows, decoding, "commit")
    whiles = count_while(traced.jaxpr.jaxpr)
    calls, traces, original = [], [], _decode._run

    def counted(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == TRACE:
            traces.append(event)

    def run(prompts: list[list[int]], steps: int, seed: int) -> Any:
        return jaxdlm.decode(
            lm, prompts, low_confidence(steps), max_new=args.max_new, block=args.block, seed=seed, stop=False
        )

    run(prompts, args.steps, 0)
    jax.monitoring.register_event_duration_secs_listener(listen)
    _decode._run = counted
    try:  # other prompts of the same bucket, another seed, another number of steps: nothing may be traced
        run([row[::-1] for row in prompts], args.steps // 2, 1)
    finally:
        _decode._run = original
    return whiles, len(calls), len(traces)


def row(name: str, times: dict[str, list[float]], over: str, under: str, goal: str) -> str:
    seconds = [statistics.median(times[x]) for x in (over, under)]
    return f"| {name} | {seconds[0]:.3f} s | {seconds[1]:.3f} s | {ratio(times, over, under):.3f} | {goal} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost of a decode: bare forwards, PyTorch, dispatches.")
    embedded = (pathlib.Path(jaxdlm.__file__).parent / "assets" / "tiny" / "config.json").exists()
    parser.add_argument("--model", default="tiny" if embedded else "tests/golden/llada_tiny")
    for name, size in (("rows", 8), ("prompt", 64), ("max-new", 64), ("block", 32), ("steps", 64), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--dtype", default="float32", help="of the weights, ours and PyTorch's: float32 or bfloat16")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the second comparison with PyTorch")
    parser.add_argument("--vocab", type=int, help="random ids behind the model's own, up to this many (tied head)")
    parser.add_argument("--no-torch", action="store_true", help="leave (b) out")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    lm = jaxdlm.load(args.model, dtype=args.dtype)
    ids = lm.config.tokens
    ordinary = np.setdiff1d(np.arange(lm.config.vocab_size), [ids.mask, ids.pad, *ids.eos])
    prompts = np.random.default_rng(0).choice(ordinary, (args.rows, args.prompt)).tolist()
    lm = lm if args.vocab is None else widened(lm, args.vocab)
    sizes = f"{args.rows} rows, {args.prompt} + {args.max_new} columns, block {args.block}, {args.steps} forwards"
    sizes = sizes if args.vocab is None else f"{sizes}, {args.vocab} ids"
    print(f"{args.model}, {args.dtype}, {sizes}, {jax.devices()[0].device_kind}, medians of {args.rounds} rounds\n")
    print("| comparison | ours | other | ratio | goal |\n|---|--:|--:|--:|--:|")
    print(row("loop and rules / bare forwards", loop_cost(lm, prompts, args), "decode", "bare", "≤ 1.05"), flush=True)
    agreement = []
    for temperature in () if args.no_torch else (0.0, args.temperature):
        times, same = against_torch(lm, prompts, args, temperature)
        agreement += [same] if temperature == 0 else []
        for other in ("paper", "lean"):
            goal = "≤ 0.333" if other == "paper" else ""
            print(row(f"decode / PyTorch, {other}, T = {temperature}", times, "ours", other, goal), flush=True)
    if agreement:
        print(f"\nAt temperature 0 PyTorch writes the same token in {100 * agreement[0]:.1f} % of the columns.")
    whiles, calls, traces = counts(lm, prompts, args)
    print(
        f"\n`while` in the jaxpr: {whiles}; dispatches of the loop per decode: {calls}; retraces after warm-up: {traces}."
    )


if __name__ == "__main__":
    main()
