"""docs/policies.md from the table of methods and runs of `jaxdlm eval`: python scripts/gallery.py DIR [--pairs DIR].

Also writes docs/results: summary.json (what the page quotes), curves.svg, and one small chart per method.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxdlm import cli, policies
from jaxdlm.eval import plots, report, summary
from jaxdlm.eval.run import BASELINE

ROOT = pathlib.Path(__file__).parents[1]


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
    trained = "needs training" if entry.trained else "no training"
    caches = f"caches: {', '.join(entry.caches)}" if entry.caches else "always cached"
    lines = [
        f"## {entry.name}\n",
        f"Commits {entry.idea}. Paper: arXiv {papers(entry.paper)}. {trained}; lossless: {entry.lossless}; {caches}.\n",
        f"- Use it: {entry.use}.",
        f"- Not: {entry.avoid}.\n",
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
    """curves.svg with every setting, and a chart per method."""
    (folder / "curves.svg").write_text(plots.svg(plots.overview(found, summary.POOLED, "tpf", report.TPF, width=620)))
    for chart in report.method_charts(found, report.policies_of(found)):
        (folder / f"{chart['title']['text']}.svg").write_text(plots.svg({**chart, "width": 420, "height": 260}))


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
