"""What the trained parts are worth, on held-out problems of the tasks that their model has learned.

    python benchmarks/trained.py learn2pd --n 20     # the filter of `tiny`, on a canvas several times too long
    python benchmarks/trained.py dparallel --n 20    # `tiny-dparallel` against its teacher
    python benchmarks/trained.py specdec_pp --n 20   # the acceptance head against every fixed draft length

Every row of a table is measured in the same run, on the same problems. Forwards are counted, not timed.
"""

import argparse
import json
import math

import numpy as np

import jaxdlm as jd
from jaxdlm._load import ASSETS
from jaxdlm.eval.task import TASKS, Example, make
from jaxdlm.rules.learn2pd import end_at_text, select_by_filter, shipped_filter


def problems(model: str, n: int, canvas: int) -> list[Example]:
    """n per task that reached its gate and whose answers fit the canvas."""
    gates = json.loads((ASSETS / model / "recipe.json").read_text())["gate_passed"]
    return [e for name in TASKS if gates[name] and TASKS[name].canvas <= canvas for e in make(name, n)]


def interval(right: int, n: int) -> str:
    """Share of right answers in percent with its 95 % Wilson interval."""
    z, p = 1.96, right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{100 * p:.1f} ({100 * low:.1f} – {100 * high:.1f})"


def answers(lm: jd.LM, examples: list[Example], policy: object, canvas: int, batch: int = 64) -> tuple[str, np.ndarray]:
    """(share of right answers, forwards per problem)."""
    right, forwards = 0, []
    for start in range(0, len(examples), batch):
        chunk = examples[start : start + batch]
        filled = chunk + [chunk[-1]] * (batch - len(chunk))  # one compiled shape
        out = jd.decode(lm, [e.prompt for e in filled], policy, max_new=canvas, block=32, save="none")
        checked = zip(chunk, out.tokens, strict=False)
        right += sum(TASKS[e.task].check(e, row.tolist()).correct for e, row in checked)
        forwards.append(out.forwards[: len(chunk)])
    return interval(right, len(examples)), np.concatenate(forwards)


def learn2pd(n: int, canvas: int) -> None:
    lm, examples, weights = jd.load("tiny"), problems("tiny", n, canvas), shipped_filter("tiny")
    print(f"tiny, {len(examples)} problems, canvas {canvas}; one token per forward needs {canvas} forwards\n")
    print("| policy | right, % (95 % interval) | forwards | one token per forward / this |\n|---|--:|--:|--:|")
    rules = {"threshold 0.9": [jd.rules.select_above(0.9)]}
    for tau in (0.9, 0.96):
        rules[f"learn2pd {tau}"] = [select_by_filter(weights, tau)]
        rules[f"learn2pd {tau} + eotp"] = [select_by_filter(weights, tau), end_at_text()]
    rules["threshold 0.9 + eotp"] = [jd.rules.select_above(0.9), end_at_text()]
    for name, parts in rules.items():
        share, forwards = answers(lm, examples, jd.chain(jd.rules.sample(), *parts), canvas)
        print(f"| {name} | {share} | {forwards.mean():.2f} | {canvas / forwards.mean():.1f} |", flush=True)


def dparallel(n: int, canvas: int) -> None:
    examples = problems("tiny", n, canvas)
    print(f"{len(examples)} problems, canvas {canvas}; one token per forward needs {canvas} forwards\n")
    print("| model | policy | right, % (95 % interval) | forwards | one token / this |\n|---|---|--:|--:|--:|")
    for model in ("tiny", "tiny-dparallel"):
        lm = jd.load(model)
        for policy in ("low_confidence", "threshold", "dparallel"):
            share, forwards = answers(lm, examples, policy, canvas)
            ratio = canvas / forwards.mean()
            print(f"| {model} | {policy} | {share} | {forwards.mean():.2f} | {ratio:.1f} |", flush=True)


def specdec_pp(n: int, canvas: int) -> None:
    """Cost of a round: the target forward, and a draft forward at a share c of it (layers · width² of the two)."""
    target, draft = jd.load("tiny-ar"), jd.load("tiny-draft")
    examples = problems("tiny-draft", n, canvas)
    size = lambda lm: lm.config.num_layers * lm.config.hidden_size**2  # noqa: E731
    c = size(draft) / size(target)
    print(f"tiny-ar with tiny-draft, {len(examples)} problems, greedy; a draft forward costs {c:.2f} of a target's\n")
    print("| policy | draft tokens per round | of them accepted | tokens per target forward | cost per token |")
    print("|---|--:|--:|--:|--:|")
    policies: dict[str, object] = {f"speculative k={k}": jd.speculative.speculative(draft, k=k) for k in range(1, 11)}
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        policies[f"specdec_pp {threshold}"] = jd.speculative.specdec_pp(draft, threshold, 1)
    plain = None
    for name, policy in policies.items():
        out = jd.decode(target, [e.prompt for e in examples], policy, max_new=canvas)
        plain = out.tokens if plain is None else plain
        assert np.array_equal(out.tokens, plain), "every policy writes the same tokens"
        tokens, rounds = (out.commit_step >= 0).sum(), out.forwards.sum()
        cost = (rounds + c * out.draft_forwards.sum()) / tokens
        per_round, kept = out.drafted.sum() / rounds, (out.accepted * out.forwards).sum() / out.drafted.sum()
        print(f"| {name} | {per_round:.2f} | {kept:.3f} | {tokens / rounds:.2f} | {cost:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("learn2pd", "dparallel", "specdec_pp"))
    parser.add_argument("--n", type=int, default=20, help="problems per task")
    parser.add_argument("--canvas", type=int, help="default 128 for learn2pd, else 16")
    args = parser.parse_args()
    part = {"learn2pd": learn2pd, "dparallel": dparallel, "specdec_pp": specdec_pp}[args.part]
    part(args.n, args.canvas or (128 if args.part == "learn2pd" else 16))


if __name__ == "__main__":
    main()
