"""docs/policies.md from the table of methods and runs of `jaxdlm eval`: python scripts/gallery.py DIR [--pairs DIR].

Also writes docs/results: summary.json (what the page quotes), curves.svg, and one small chart per method.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxdlm import cli, policies
from jaxdlm.eval import report, summary, svg
from jaxdlm.eval.run import BASELINE

ROOT = pathlib.Path(__file__).parents[1]

# name -> (when to use it, when not); what the table of recipes cannot say
ADVICE = {
    "low_confidence": (
        "as the reference: one token per forward is what every other method is compared with",
        (
            "several tokens per forward (`steps` below the canvas): columns that depend on each other are written"
            " together however unsure they are; `threshold` is better at every speed"
        ),
    ),
    "random": (
        ("to compare with orders; beats confidence order under a fixed number where columns depend on each other"),
        "for quality",
    ),
    "maskgit_plus": (
        "to reproduce Dream's published runs",
        "few columns: the grid leaves many for the last forward",
    ),
    "topk_margin": (
        "as maskgit_plus, where two readings compete",
        "as maskgit_plus",
    ),
    "entropy": (
        "as maskgit_plus, where doubt is spread over many words",
        "as maskgit_plus",
    ),
    "origin": (
        "to sample at the schedule that the model was trained with",
        "for speed or greedy quality",
    ),
    "threshold": (
        "first: no training, one number, adapts to every row; 0.9 loses little on a calibrated model",
        "an over-confident model: check the loss on your own data first",
    ),
    "factor": (
        "like threshold, where the safe number per forward matters more than each probability",
        "to be compared by one number across models",
    ),
    "local_leap": (
        "text whose sure words make their neighbours sure",
        "short answers of independent items: there it is `threshold` with two numbers",
    ),
    "credit": (
        "models that name the right token long before they are sure of it",
        "answers where early favourites change: credit fixes them; 4 bytes per column and word of state",
    ),
    "dparallel": (
        "a model distilled by `scripts/train.py --recipe dparallel`",
        "a model that was not: there it is another threshold",
    ),
    "prophet": (
        (
            "long reasoning before a short answer: exits when the answer's columns are clear. The paper's suffix prompt "
            "('The answer is') stands in `decode(canvas=...)`, masks around it, and `answer_start` points behind it"
        ),
        ("answers without a known place, or whose columns depend on each other: everything left is written at once"),
    ),
    "ccd": (
        "to reproduce the paper at a fixed number per forward",
        "for speed: `ccd_ds`",
    ),
    "ccd_ds": (
        "long texts in which a prediction that holds over forwards is right",
        ("short answers whose columns depend on each other: agreement over time says nothing about them jointly"),
    ),
    "freedave": (
        "when not one token may change: any deterministic host, lossless",
        "where compute, not latency, is the limit: each forward reads `draft_steps` versions of the row",
    ),
    "d3llm": (
        "long answers: later blocks begin before earlier ones are finished, with models distilled for it",
        "block-causal models, and answers that fit in one block",
    ),
    "entropy_bound": (
        "models of uniform noise (DiffusionGemma), which rewrite their whole canvas",
        "models with a mask token: `sdar,strategy=entropy_bounded`",
    ),
    "learn2pd": (
        "canvases much longer than the answers, with a filter trained for the model (minutes)",
        "a block length that the filter was not trained for",
    ),
    "best": (
        "the default composition when one or a few rows are decoded and latency counts",
        "large batches: its drafts multiply the compute of a forward",
    ),
    "llada2": (
        "LLaDA2 checkpoints; ends after the block that holds the end of text",
        "models without block-causal attention gain nothing over `threshold`",
    ),
    "llada21": (
        "LLaDA2.1 checkpoints, which were trained to correct written tokens",
        "other models: they were not trained to judge written tokens",
    ),
    "llada22": (
        "LLaDA2.2 checkpoints, whose vocabulary has words that delete and insert",
        "other models: without the two words it is `llada21`, with up to as many forwards more",
    ),
    "sdar": (
        "SDAR checkpoints, in all their released strategies",
        "other models: `threshold`",
    ),
    "fast_dllm_v2": (
        "Fast-dLLM v2 checkpoints, with the cache `block_exact`, or `sub_block` at large batches",
        "models of full attention: `threshold`",
    ),
    "autoregressive": (
        "the reference of every draft-and-target method",
        "when a draft is at hand",
    ),
    "speculative": (
        "a draft of the same tokenizer, a few times smaller",
        "large batches that already fill the device",
    ),
    "eqspec": (
        "greedy batches whose rows accept different numbers",
        "one row: `speculative`",
    ),
    "exspec": (
        "a pool of many prompts, so that rows of like progress run together",
        "few prompts",
    ),
    "spectr": (
        "sampling, with several drafts per round",
        "greedy decoding: `speculative`",
    ),
    "pearl": (
        "two devices or meshes, so that draft and target run at the same time",
        "one device: nothing overlaps",
    ),
    "easyspec": (
        "a draft deep enough that running its layers in parallel pays",
        "drafts of two or three layers",
    ),
    "specdec_pp": (
        "a draft with a head trained for it and its target (minutes), where some tokens are far harder than others",
        "without the head: `speculative`",
    ),
    "s2d": (
        "one deep draft for several targets, its exits trained (minutes)",
        "drafts of two layers: one layer knows too little",
    ),
    "lookup": (
        "answers that repeat the prompt (editing, extraction, code); needs no draft",
        "new text",
    ),
}


def page(found: Mapping[str, Any], pairs: Mapping[str, Any], command: str) -> str:
    """The whole document."""
    meta, gates = found["meta"], found["gates"]
    learned = [task for task, gate in gates.items() if gate["learned"]]
    sizes = sorted({p["n"] for p in pooled(found)})
    size = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    measured = (
        f"Measured on the embedded model `{meta['model']}` by {command}, pooled over the {len(learned)} tasks that it "
        f"has learned ({', '.join(learned)}; {size} {meta['split']} problems per setting in all), greedy, "
        f"{meta['dtype']} on {meta['device']}. What each number means: [evaluation.md](evaluation.md). The page is "
        "written by `python scripts/gallery.py DIR`.\n"
    )
    parts = [
        "# Methods\n", f"{cli.markdown(cli.policy_rows())}\n", "## What was measured\n", measured,
        "![accuracy against tokens per forward](results/curves.svg)\n", overview(found),
    ]  # fmt: skip
    return "\n".join(parts + [section(entry, found, pairs) for entry in policies.TABLE])


def pooled(found: Mapping[str, Any], name: str | None = None) -> list[dict[str, Any]]:
    points = [p for p in found["points"] if p["task"] == summary.POOLED and p["cache"] == "none" and "delta" in p]
    return [p for p in points if name is None or p["policy"] == name]


def curve_of(found: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    same = (c for c in found["curves"] if (c["policy"], c["cache"], c["task"]) == (name, "none", summary.POOLED))
    return next(same, None)


def overview(found: Mapping[str, Any]) -> str:
    lines = [
        "| method | paper | trained | lossless | setting | forwards saved | accuracy, % | Δ, points (lower) | no loss | AUP |",
        "|---|---|---|---|---|--:|--:|--:|---|--:|",
    ]
    for entry in policies.TABLE:
        c = curve_of(found, entry.name)
        if c is None:
            continue
        best = c.get("claim") or c["no_loss"]
        shown = "– | – | – | – | none shown"
        if best:
            here = "yes" if "claim" in c or entry.name == BASELINE else "yes, but chosen on these rows"
            holds = here if best.get("holds", True) else "not shown"
            shown = (
                f"`{best['label']}` | {best['speedup_forwards']:.2f} × | {100 * best['accuracy']:.1f} "
                f"| {100 * best['delta']:+.2f} ({100 * best['delta_lower']:+.2f}) | {holds}"
            )
        trained, name = "yes" if entry.trained else "no", f"[{entry.name}](#{entry.name})"
        method = f"{name} | {papers(entry.paper)} | {trained} | {entry.lossless}"
        lines.append(f"| {method} | {shown} | {c['aup']:.0f} |")
    return "\n".join(lines) + "\n"


def papers(words: str) -> str:
    """Links of arXiv numbers."""
    return ", ".join(f"[{one.strip()}](https://arxiv.org/abs/{one.strip()})" for one in words.split(","))


def section(entry: Any, found: Mapping[str, Any], pairs: Mapping[str, Any]) -> str:
    when, when_not = ADVICE.get(entry.name, ("–", "–"))
    trained = "needs training" if entry.trained else "no training"
    caches = f"caches: {', '.join(entry.caches)}" if entry.caches else "always cached"
    lines = [
        f"## {entry.name}\n",
        f"Commits {entry.idea}. Paper: arXiv {papers(entry.paper)}. {trained}; lossless: {entry.lossless}; {caches}.\n",
        f"- Use it: {when}.",
        f"- Not: {when_not}.\n",
    ]
    points = pooled(found, entry.name)
    if any(line["policy"] == entry.name for line in pairs.get("speculative", ())):
        return "\n".join([*lines, *draft_and_target(entry.name, pairs)]) + "\n"
    if not points:
        reason = found.get("skipped", {}).get(f"{entry.name} with none")
        return "\n".join([*lines, f"Not in this run{f': {reason}' if reason else ''}.\n"])
    lines += [
        f"![{entry.name}](results/{entry.name}.svg)\n",
        "| setting | accuracy, % | 95 % interval | TPF | forwards saved | Δ, points (lower bound) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for p in sorted(points, key=lambda p: p["tpf"]):
        low, high = p["interval"]
        lines.append(
            f"| `{p['label']}` | {100 * p['accuracy']:.1f} | {100 * low:.1f} – {100 * high:.1f} | {p['tpf']:.2f} "
            f"| {p['speedup_forwards']:.2f} × | {100 * p['delta']:+.2f} ({100 * p['delta_lower']:+.2f}) |"
        )
    return "\n".join(lines) + "\n"


def draft_and_target(name: str, pairs: Mapping[str, Any]) -> list[str]:
    """What a run on a pair found: acceptance and equality by count, wall clock against `autoregressive`."""
    meta = pairs["meta"]
    lines = [
        f"On `{meta['model']}` with draft `{meta['draft']}` (`jaxdlm {' '.join(summary.portable(meta['argv']))}`), greedy:\n",
        "| setting | batch | accepted per forward | target forwards per token | equal rows | wall |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for line in pairs["speculative"]:
        if line["policy"] == name:
            lines.append(
                f"| `{line['label']}` | {line['batch']} | {line['accepted']:.2f} | {line['forwards_per_token']:.3f} "
                f"| {line['equal']} of {line['n']} | {line['speedup_wall']['p50']:.2f} × |"
            )
    return lines


def charts(found: Mapping[str, Any], folder: pathlib.Path) -> None:
    """curves.svg with everything, and a chart per method with `threshold` beside it."""
    names = report.policies_of(found)
    (folder / "curves.svg").write_text(svg.chart(report.tpf_chart(found, summary.POOLED, names), names, legend=True))
    for name in names:
        drawn = report.tpf_chart(found, summary.POOLED, names)
        pair = [s for s in drawn.series if s.name in (name, "threshold")]
        order = [name, *(other for other in ("threshold",) if other != name)]
        chart = drawn._replace(title=name, series=sorted(pair, key=lambda s: s.name == name))
        (folder / f"{name}.svg").write_text(svg.chart(chart, order, legend=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="--output of jaxdlm eval")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--pairs", type=pathlib.Path, help="--output of jaxdlm eval on an autoregressive model")
    parser.add_argument("--source", help="how the run was made, in Markdown (default: its command)")
    args = parser.parse_args()
    found = json.loads((args.folder / "summary.json").read_text())
    pairs = {} if args.pairs is None else json.loads((args.pairs / "summary.json").read_text())
    results = args.docs / "results"
    results.mkdir(parents=True, exist_ok=True)
    command = f"`jaxdlm {' '.join(summary.portable(found['meta']['argv']))}`"
    (args.docs / "policies.md").write_text(page(found, pairs, args.source or command))
    (results / "summary.json").write_text(summary.dump(summary.compact(found)))
    charts(found, results)


if __name__ == "__main__":
    main()
