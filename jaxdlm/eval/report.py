"""report.html: one page with everything in it, curves, tables, wall clock and what was left out."""

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.eval.pairs import BASELINE as PLAIN
from jaxdlm.eval.run import BASELINE
from jaxdlm.eval.summary import MARGINS, POOLED, TASK_MARGIN
from jaxdlm.eval.svg import Bar, Chart, Mark, Series, bars, chart, element, style

Summary = Mapping[str, Any]

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #111; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { max-width: 75ch } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
th { font-weight: 600; border-bottom: 1px solid #6b7280 } td:first-child, th:first-child { text-align: left }
.panels { display: flex; flex-wrap: wrap; gap: 12px } .panels svg { border: 1px solid #e5e7eb; border-radius: 6px }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem }
.legend { position: sticky; top: 0; background: #fff; padding: .4rem 0; z-index: 1 }
.legend label { cursor: pointer; white-space: nowrap } .legend svg { vertical-align: middle }
.muted { color: #6b7280 } .no { color: #9ca3af } code { font-size: .92em }
svg .series { transition: opacity .1s } svg.focus .series { opacity: .12 } svg.focus .series.on { opacity: 1 }
"""
SCRIPT = """
document.querySelectorAll('.legend label').forEach(label => {
  const name = label.dataset.name, box = label.querySelector('input');
  const each = f => document.querySelectorAll('.series[data-name="' + CSS.escape(name) + '"]').forEach(f);
  box.addEventListener('change', () => each(g => g.style.display = box.checked ? '' : 'none'));
  label.addEventListener('mouseenter', () => each(g => { g.classList.add('on'); g.ownerSVGElement.classList.add('focus') }));
  label.addEventListener('mouseleave', () => each(g => { g.classList.remove('on');
    g.ownerSVGElement.classList.remove('focus') }));
});
"""


def page(summary: Summary) -> str:
    """The whole report."""
    names = policies_of(summary)
    meta = summary["meta"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>jaxdlm eval: {_e(meta['model'])}</title><style>{STYLE}</style>",
        f"<h1>Decoding policies on {_e(meta['model'])}</h1>",
        f"<p class=muted>{_e(_provenance(meta))}</p>",
        "<h2>No loss, and how much faster</h2>", _headline_note(summary), headline(summary, names),
        "<h2>Accuracy against tokens per forward</h2>", _reading_note(), _legend(names),
        f"<div class=panels>{''.join(panels(summary, names))}</div>",
    ]  # fmt: skip
    if any(p["cache"] != "none" for p in summary["points"]):
        parts += ["<h2>Caches</h2>", _cache_note(), cache_table(summary)]
    parts += [
        "<h2>Wall clock</h2>",
        _wall_note(summary),
        f"<div class=panels>{''.join(wall_panels(summary, names))}</div>",
        timing_table(summary),
    ]
    parts += ["<h2>Gates</h2>", _gate_note(), gate_table(summary), _left_out(summary)]
    return "\n".join([*parts, f"<script>{SCRIPT}</script></html>"])


def policies_of(summary: Summary) -> list[str]:
    """Names in the order of their AUP on the pooled tasks, best first: it decides colours and rows."""
    score: dict[str, float] = {}
    for c in summary["curves"]:
        if c["cache"] == "none":
            score[c["policy"]] = max(score.get(c["policy"], 0.0), c["aup"] if c["task"] == POOLED else 0.0)
    return sorted(score, key=lambda name: (-score[name], name))


def panels(summary: Summary, names: Sequence[str]) -> list[str]:
    """One panel per task, the pooled ones first."""
    tasks = list(dict.fromkeys(p["task"] for p in summary["points"]))
    tasks = [t for t in (POOLED, "all") if t in tasks] + [t for t in tasks if t not in (POOLED, "all")]
    return [chart(tpf_chart(summary, task, names), names) for task in tasks]


def tpf_chart(summary: Summary, task: str, names: Sequence[str]) -> Chart:
    bound = summary.get("bounds", {}).get(task)
    dotted = None if bound is None else [(x, 100 * y) for x, y in bound["points"]]
    return _chart(summary, task, names, "tpf", "tokens per forward", dotted)


def wall_panels(summary: Summary, names: Sequence[str]) -> list[str]:
    tasks = [t for t in (POOLED, "all") if any(p["task"] == t for p in summary["points"])]
    return [
        chart(
            _chart(summary, t, names, "speedup_batch_wall", "speed-up in wall time of the run's own batches", None),
            names,
        )
        for t in tasks
    ]


def _chart(summary: Summary, task: str, names: Sequence[str], x: str, x_label: str, dotted: Any) -> Chart:
    points = [p for p in summary["points"] if p["task"] == task and p["cache"] == "none" and x in p]
    stars = {c["policy"]: c.get("oracle") for c in summary["curves"] if c["task"] == task and c["cache"] == "none"}
    series = []
    for name in names:
        marks = [_mark(p, x) for p in points if p["policy"] == name]
        star = stars.get(name) if x == "tpf" and len(marks) > 1 else None
        if marks:
            series.append(Series(name, marks, (star["tpf"], 100 * star["accuracy"]) if star else None))
    base = next((p for p in points if p["policy"] == BASELINE and not p["settings"]), None)
    margin = 100 * MARGINS.get(task, TASK_MARGIN)
    band = None if base is None else (100 * base["accuracy"] - margin, 100 * base["accuracy"] + margin)
    gate = summary["gates"].get(task)
    note = "" if gate is None or gate["learned"] else f"not learned (gate {100 * gate['gate']:.0f})"
    return Chart(task, x_label, series, band, dotted, note or f"n = {points[0]['n'] if points else 0}")


def _mark(p: Mapping[str, Any], x: str) -> Mark:
    low, high = (100 * value for value in p["interval"])
    title = f"{p['label']}: {100 * p['accuracy']:.1f} % [{low:.1f}, {high:.1f}], TPF {p['tpf']:.2f}"
    if "delta" in p:
        title += f", {p['speedup_forwards']:.2f}x fewer forwards, Δ {100 * p['delta']:+.1f} points"
    return Mark(p[x], 100 * p["accuracy"], low, high, title)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    cells = lambda row, tag: "".join(f"<{tag}>{cell}</{tag}>" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


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
        f"<!doctype html><html lang=en><meta charset=utf-8><title>jaxdlm eval: {_e(meta['model'])}</title>",
        f"<style>{STYLE}</style><h1>{_e(title)}</h1>",
        f"<p class=muted>{_e(_provenance(meta))}</p>",
        _pairs_note(), speculative_table(summary["speculative"]), pairs_chart(summary), _left_out(summary), "</html>",
    ])  # fmt: skip


def pairs_chart(summary: Summary) -> str:
    """Tokens per target forward of every task, a bar per method, at the smallest batch size that it ran at."""
    lines = sorted(summary["speculative"], key=lambda line: line["batch"])
    methods = {f"{r['label']} {r['draft'] or ''}".strip(): r for r in reversed(lines) if r["policy"] != PLAIN}
    charts = defaultdict(list)
    for name in sorted(methods):
        for task, counts in methods[name]["tasks"].items():
            charts[task].append(Bar(name, counts["tokens_per_forward"]))
    best = sorted(charts, key=lambda task: -max(bar.value for bar in charts[task]))
    return bars("tokens per target forward", {task: charts[task] for task in best}, base=1.0, note=f"1 = {PLAIN}")


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


def _legend(names: Sequence[str]) -> str:
    def entry(index: int, name: str) -> str:
        colour, dash = style(index)
        line = element("line", x1=0, x2=26, y1=4, y2=4, stroke=colour, stroke_width=2.4, stroke_dasharray=dash)
        line = element("svg", line, width=26, height=8)
        return f'<label data-name="{_e(name)}"><input type=checkbox checked> {line} {_e(name)}</label>'

    return f"<div class=legend>{''.join(entry(i, name) for i, name in enumerate(names))}</div>"


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
        "<p>Each line is one method over the settings of its knob; bars are 95 % Wilson intervals; the grey band is one "
        "token per forward ± the margin; the dotted line is what an ideal model reaches (no loss by confidence "
        "thresholds at best, then one forward; a method that verifies several drafts in a forward may pass it); ★ is the "
        "best setting chosen per row with the answers known. End-of-text padding is never counted as a token. AUP and ★ "
        "use the rows that every setting decoded. Point at a method to bring it forward.</p>"
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
