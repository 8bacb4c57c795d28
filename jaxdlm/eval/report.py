"""report.html: one page with everything in it, curves, tables, wall clock and what was left out."""

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import distribution
from jaxdlm.decisions.metrics import Bin
from jaxdlm.eval import plots
from jaxdlm.eval.pairs import BASELINE as PLAIN
from jaxdlm.eval.summary import POOLED

Summary = Mapping[str, Any]
TPF = "tokens per forward"

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #111; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { max-width: 75ch } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
th { font-weight: 600; border-bottom: 1px solid #6b7280 } td:first-child, th:first-child { text-align: left }
.panels { display: flex; flex-wrap: wrap; gap: 12px } .chart { max-width: 100%; overflow-x: auto }
#pooled0, #pooled1, #wall0, #wall1, #tokens0 { flex: 1 1 420px }
td code { white-space: normal; overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem } .scroll { overflow-x: auto } .vega-bind { font-size: 13px }
.muted { color: #6b7280 } .no { color: #9ca3af } code { font-size: .92em }
"""


def page(summary: Summary) -> str:
    """The whole report."""
    names = policies_of(summary)
    meta = summary["meta"]
    parts = [
        _head(meta),
        f"<h1>Decoding policies on {_e(meta['model'])}</h1>",
        f"<p class=muted>{_e(_provenance(meta))}</p>",
        "<h2>No loss, and how much faster</h2>", _headline_note(summary), headline(summary, names),
        "<h2>Accuracy against tokens per forward</h2>", _reading_note(),
        _drawn([plots.overview(summary, pool, "tpf", TPF) for pool in _pools(summary)], "pooled"),
        "<h3>Each method on the pooled tasks</h3>", _drawn(method_charts(summary, names), "method"),
        "<h3>Each task</h3>", _drawn(task_charts(summary), "task"),
        "<h3>Every setting on the pooled tasks</h3>", settings_table(summary),
    ]  # fmt: skip
    if any(p["cache"] != "none" for p in summary["points"]):
        parts += ["<h2>Caches</h2>", _cache_note(), cache_table(summary)]
    parts += [
        "<h2>Wall clock</h2>",
        _wall_note(summary),
        _drawn(wall_charts(summary), "wall"),
        timing_table(summary),
    ]
    parts += ["<h2>Gates</h2>", _gate_note(), gate_table(summary), _left_out(summary)]
    return "\n".join([*parts, "</html>"])


def _head(meta: Mapping[str, Any]) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>jaxdlm eval: {_e(meta['model'])}</title><style>{STYLE}</style>{plots.library() if plots.there() else ''}"
    )


def policies_of(summary: Summary) -> list[str]:
    """Names in the order of their AUP on the pooled tasks, best first: the order of rows and charts."""
    score: dict[str, float] = {}
    for c in summary["curves"]:
        if c["cache"] == "none":
            score[c["policy"]] = max(score.get(c["policy"], 0.0), c["aup"] if c["task"] == POOLED else 0.0)
    return sorted(score, key=lambda name: (-score[name], name))


def method_charts(summary: Summary, names: Sequence[str]) -> list[plots.Spec]:
    return [plots.of_method(summary, POOLED, "tpf", TPF, name) for name in names if _measured(summary, POOLED, name)]


def task_charts(summary: Summary) -> list[plots.Spec]:
    tasks = [t for t in dict.fromkeys(p["task"] for p in summary["points"]) if t != POOLED]
    size: dict[str, Any] = {"width": 280, "height": 210, "choice": False}
    return [plots.overview(summary, task, "tpf", TPF, **size) for task in tasks if _measured(summary, task)]


def wall_charts(summary: Summary) -> list[plots.Spec]:
    wall = "speed-up in wall time of the run's own batches"
    return [plots.overview(summary, t, "speedup_batch_wall", wall) for t in _pools(summary, "speedup_batch_wall")]


def _pools(summary: Summary, x: str = "tpf") -> list[str]:
    return [task for task in (POOLED, "all") if len(plots.points(summary, task, x)) > 1]


def _measured(summary: Summary, task: str, name: str | None = None) -> bool:
    return any(name in (None, p["policy"]) for p in plots.points(summary, task, "tpf"))


def _drawn(charts: Sequence[plots.Spec], name: str) -> str:
    """Charts side by side as far as the page is wide; without the package that draws them, what to install."""
    if not plots.there():
        return f"<p class=muted>Charts need vl-convert-python: <code>{_e(distribution.install('plot'))}</code></p>"
    return f"<div class=panels>{''.join(plots.embed(f'{name}{i}', spec) for i, spec in enumerate(charts))}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    cells = lambda row, tag: "".join(f"<{tag}>{cell}</{tag}>" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def headline(summary: Summary, names: Sequence[str]) -> str:
    """Per policy a setting without a loss on the learned tasks, and its AUP; chosen on validation where there was one."""
    by_name = {c["policy"]: c for c in summary["curves"] if c["task"] == POOLED and c["cache"] == "none"}
    claimed = any("claim" in c for c in by_name.values())
    rows = []
    for name in (name for name in names if name in by_name):
        c = by_name[name]
        claim = c.get("claim") if claimed else c["no_loss"]
        shown = ["<span class=no>none</span>", *[""] * (7 if claimed else 5)]
        if claim:
            shown = [
                f"<code>{_e(claim['label'])}</code>", f"{claim['speedup_forwards']:.2f}", f"{claim['tpf']:.2f}",
                f"{100 * claim['accuracy']:.1f}", f"{100 * claim['delta']:+.2f}", f"{100 * claim['delta_lower']:+.2f}",
            ]  # fmt: skip
            if claimed:
                verdict = "yes" if claim["holds"] else "<span class=no>not shown</span>"
                shown += [f"{100 * claim['worst_template']:+.2f}", verdict]
        rows.append([_e(name), *shown, f"{c['aup']:.1f}", f"{c['aup_self']:.1f}"])
    where = "setting chosen on validation" if claimed else "fastest setting without loss"
    head = ["method", where, "speed-up, forwards", "TPF", "accuracy, %", "Δ, points", "lower bound"]
    return table([*head, *(["worst template Δ", "no loss"] if claimed else []), "AUP", "AUP self"], rows)


def settings_table(summary: Summary) -> str:
    """What the charts show, in numbers, best first within a method."""
    every = sorted(plots.points(summary, POOLED, "tpf"), key=lambda p: (p["policy"], -p["accuracy"]))
    rows = [
        [f"<code>{_e(p['setting'])}</code>", f"{p['accuracy']:.1f}", f"{p['low']:.1f} – {p['high']:.1f}", f"{p['tpf']:.2f}",
         *(f"{p[name]:{form}}" if p[name] is not None else "" for name, form in (("saved", ".2f"), ("delta", "+.2f")))]
        for p in every
    ]  # fmt: skip
    return table(["setting", "accuracy, %", "95 % interval", "TPF", "forwards saved, times", "Δ, points"], rows)


def cache_table(summary: Summary) -> str:
    rows = []
    for p in summary["points"]:
        if p["task"] == POOLED and (p["cache"] != "none" or not p["settings"]) and "delta" in p:
            rows.append([
                f"<code>{_e(p['cache'])}</code>", f"<code>{_e(p['label'])}</code>", f"{100 * p['accuracy']:.1f}",
                f"{100 * p['delta']:+.2f}", f"{100 * p['delta_lower']:+.2f}", f"{p['tpf']:.2f}", f"{p['compute_ratio']:.3f}",
                f"{p['speedup_batch_wall']:.2f}",
            ])  # fmt: skip
    return table(
        ["cache", "policy", "accuracy, %", "Δ, points", "lower bound", "TPF", "positions ÷ baseline", "speed-up, wall"],
        sorted(rows),
    )


def timing_table(summary: Summary) -> str:
    rows = []
    for t in summary.get("timing", []):
        ratio = t["speedup"]
        shown = [f"{ratio['p50']:.2f}", f"{ratio['p25']:.2f} – {ratio['p75']:.2f}", f"{1000 * t['seconds']:.1f}"]
        forwards = [f"{t['speedup_forwards']:.2f}", str(t["loop_forwards"])]
        rows.append([f"<code>{_e(t['label'])}</code>", _e(t["cache"]), str(t["batch"]), *shown, *forwards])
    head = [
        "policy",
        "cache",
        "batch",
        "speed-up, wall",
        "quartiles",
        "ms per batch",
        "speed-up, forwards",
        "loop trips",
    ]
    return table(head, rows) if rows else ""


def pairs_page(summary: Summary) -> str:
    """The report of an autoregressive model and its draft."""
    meta = summary["meta"]
    title = f"Draft and target: {meta['model']}" + (f" with {meta['draft']}" if meta["draft"] else "")
    return "\n".join([
        _head(meta), f"<h1>{_e(title)}</h1>",
        f"<p class=muted>{_e(_provenance(meta))}</p>",
        _pairs_note(), speculative_table(summary["speculative"]), _drawn([pairs_chart(summary)], "tokens"),
        _left_out(summary), "</html>",
    ])  # fmt: skip


def pairs_chart(summary: Summary) -> plots.Spec:
    """Tokens per target forward of every task, a bar per method, at the smallest batch size that it ran at."""
    lines = sorted(summary["speculative"], key=lambda line: line["batch"])
    methods = {f"{r['label']} {r['draft'] or ''}".strip(): r for r in reversed(lines) if r["policy"] != PLAIN}
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for name in sorted(methods):
        for task, counts in methods[name]["tasks"].items():
            groups[task][name] = counts["tokens_per_forward"]
    best = sorted(groups, key=lambda task: -max(groups[task].values()))
    return plots.bars("tokens per target forward", {task: groups[task] for task in best}, base=1.0, note=f"1 = {PLAIN}")


def _pairs_note() -> str:
    return (
        "<p>Greedy. Accepted: draft tokens committed per target forward. Equal: rows whose ids up to the end of text "
        "are those of one token per forward. Wall: prompts to text, the same batch by baseline and method in turn, both "
        "compiled; median and quartiles over batches, and all of the time together.</p>"
    )


def speculative_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["method", "draft", "batch", "accepted", "tokens per target forward", "target forwards per token"]
    shown = []
    for r in rows:
        ratio = r["speedup_wall"]
        wall = [f"{ratio['p50']:.2f} ({ratio['p25']:.2f} – {ratio['p75']:.2f})", f"{r['speedup_total']:.2f}"]
        numbers = [f"{r['accepted']:.2f}", f"{r['tokens_per_forward']:.2f}", f"{r['forwards_per_token']:.3f}"]
        equal = [f"{r['equal']} of {r['n']}", "" if r["accuracy"] is None else f"{100 * r['accuracy']:.1f}"]
        named = [f"<code>{_e(r['label'])}</code>", _e(r["draft"] or ""), str(r["batch"])]
        shown.append([*named, *numbers, *equal, *wall, f"{r['tokens_per_second']:.1f}"])
    return table([*head, "equal rows", "accuracy, %", "speed-up, wall", "all together", "tokens per second"], shown)


def decisions_page(summary: Summary) -> str:
    """The report of decisions on labelled rows."""
    meta = summary["meta"]
    return "\n".join([
        _head(meta), f"<h1>Decisions of {_e(meta['model'])}</h1>",
        f"<p class=muted>{_e(_provenance(meta))}</p>",
        _decisions_note(), decisions_table(summary["decisions"]), _drawn(_reliability(summary), "reliability"), "</html>",
    ])  # fmt: skip


def reliability_chart(summary: Summary) -> plots.Spec:
    """Accuracy against stated probability, a chart per reader."""
    return plots.side_by_side(_reliability(summary))


def _reliability(summary: Summary) -> list[plots.Spec]:
    return [plots.reliability(name, [Bin(**each) for each in bins]) for name, bins in summary["reliability"].items()]


def _decisions_note() -> str:
    return (
        "<p>Calibration error: of the winner's probability over 15 bins of equal mass, with the 95 % interval of rows drawn "
        "again, and its floor, what labels drawn from the probabilities themselves show. Covered: the share of rows, the "
        "surest first, of which at most 5 % are wrong. Δ: right answers against the options as listed, the same rows. "
        "Reads: sequences per question; label mass: probability of all labels together; flips: readings with another winner.</p>"
    )


def decisions_table(points: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "question",
        "reader",
        "rows",
        "right, %",
        "95 %",
        "Δ, points",
        "NLL",
        "Brier",
        "calibration error",
        "95 %",
        "floor",
    ]
    shown = []
    for p in points:
        if not p["n"]:
            continue
        right = [f"{100 * p['accuracy']:.1f}", " – ".join(f"{100 * x:.0f}" for x in p["interval"])]
        delta = f"{100 * p['delta']:+.1f}" if "delta" in p else ""
        errors = [f"{p[name]:.3f}" for name in ("nll", "brier", "ece")]
        around = [f"{p['low']:.3f} – {p['high']:.3f}", f"{p['floor']:.3f}", f"{100 * p['covered']:.0f}"]
        levels = [f"{p[name]:.3f}" if name in p else "" for name in ("distance", "ranked")]
        cost = [f"{p['reads']:.1f}", f"{p['label_mass']:.2f}", f"{p['flips']:.2f}"]
        shown.append([_e(p["question"]), _e(p["reader"]), str(p["n"]), *right, delta, *errors, *around, *levels, *cost])
    return table([*head, "covered, %", "distance", "ranked score", "reads", "label mass", "flips"], shown)


def gate_table(summary: Summary) -> str:
    rows = [
        [
            _e(task),
            f"{100 * gate['accuracy']:.1f}",
            f"{100 * gate['gate']:.0f}",
            "yes" if gate["learned"] else "<span class=no>not learned</span>",
        ]
        for task, gate in summary["gates"].items()
    ]
    return table(["task", "one token per forward, %", "gate", "counts"], rows)


def _left_out(summary: Summary) -> str:
    skipped = summary.get("skipped") or {}
    if not skipped:
        return ""
    items = "".join(f"<li><code>{_e(name)}</code>: {_e(reason)}</li>" for name, reason in skipped.items())
    return f"<h2>Left out</h2><ul>{items}</ul>"


def _provenance(meta: Mapping[str, Any]) -> str:
    load = meta.get("load")
    parts = [
        f"jaxdlm {meta['version']} ({meta['git'] or 'no git'})", f"{meta['time']}", f"{meta['split']} split, seed {meta['seed']}",
        f"{meta['dtype']} on {meta['device']} with {meta['cores']} cores" + (f", load {load[0]:.1f}" if load else ""),
        f"jax {meta['jax']}", "jaxdlm " + " ".join(meta["argv"]),
    ]  # fmt: skip
    return " · ".join(parts)


def _headline_note(summary: Summary) -> str:
    learned = [task for task, gate in summary["gates"].items() if gate["learned"]]
    return (
        f"<p>Pooled over the {len(learned)} tasks that reached their gate ({_e(', '.join(learned))}). A setting has no "
        "loss when the lower bound of the one-sided 95 % interval of its paired difference Δ to one token per forward "
        "is above −1 point. Speed-up counts forwards of the same rows. "
        f"{_bound_note(summary)}AUP is area under accuracy against TPF, y_max the best of this run; AUP self depends on "
        "no other method.</p>"
    )


def _bound_note(summary: Summary) -> str:
    bound = summary.get("bounds", {}).get(POOLED)
    if bound is None:
        return ""
    return f"An ideal model saves {bound['speedup']:.2f} times the forwards on these rows without a loss. "


def _reading_note() -> str:
    return (
        "<p>Each point is a setting of a method. The black line is the Pareto front of all: no other setting is better in "
        "both. Point at a setting for its figures, which brings its method forward, or choose one from the list: its own "
        "front and 95 % Wilson intervals. The grey band is one token per forward ± the margin; the dotted line is what an "
        "ideal model reaches (no loss by confidence thresholds at best, then one forward; a method that verifies several "
        "drafts in a forward may pass it). Among the charts of methods the grey line is the front of all, ★ the best "
        "setting chosen per row with the answers known. End-of-text padding is never counted as a token. AUP and ★ use "
        "the rows that every setting decoded.</p>"
    )


def _cache_note() -> str:
    return (
        "<p>Positions: tokens that went through the model, all forwards, relative to one token per forward without a "
        "cache.</p>"
    )


def _wall_note(summary: Summary) -> str:
    return (
        "<p>Upper panels: time of the batches of this run, compilation taken off, each measured once while other work may "
        "have run on the machine. Table: batches of mixed prompts, compiled and warmed, baseline and policy in "
        "turn, median and quartiles of the ratio.</p>"
    )


def _gate_note() -> str:
    return "<p>A task below its gate at one token per forward is listed and left out of the pooled figures.</p>"


def _e(text: Any) -> str:
    return html.escape(str(text))
