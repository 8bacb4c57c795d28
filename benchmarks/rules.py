"""What the rules of each recipe cost beside a forward: operations and bytes for a released shape, or time on a model.

    python benchmarks/rules.py --policies threshold ccd credit
    taskset -c 1 python benchmarks/rules.py --measure
    python benchmarks/rules.py --measure --model shape:llada-8b --dtype bfloat16 --rows 1    # one GPU with 80 GB

Counted: XLA's own figures for the compiled chain on one row of 32 columns and one tile of the vocabulary, times the
tiles, because XLA counts a loop's body once. On a CPU every pass over the tile counts, although the tile stays in the
chip's own memory on a TPU: an upper bound of the traffic. Against them the forward of a cached step,
which reads every weight of the layers and of the head once (2 operations per weight and token). A stepper's figures are
its host's: one summary per version of the row, and the steps that it makes and drafts on them. No weight is made.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contest import contest, ratio

import jaxdlm
from jaxdlm import layout, policies
from jaxdlm.core import loop
from jaxdlm.core.carry import Row, Text, Update
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import Tiling
from jaxdlm.core.readout import DenseLogits, dense_logits, summarise
from jaxdlm.core.rule import Decoding, Rule
from jaxdlm.models.config import TokenIds
from jaxdlm.models.registry import RELEASED, released_config
from jaxdlm.sharding import striped
from jaxdlm.steppers.freedave import FreeDave

LENGTH = 32


def weights_read(config: Any) -> int:
    """Weights that a forward multiplies with, the embedding's rows aside."""
    from jaxdlm.models.params import param_specs

    leaves = jax.tree.leaves(param_specs(config), is_leaf=lambda x: hasattr(x, "shape"))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves) - config.vocab_size * config.hidden_size


def chain_cost(policy: Rule, config: Any, columns: int, versions: int, steps: int) -> tuple[float, float]:
    """(operations, bytes) of `steps` steps of the policy on one row, on the summaries of `versions` windows."""
    mask = jnp.zeros(columns, bool)
    number, scalar = jnp.zeros(columns, jnp.int32), jnp.int32(1)

    def step(logits: Any, raw_summary: Any, uncond: Any, state: Any, open_columns: Any) -> Any:
        view = Row(
            number,
            open_columns,
            open_columns,
            ~mask,
            mask,
            number,
            number,
            ~mask,
            scalar,
            scalar,
            scalar,
            8,
            config.tokens,
            Text(number, mask, scalar),
        )
        head_output = DenseLogits(logits, Tiling(config.vocab_size), raw_summary)
        update, state = policy.apply(Update(logits, uncond, readout=head_output), state, view, jax.random.key(0))
        return update.token, update.commit, update.cut, update.halt, update.hold, update.finite, state

    shape = jax.ShapeDtypeStruct((columns, config.vocab_size), jnp.float32)
    state = jax.eval_shape(lambda: policy.init(columns, config.vocab_size))
    uncond = shape if policy.traits.uncond else None

    def whole(logits: Any, *others: Any) -> Any:
        return step(logits, summarise(dense_logits(logits)), *others)

    def cost(run: Any, state_at: int, *arguments: Any) -> tuple[float, float]:
        # as in the loop, the state is overwritten in place
        found = jax.jit(run, donate_argnums=state_at).lower(*arguments, uncond, state, mask).compile().cost_analysis()
        return float(found.get("flops", 0)), float(found.get("bytes accessed", 0))

    raw_summary = jax.eval_shape(lambda logits: summarise(dense_logits(logits)), shape)
    both, alone = cost(whole, 2, shape), cost(step, 3, shape, raw_summary)
    operations, moved = (versions * (a - b) + steps * b for a, b in zip(both, alone, strict=True))
    return operations, moved


