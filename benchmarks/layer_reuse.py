"""Quality against compute of `layer_reuse` by its published schedules, those that are learned, and beside the other caches.

    nice -n 10 python benchmarks/layer_reuse.py --count 16

`low_confidence`, one column per forward, answers held-out problems that `tiny` has learned on a canvas of 16 in one block, so
that a block is 16 forwards. right: share of right answers; agree: of columns that read as without a cache; work: columns times
layers that went through the stack, of those without a cache. A key step reads all columns in all layers; between them
`layer_reuse` reads the columns that changed, at most a block of them, below `depth`, and all columns above.
"""

import argparse
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxdlm
from jaxdlm import layout, policies
from jaxdlm.caches.layer_reuse import LayerReuseCache
from jaxdlm.core import reads
from jaxdlm.core.carry import Rows
from jaxdlm.core.rule import Decoding
from jaxdlm.eval import task

TASKS, CANVAS = ("reverse", "sort", "replace_index", "remove_index"), 16
SCHEDULES = ("keys=1", "keys=2", "keys=4", "keys=8", "keys=50ls", "keys=50ls2", "keys=pro", "keys=tiny", "keys=1000")
OTHERS = (
    "none",
    "refresh,every=4,before=4,after=4",
    "delayed,every=4",
    "delayed",
    "adaptive,response_every=4",
    "adaptive",
    "recap",
)


def spent(lm: Any, prompts: list[Any], cache: Any, out: Any) -> float:
    """Columns times layers of a row, mean."""
    batch = layout.lay_out(lm, prompts[:1], max_new=CANVAS, block=CANVAS, seed=0, ids=None)
    decoding = Decoding(lm.model, lm.params, policies.RECIPES["low_confidence"](), cache, batch.geometry)
    length, layers = batch.geometry.length, lm.config.num_layers
    if isinstance(cache, LayerReuseCache):
        steps = int(out.forwards.max())
        clocks = dict.fromkeys(Rows._fields, jnp.zeros(steps, jnp.int32)) | {"tick": jnp.arange(steps, dtype=jnp.int32)}
        keys = int(np.asarray(cache.due(Rows(**clocks))).sum())
        return keys * layers * length + (steps - keys) * (cache.depth * CANVAS + (layers - cache.depth) * length)
    full, part = (each.widest for each in reads.both(decoding, batch.rows))
    cached = reads.forwards_cached(cache, out.commit_step, out.forwards, CANVAS)
    return layers * float(((out.forwards - cached) * full + cached * part).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16, help="problems of each task")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--only", nargs="+", help="caches, as on the command line; default: all")
    args = parser.parse_args()
    lm = jaxdlm.load("tiny")
    examples = [example for name in TASKS for example in task.make(name, args.count)]
    prompts, run = [example.prompt for example in examples], {"max_new": CANVAS, "block": CANVAS, "stop": False}
    cases = [*OTHERS, *(f"layer_reuse,depth={depth},{keys}" for depth in args.depths for keys in SCHEDULES)]
    cases = cases if args.only is None else ["none", *args.only]
    print("| cache | right | agree | work |\n|---|--:|--:|--:|")
    whole, first = None, 1.0
    for words in cases:
        cache = policies.read_cache(words)
        out = jaxdlm.decode(lm, prompts, "low_confidence", cache, **run)
        right = [task.task(e.task).check(e, row.tolist()).correct for e, row in zip(examples, out.tokens, strict=True)]
        cost = spent(lm, prompts, cache, out)
        whole, first = (out.tokens, cost) if whole is None else (whole, first)
        print(
            f"| `{words}` | {np.mean(right):.3f} | {(out.tokens == whole).mean():.3f} | {cost / first:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
