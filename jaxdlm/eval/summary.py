"""summary.json from rows.jsonl: every figure of the report, re-computable from the rows alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdlm.eval import metrics
from jaxdlm.eval.run import BASELINE
from jaxdlm.eval.sweeps import canonical, label
from jaxdlm.eval.task import TASKS

MARGINS = {"all": 0.01, "learned": 0.01}  # of accuracy, pooled; else that of a task
TASK_MARGIN = 0.02
BARS = (80, 75, 70)
POOLED = "learned"  # the tasks that reached their gate, together: the headline

CLAIM = ("label", "cache", "tpf", "speedup_forwards", "accuracy", "delta", "delta_lower")

Point = dict[str, Any]
Key = tuple[str, str, str]  # policy, settings, cache


class Block:
    """The rows of one (policy, settings, cache) on one task, as columns, in the order of their ids."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        rows = sorted(rows, key=lambda row: row["id"])
        self.rows, self.first = rows, rows[0]
        self.ids = [row["id"] for row in rows]
        column = lambda name, kind: np.array([row[name] for row in rows], kind)  # noqa: E731
        self.correct, self.strict, self.valid = (column(name, bool) for name in ("correct", "strict", "valid"))
        self.tokens, self.columns = column("n_tokens", np.int64), column("columns", np.int64)
        self.forwards, self.positions = column("forwards", np.int64), column("positions", np.int64)
        self.cached = column("forwards_cached", np.int64)
        self.seconds, self.template = column("seconds", float), column("template", np.int64)

    def only(self, ids: Sequence[str]) -> "Block | None":
        """The rows of these ids; None where one is missing."""
        if ids == self.ids:
            return self
        mine = {row["id"]: row for row in self.rows}
        return Block([mine[i] for i in ids]) if all(i in mine for i in ids) else None

    @property
    def tpf(self) -> float:
        return float(self.tokens.sum() / max(1, self.forwards.sum()))

    def order(self) -> tuple[float | None, list[float]]:
        """(mean Kendall τ-b of commit steps, counted tokens committed at forward 0, 1, ...)."""
        width = max(len(row["commit_step"]) for row in self.rows)
        steps = np.array([row["commit_step"] + [-1] * (width - len(row["commit_step"])) for row in self.rows])
        taus = [tau for tau in metrics.kendall(steps, self.tokens) if tau is not None]
        return (float(np.mean(taus)) if taus else None), metrics.committed(steps, self.tokens)


def pool(blocks: Sequence[Block]) -> Block:
    return Block([row for block in blocks for row in block.rows])


def summarise(
    meta: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], claims: Mapping[Any, Any] | None = None,
    bars: Mapping[str, Any] = TASKS, **extra: Any,
) -> dict[str, Any]:  # fmt: skip
    """The summary: gates per task, a point per (policy, settings, cache, task), a curve per (policy, cache, task).

    claims: (policy, cache) -> {"label", "cache"} of a setting that was chosen on other rows; its curve says what that
    setting reaches here. bars: task -> what knows its gate.

    Curves of the pooled task have the 95 % interval of their AUP over problems, and that of its difference to `threshold`.

    Task "learned" is all tasks that reached their gate at one token per step, "all" every task. `extra` is added as
    it is (timings, what was skipped).
    """
    by_task: dict[str, dict[Key, Block]] = _blocks(rows)
    gates = {
        task: {"accuracy": _round(float(blocks[_base(blocks)].correct.mean())), "gate": bars[task].gate}
        for task, blocks in by_task.items()
        if _base(blocks) is not None
    }
    for gate in gates.values():
        gate["learned"] = gate["accuracy"] >= gate["gate"]
    tasks = list(by_task)
    learned = [task for task in tasks if gates.get(task, {}).get("learned")]
    pooled = {POOLED: _pooled(by_task, learned)} | ({} if learned == tasks else {"all": _pooled(by_task, tasks)})
    by_task |= pooled
    points: list[Point] = []
    curves: list[dict[str, Any]] = []
    for task, blocks in by_task.items():
        base = blocks.get(_base(blocks))
        made = {key: point(block, base, task) for key, block in blocks.items()}
        points += made.values()
        same = _common(blocks)
        best = 100 * max((float(block.correct.mean()) for block in same.values()), default=0.0)
        drawn_of: dict[tuple[str, str], np.ndarray] = {}
        for (policy, cache), keys in _curves(blocks).items():
            shown = [made[k] for k in keys], [same[k] for k in keys], same.get(_base(blocks))
            drawn = curve(policy, cache, task, *shown, best)
            if task == POOLED and (policy, cache) in (claims or {}):
                drawn["claim"] = claim((claims or {})[policy, cache], [made[k] for k in keys])
            curves.append(drawn)
            if task == POOLED and all(block.ids == shown[1][0].ids for block in shown[1]):
                drawn_of[policy, cache] = _draws(shown[1], shown[2], best)
        _with_intervals([made for made in curves if made["task"] == task], drawn_of)
    _adjust(points)
    return {"meta": dict(meta), "gates": gates, "points": points, "curves": curves, **extra}


