"""How much less means over the samples of a prompt vary when these are drawn apart (`jd.low_discrepancy`) than by chance.

    nice -n 10 python benchmarks/low_discrepancy.py --prompts 6 --times 32

Every prompt of a task is decoded `times` times by itself, 16 samples each: by points of the kind, and by independent numbers
in the same way (`inverse_cdf`), in turn. Of each 16 samples two means: `first`, on couple the share of slots that take the first
of their two options and on shuffle the place at which the list's first name ends up; and `pass`, the share of samples that
the task's check calls right, of which pass@k estimates are made. Printed per task and way: variance over the times, averaged
over prompts, for both; its ratio to independent numbers; and the two means with their standard errors, which must agree.
"""

import argparse
import json
import random
from typing import Any

import numpy as np

import jaxdlm as jd
from jaxdlm.eval.task import SPLITS, TASKS
from jaxdlm.rules import sample, select_top_k, uniform

N, COLUMNS = 16, 16


def policies(u: Any) -> dict[str, Any]:
    """By model and way of decoding; u None: independent."""
    diffusion = jd.chain(sample(1.0, draw="inverse_cdf", uniforms=u, measure=uniform), select_top_k())
    return {"tiny, random order": diffusion, "tiny-ar": jd.autoregressive(1.0, noise="inverse_cdf" if u is None else u)}


def first(task: str, payload: Any, text: str) -> float:
    words = text.split()
    if task == "couple":
        return float(np.mean([pair[0] in words for pair in payload["pairs"]]))
    name = payload["items"][0][0]
    return float(words.index(name) if name in words else len(words))


def samples(lm: Any, task: Any, examples: list[Any], policy: Any, times: int) -> np.ndarray:
    """[2, prompts, times]: means of 16."""
    prompts = [each.prompt for each in examples for _ in range(times)]
    out = jd.decode(lm, prompts, policy, n=N, max_new=COLUMNS, save="none")
    shape = (len(examples), times, N)
    texts = np.array(out.text, object).reshape(shape)
    values = np.empty((2, *shape))
    for index, each in enumerate(examples):
        known: dict[str, tuple[float, float]] = {}
        for at, text in np.ndenumerate(texts[index]):
            if text not in known:
                known[text] = first(task.name, each.payload, text), float(task.check(each, text).correct)
            values[:, index, at[0], at[1]] = known[text]
    return values.mean(-1)


def summary(means: np.ndarray) -> dict[str, Any]:
    variance = means.var(-1, ddof=1).mean(-1)
    error = np.sqrt(means.var(-1, ddof=1).sum(-1) / means.shape[2]) / means.shape[1]
    return {"variance": variance, "mean": means.mean((1, 2)), "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--times", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", default=["sobol"], help="also lattice and digital_net, of the extra qmc")
    parser.add_argument("--tasks", nargs="+", default=["couple", "shuffle"])
    args = parser.parse_args()
    points = {kind: jd.low_discrepancy(N, COLUMNS, kind) for kind in args.kinds}
    for name in args.tasks:
        task = TASKS[name]
        rng = random.Random(0)
        examples = [task.generate(rng, SPLITS[2], 0) for _ in range(args.prompts)]
        for way in policies(None):
            lm = jd.load(way.split(",")[0])
            alone = summary(samples(lm, task, examples, policies(None)[way], args.times))
            for kind, u in points.items():
                even = summary(samples(lm, task, examples, policies(u)[way], args.times))
                line = {
                    what: {
                        "variance": float(f"{even['variance'][i]:.3g}"), "independent": float(f"{alone['variance'][i]:.3g}"),
                        "ratio": round(float(even["variance"][i] / max(alone["variance"][i], 1e-12)), 3),
                        "means": [round(float(x["mean"][i]), 4) for x in (even, alone)],
                        "errors": [round(float(x["error"][i]), 4) for x in (even, alone)],
                    }
                    for i, what in enumerate(("first", "pass"))
                }  # fmt: skip
                print(json.dumps({"task": name, "model": way, "kind": kind, **line}), flush=True)


if __name__ == "__main__":
    main()