def counted(name: str, shape: str, columns: int) -> str:
    config, policy = released_config(shape), build(name, columns)
    tile = Tiling(config.vocab_size).run
    part = dataclasses.replace(config, vocab_size=tile, tokens=TokenIds(mask=tile - 1, eos=(1,)))
    inner, steps, versions = policy, 1, 1
    if isinstance(policy, FreeDave):
        inner, versions = policy.inner, policy.draft_steps
        steps = 2 * versions - 1
    operations, moved = (x * config.vocab_size / tile for x in chain_cost(inner, part, columns, versions, steps))
    weights = weights_read(config)
    share = operations / (2 * weights * columns * versions), moved / (2 * weights)
    return f"| {name} | {operations / 1e6:.1f} | {moved / 1e6:.1f} | {share[0]:.3%} | {share[1]:.2%} |"


def build(name: str, columns: int) -> Any:
    if name != "learn2pd":
        return policies.RECIPES[name]()
    square, line = jnp.zeros((columns, columns)), jnp.zeros(columns)
    return policies.RECIPES[name](weights=(square, line, square, line))


def measured(name: str, lm: Any, rows: int, times: int) -> str:
    """Time of a step beside that of its forward and head, no cache: the least of each, the median ratio."""
    policy = build(name, LENGTH)
    prompts = np.random.default_rng(0).integers(5, 50, (rows, LENGTH)).tolist()
    batch = layout.lay_out(lm, prompts, max_new=2 * LENGTH, block=LENGTH, seed=0, ids=None)
    model = striped(lm.model, lm.params, rows * loop.width(policy, batch.geometry))
    decoding = Decoding(model, lm.params, policy, policies.CACHES["none"](), batch.geometry)
    carry = loop.init(batch.rows, decoding, "none")

    def forward(carry: Any, params: Any) -> Any:
        start = loop.window_start(carry.rows, policy, batch.geometry)
        drafts = isinstance(policy, FreeDave)
        several = policy.versions(carry.rows, start) if drafts else None
        inner = decoding.replace(policy=policy.inner if drafts else policy, params=params)
        window, _ = loop.read_window(carry.rows, start, carry.cache, inner, several)
        return loop.lm_head_logits(window.hidden, inner)[0]

    bare, whole = compiled()(forward), compiled()(lambda c, p: loop.step(c, decoding.replace(params=p)))
    spent = contest({"bare": lambda: bare(carry, lm.params), "whole": lambda: whole(carry, lm.params)}, times)
    least = {which: 1e3 * min(seconds) for which, seconds in spent.items()}
    return f"| {name} | {least['bare']:.2f} | {least['whole']:.2f} | {ratio(spent, 'whole', 'bare'):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the rules of each recipe cost beside a forward.")
    known = [name for name in policies.RECIPES if isinstance(policies.RECIPES[name](), Rule)]
    parser.add_argument("--policies", nargs="+", default=known, choices=known)
    parser.add_argument("--shape", default="llada-8b", choices=list(RELEASED))
    parser.add_argument("--columns", type=int, default=LENGTH)
    parser.add_argument("--measure", action="store_true", help="time them instead, with this model:")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--times", type=int, default=50)
    args = parser.parse_args()
    lm = jaxdlm.load(args.model, dtype=args.dtype) if args.measure else None
    if args.measure:
        print(f"{args.model}, {args.dtype}, {args.rows} rows, {jax.devices()[0].device_kind}")
        print("| recipe | forward and head, ms | step, ms | ratio |\n|---|--:|--:|--:|")
    else:
        print(f"{args.shape}, one row of {args.columns} columns")
        print("| recipe | Mop | MB | of the forward's operations | of its weight bytes |\n|---|--:|--:|--:|--:|")
    for name in args.policies:
        if name == "entropy_bound" and args.measure:
            continue  # the models that may be given have masks
        counts = counted(name, args.shape, args.columns) if lm is None else measured(name, lm, args.rows, args.times)
        print(counts, flush=True)


if __name__ == "__main__":
    main()