def _blocks(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[Key, Block]]:
    grouped: dict[str, dict[Key, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        key = row["policy"], canonical(row["settings"]), row["cache"]
        grouped[row["task"]][key].setdefault(row["id"], row)
    return {task: {key: Block(list(ids.values())) for key, ids in keys.items()} for task, keys in grouped.items()}


def _pooled(by_task: Mapping[str, Mapping[Key, Block]], tasks: Sequence[str]) -> dict[Key, Block]:
    """Settings that ran on every one of the tasks."""
    if not tasks:
        return {}
    keys = [key for key in by_task[tasks[0]] if all(key in by_task[task] for task in tasks)]
    return {key: pool([by_task[task][key] for task in tasks]) for key in keys}


def _common(blocks: Mapping[Key, Block]) -> dict[Key, Block]:
    """The same blocks on the rows that every setting decoded, so that curves compare like with like."""
    ids = sorted(set.intersection(*(set(block.ids) for block in blocks.values()))) if blocks else []
    if not ids:
        return dict(blocks)
    return {key: block.only(ids) or block for key, block in blocks.items()}


def _base(blocks: Mapping[Key, Block]) -> Any:
    key = (BASELINE, "{}", "none")
    return key if key in blocks else None


def _curves(blocks: Mapping[Key, Block]) -> dict[tuple[str, str], list[Key]]:
    """Settings of a policy without a cache are one curve; so are the intervals of a cache under a policy."""
    grouped: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in blocks:
        grouped[key[0], key[2].split(",")[0]].append(key)
    return grouped


def point(block: Block, base: Block | None, task: str) -> Point:
    """Everything about one setting on one task."""
    n, right = len(block.rows), int(block.correct.sum())
    tau, histogram = block.order()
    made: Point = {
        "policy": block.first["policy"], "settings": block.first["settings"], "cache": block.first["cache"],
        "label": label(block.first["policy"], block.first["settings"]), "task": task, "n": n,
        "accuracy": _round(right / n), "interval": [_round(x) for x in metrics.wilson(right, n)],
        "strict": _round(float(block.strict.mean())), "valid": _round(float(block.valid.mean())),
        "tpf": _round(block.tpf), "tpf_window": _round(float(block.columns.sum() / max(1, block.forwards.sum()))),
        "answer_length": _round(float(block.tokens.mean())),
        "forwards": {
            "mean": _round(float(block.forwards.mean())), "p50": float(np.median(block.forwards)),
            "p95": float(np.quantile(block.forwards, 0.95)), "cached": _round(float(block.cached.mean())),
        },
        "kendall": None if tau is None else _round(tau), "committed": histogram[:32],
        "seconds": _round(float(block.seconds.sum())),
        "status": _count(row["status"] for row in block.rows),
    }  # fmt: skip
    same = None if base is None else base.only(block.ids)
    if same is not None:
        made |= _against(block, same, task)
    return made


def _against(block: Block, base: Block, task: str) -> Point:
    test = metrics.paired(base.correct, block.correct)
    margin = MARGINS.get(task, TASK_MARGIN)
    templates = {}
    for template in sorted(set(block.template.tolist())):
        at = block.template == template
        part = metrics.paired(base.correct[at], block.correct[at])
        templates[str(template)] = {
            "n": part.n, "accuracy": _round(float(block.correct[at].mean())), "delta": _round(part.delta),
            "tpf": _round(float(block.tokens[at].sum() / max(1, block.forwards[at].sum()))),
        }  # fmt: skip
    return {
        "speedup_forwards": _round(float(base.forwards.sum() / max(1, block.forwards.sum()))),
        "compute_ratio": _round(float(block.positions.sum() / max(1, base.positions.sum()))),
        "speedup_batch_wall": _round(float(base.seconds.sum() / max(1e-9, block.seconds.sum()))),
        "delta": _round(test.delta), "delta_interval": [_round(x) for x in test.interval],
        "delta_lower": _round(test.lower), "b": test.b, "c": test.c, "mcnemar_p": _round(test.mcnemar_p),
        "equal": sum(a["tokens"] == b["tokens"] for a, b in zip(base.rows, block.rows)),
        "margin": margin, "noninferior": {str(m): test.noninferior(m) for m in (0.005, 0.01, 0.02, 0.05)},
        "p_inferior": test.p_inferior(margin), "templates": templates,
    }  # fmt: skip


def _adjust(points: list[Point]) -> None:
    """Holm over the pooled claims of "no loss"."""
    claims = [p for p in points if p["task"] == POOLED and "p_inferior" in p]
    for p, adjusted in zip(claims, metrics.holm([p["p_inferior"] for p in claims])):
        p["p_inferior_holm"] = adjusted


def curve(
    policy: str, cache: str, task: str, points: list[Point], blocks: list[Block], base: Block | None, best: float
) -> dict[str, Any]:
    """AUP and what a curve reaches; it starts at one token per step without a cache. blocks: of the same rows."""
    start = [] if base is None else [(base.tpf, 100 * float(base.correct.mean()))]
    rho, y = zip(*start, *((block.tpf, 100 * float(block.correct.mean())) for block in blocks))
    no_loss = [p for p in points if p.get("noninferior", {}).get(str(MARGINS.get(task, TASK_MARGIN)))]
    fastest = max(no_loss, key=lambda p: p["speedup_forwards"], default=None)
    made: dict[str, Any] = {
        "policy": policy, "cache": cache, "task": task, "settings": len(points), "n": len(blocks[0].ids),
        "aup": _round(metrics.aup(rho, y, best)), "aup_self": _round(metrics.aup_self(rho, y)),
        "no_loss": None if fastest is None else {k: fastest[k] for k in CLAIM},
        "max_tpf_at": {str(bar): _fastest(points, bar) for bar in BARS},
    }  # fmt: skip
    if base is not None and all(block.ids == base.ids for block in blocks):
        oracle = metrics.oracle(*(np.stack([getattr(b, x) for b in blocks]) for x in ("correct", "tokens", "forwards")))
        equal = [b.tpf for b in blocks if b.correct.mean() >= base.correct.mean()]
        made["oracle"] = {
            "accuracy": _round(oracle.accuracy),
            "tpf": _round(oracle.tpf),
            "gap": _round(oracle.tpf / max(equal)) if equal else None,
        }
    if all("steps" in p["settings"] for p in points) and len(points) > 1:
        made["parallelizability"] = metrics.parallelizability(
            [p["tpf_window"] for p in points], [p["accuracy"] for p in points]
        )
    return made


def _draws(blocks: list[Block], base: Block | None, best: float) -> np.ndarray:
    """AUP of the curve on problems that are drawn again and again."""
    several = ([] if base is None or base.ids != blocks[0].ids else [base]) + blocks
    tokens, forwards, correct = (np.stack([getattr(b, x) for b in several]) for x in ("tokens", "forwards", "correct"))
    return metrics.aup_draws(tokens, forwards, correct, best)


def _with_intervals(curves: list[dict[str, Any]], draws: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Adds aup_interval, and beside `threshold` on as many problems aup_gain, to the curves that were drawn again."""
    usual = draws.get(("threshold", "none"))
    between = lambda x: [_round(float(end)) for end in np.quantile(x, (0.025, 0.975))]  # noqa: E731
    for made in curves:
        own = draws.get((made["policy"], made["cache"]))
        if own is not None:
            made["aup_interval"] = between(own)
            made |= {} if usual is None else {"aup_gain": between(own - usual)}


def claim(chosen: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any] | None:
    """The figures of a setting that was chosen elsewhere; None where it was not run."""
    point = next((p for p in points if (p["label"], p["cache"]) == (chosen["label"], chosen["cache"])), None)
    if point is None or "noninferior" not in point:
        return None
    worst = min(part["delta"] for part in point["templates"].values())
    return {
        **{k: point[k] for k in CLAIM},
        "worst_template": worst,
        "holds": point["noninferior"][str(point["margin"])],
    }


def _fastest(points: Sequence[Point], bar: float) -> float | None:
    return max((p["tpf"] for p in points if 100 * p["accuracy"] >= bar), default=None)


def _count(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return dict(counts)


def _round(x: float) -> float:
    return round(x, 5)


def compact(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that documents quote: pooled points without histograms, and per task [accuracy, TPF, speed-up, delta]
    by label."""
    keep = (
        "label", "policy", "settings", "cache", "task", "n", "accuracy", "interval", "valid", "tpf", "tpf_window",
        "speedup_forwards", "compute_ratio", "delta", "delta_lower", "b", "c", "equal", "noninferior", "kendall",
    )  # fmt: skip
    points = [{k: p[k] for k in keep if k in p} for p in summary["points"] if p["task"] == POOLED]
    tasks: dict[str, Any] = defaultdict(dict)
    for p in summary["points"]:
        if p["task"] != POOLED and "delta" in p:
            tasks[p["task"]][f"{p['label']} {p['cache']}"] = [
                p[k] for k in ("accuracy", "tpf", "speedup_forwards", "delta")
            ]
    meta = {**summary["meta"], "argv": portable(summary["meta"].get("argv", []))}
    curves = [c for c in summary["curves"] if c["task"] == POOLED]
    return {**summary, "meta": meta, "points": points, "tasks": tasks, "curves": curves}


def portable(argv: Sequence[str]) -> list[str]:
    """The arguments with names for folders that exist on one machine only."""
    names = {"--output": "DIR", "--chosen": "VALIDATION"}
    before = ["", *argv]
    return [names.get(previous, word) for previous, word in zip(before, argv) if word != "--traceback"]


def dump(summary: Mapping[str, Any]) -> str:
    """JSON, one point per line so that a diff can be read."""
    parts = []
    for name, value in summary.items():
        if isinstance(value, dict) and name == "tasks":
            lines = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
            parts.append(f" {json.dumps(name)}: {{\n  {lines}\n }}")
        elif isinstance(value, list):
            lines = ",\n  ".join(json.dumps(each, ensure_ascii=False, default=list) for each in value)
            parts.append(f" {json.dumps(name)}: [\n  {lines}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, default=list)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
