"""Tables of a suite as papers print them, from rows alone: accuracy against forwards, and the fastest setting above a bar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.eval import metrics
from jaxdlm.eval.summary import BARS
from jaxdlm.eval.sweeps import canonical, label

AVERAGE = "average"  # of tasks, each counted once
Row = Mapping[str, Any]
HEAD = (
    "method",
    "cache or draft",
    "batch",
    "accuracy",
    "strict",
    "tokens per forward",
    "columns per forward",
    "forwards",
)


def mark(row: Row) -> float:
    """0 to 1: of a graded answer its score, else right or wrong."""
    return float(row["marks"]["score"]) if "marks" in row else float(bool(row["correct"]))


def tables(rows: Sequence[Row], tasks: Sequence[str], graded: bool = True) -> dict[str, Any]:
    """{"settings": a line per setting and task, "methods": AUP and the fastest setting at 80, 75 and 70 % per method}.

    Accuracies are percent; those of `average` are means over tasks, of settings that ran on all of them.
    """
    grouped: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        beside, batch = row.get("cache") or row.get("draft"), row["batch"] if "draft" in row else None
        grouped[row["policy"], canonical(row["settings"]), beside, batch][row["task"]].append(row)
    lines = []
    for (_, _, beside, batch), by_task in grouped.items():
        first = next(iter(by_task.values()))[0]
        named = {
            "policy": first["policy"], "label": label(first["policy"], first["settings"]), "beside": beside, "batch": batch,
        }  # fmt: skip
        made = [{**named, **_line(task, some, graded)} for task, some in by_task.items()]
        lines += made
        if set(by_task) >= set(tasks) and len(by_task) > 1:
            lines.append({**named, **_average([line for line in made if line["task"] in tasks], graded)})
    return {"settings": lines, "methods": _methods(lines) if graded else []}


def _line(task: str, some: Sequence[Row], graded: bool) -> dict[str, Any]:
    total = lambda name: sum(row.get(name) or 0 for row in some)  # noqa: E731
    made = {"task": task, "n": len(some), "tokens": total("n_tokens"), "forwards": total("forwards")}
    made |= {"columns": total("columns"), "accepted": total("accepted")}
    if graded:
        made["accuracy"] = 100 * sum(map(mark, some)) / len(some)
        made["strict"] = 100 * sum(mark(row) if "marks" in row else bool(row["strict"]) for row in some) / len(some)
        if "marks" in some[0]:
            made["marks"] = {name: sum(row["marks"][name] for row in some) / len(some) for name in some[0]["marks"]}
    return {**made, **_speed(made)}


def _speed(sums: Mapping[str, Any]) -> dict[str, float]:
    forwards = max(1, sums["forwards"])
    names = {"tpf": "tokens", "tpf_window": "columns", "accepted_per_forward": "accepted"}
    return {name: round(sums[of] / forwards, 5) for name, of in names.items()}


def _average(made: Sequence[Mapping[str, Any]], graded: bool) -> dict[str, Any]:
    sums = {name: sum(line[name] for line in made) for name in ("n", "tokens", "forwards", "columns", "accepted")}
    names = ("accuracy", "strict") if graded else ()
    means = {name: sum(line[name] for line in made) / len(made) for name in names}
    return {"task": AVERAGE, **sums, **means, **_speed(sums)}


def _methods(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per task, method and what stands beside it: AUP, and the most tokens per forward at each bar."""
    best: dict[str, float] = defaultdict(float)
    curves: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        best[line["task"]] = max(best[line["task"]], line["accuracy"])
        curves[line["task"], line["policy"], line["beside"], line["batch"]].append(line)
    made = []
    for (task, policy, beside, batch), points in curves.items():
        rho, y = [point["tpf"] for point in points], [point["accuracy"] for point in points]
        made.append({
            "task": task, "policy": policy, "beside": beside, "batch": batch, "settings": len(points),
            "aup": round(metrics.aup(rho, y, best[task]), 3), "best_at": {str(bar): _fastest(points, bar) for bar in BARS},
        })  # fmt: skip
    return made


def _fastest(points: Sequence[Mapping[str, Any]], bar: float) -> dict[str, Any] | None:
    names = ("label", "tpf", "tpf_window", "accuracy")
    reached = [point for point in points if point["accuracy"] >= bar]
    best = max(reached, key=lambda point: (point["tpf"], point["accuracy"]), default=None)
    return None if best is None else {name: best[name] for name in names}


def markdown(title: str, made: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Tables of text: of all tasks together first, then of each."""
    parts = [f"# {title}", *(f"- {note}" for note in notes)]
    names = list(dict.fromkeys(line["task"] for line in made["settings"]))
    for task in sorted(names, key=lambda name: name != AVERAGE):
        lines = [line for line in made["settings"] if line["task"] == task]
        parts += [
            f"## {task}",
            _table(HEAD if "accuracy" in lines[0] else _ungraded(), [_cells(line) for line in lines]),
        ]
        methods = [line for line in made["methods"] if line["task"] == task]
        if methods:
            head = ("method", "cache or draft", "batch", "AUP", *(f"best at {bar} %" for bar in BARS))
            parts.append(_table(head, [_best(line) for line in methods]))
    return "\n\n".join(parts) + "\n"


def _ungraded() -> tuple[str, ...]:
    return (*HEAD[:3], "accepted per forward", *HEAD[5:6], "forwards")


def _cells(line: Mapping[str, Any]) -> list[str]:
    head = [line["label"], line["beside"] or "", str(line["batch"] or "")]
    if "accuracy" not in line:
        return [*head, f"{line['accepted_per_forward']:.2f}", f"{line['tpf']:.2f}", str(line["forwards"])]
    window = f"{line['tpf_window']:.2f}" if line["columns"] else ""
    return [
        *head,
        f"{line['accuracy']:.1f}",
        f"{line['strict']:.1f}",
        f"{line['tpf']:.2f}",
        window,
        str(line["forwards"]),
    ]


def _best(line: Mapping[str, Any]) -> list[str]:
    head = [line["policy"], line["beside"] or "", str(line["batch"] or ""), f"{line['aup']:.1f}"]
    shown = lambda best: "–" if best is None else f"{best['tpf']:.2f} ({best['label']}, {best['accuracy']:.1f} %)"  # noqa: E731
    return [*head, *(shown(line["best_at"][str(bar)]) for bar in BARS)]


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])
