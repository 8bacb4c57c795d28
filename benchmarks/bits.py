"""How many rows of a job depend on how many rows stand beside them: none should, and rounding alone decides where some do.

    python benchmarks/bits.py --policy llada21 --cache adaptive --block 8 --rows 200 --slots 1 2 8
    python benchmarks/bits.py --model random:block_causal --policy llada21 --cache adaptive --block 4 --rows 200
    python benchmarks/bits.py --model random:uniform --policy entropy_bound --block 6 --max-new 12 --rows 24

Every count of --slots decodes the same rows; prints a JSON object with the rows whose output differs from that of the
first count. A random model is small, of four layers, and sure of nothing, so that little turns its choices.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
from typing import Any

ATTENTION = ("full", "block_causal", "uniform")


def small(attention: str, block: int) -> Any:
    """A random model of 48 words with masks, or with canvases of uniform noise that condition themselves."""
    import jax

    from jaxdlm._load import LM
    from jaxdlm.models import Backbone, ModelConfig
    from jaxdlm.models.config import RopeConfig, TokenIds
    from jaxdlm.models.params import init_params

    config = ModelConfig(
        family="llada", vocab_size=48, num_layers=4, hidden_size=32, num_heads=4, num_kv_heads=4, head_dim=8,
        intermediate_size=48, max_position=128, norm_eps=1e-6, rope=RopeConfig(theta=10000.0), attention="full",
        prediction="same", noise="mask", tokens=TokenIds(mask=47, pad=0, eos=(46,)), param_dtype="float32",
    )  # fmt: skip
    own: dict[str, Any] = {"attention": attention, "block_size": block}
    if attention == "uniform":
        own |= {"attention": "prefix_canvas", "noise": "uniform", "self_conditioning": True}
    config = dataclasses.replace(config, **({} if attention == "full" else own))
    return LM(Backbone(config), init_params(config, jax.random.key(0), loud=True), None, f"random:{attention}")


def problems(lm: Any, count: int) -> list[dict[str, Any]]:
    """Rows of the model's own tasks, in turns; of a random model, random words."""
    import numpy as np

    from jaxdlm.eval.task import TASKS, make

    if lm.tokenizer is None:
        rng = np.random.default_rng(0)
        return [{"id": i, "tokens": rng.integers(1, 45, int(rng.integers(3, 25))).tolist()} for i in range(count)]
    each = -(-count // len(TASKS))
    rows = [{"id": f"{name} {i}", "prompt": x.prompt} for name in TASKS for i, x in enumerate(make(name, each))]
    return rows[:: max(1, len(rows) // count)][:count]


def answers(lm: Any, rows: list[dict[str, Any]], slots: int, args: argparse.Namespace) -> list[str]:
    """The output rows of a job."""
    from jaxdlm.batch import run
    from jaxdlm.batch.cli import make_mesh, read_policies
    from jaxdlm.resolve import resolve_cache

    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "in.jsonl"
        source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        options = run.Options(
            input=str(source), output=f"{folder}/out", policy=args.policy, cache=args.cache, block=args.block,
            max_new=args.max_new, slots=slots, shard_rows=len(rows), quiet=True,
        )  # fmt: skip
        policies, cache = read_policies(args.policy), resolve_cache(args.cache)
        assert run.job(options, lm, policies, cache, make_mesh("data=1")).run() == 0
        return next(pathlib.Path(folder).glob("out/rows-*.jsonl")).read_text().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows that depend on the number of slots.")
    parser.add_argument("--model", default="tiny", help=f"a name, or random: and one of {', '.join(ATTENTION)}")
    parser.add_argument("--policy", default="threshold")
    parser.add_argument("--cache", default="none")
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--max-new", type=int, default=24)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 8])
    args = parser.parse_args()
    import jaxdlm as jd

    kind, _, attention = args.model.partition(":")
    lm = small(attention, args.block) if kind == "random" else jd.load(args.model)
    rows = problems(lm, args.rows)
    first, *others = ((count, answers(lm, rows, count, args)) for count in args.slots)
    differ = {f"{first[0]} and {n}": sum(a != b for a, b in zip(first[1], found, strict=True)) for n, found in others}
    print(json.dumps({**vars(args), "rows": len(rows), "differ": differ}))


if __name__ == "__main__":
    main()
