"""Wall clock of policies against one token per forward, in turn, on compiled and warmed programs."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdlm.eval.run import Bench, Unit, baseline, cache_label, cache_of, decode, threads
from jaxdlm.eval.sweeps import canonical, label

WARM, REPEATS = 3, 5
TOGETHER = 4  # settings that are timed against the same calls of one token per forward


def chosen(summary: Mapping[str, Any], pooled: str) -> list[Unit]:
    """One setting per policy and cache: the fastest without a loss, else the method's defaults."""
    units = []
    for curve in summary["curves"]:
        if curve["task"] != pooled:
            continue
        points = [p for p in summary["points"] if (p["policy"], p["task"]) == (curve["policy"], pooled)]
        points = [p for p in points if p["cache"].split(",")[0] == curve["cache"]]
        want = curve.get("claim") or curve["no_loss"]
        best = next(
            (p for p in points if want and (p["label"], p["cache"]) == (want["label"], want["cache"])), points[0]
        )
        units.append(Unit(best["policy"], best["settings"], *cache_of(best["cache"]), ""))
    return units


def mixed(bench: Bench, tasks: Sequence[str], size: int) -> tuple[str, list[Any]]:
    """(a task that sets the canvas, `size` examples in turn over the tasks that share it)."""
    same = [task for task in tasks if bench.geometry(task) == bench.geometry(tasks[0])]
    rows = [bench.examples[task][i % len(bench.examples[task])] for i in range(size) for task in same]
    return same[0], rows[:size]


def measure(
    bench: Bench, units: Sequence[Unit], tasks: Sequence[str], batches: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Per unit and batch size: median and quartiles of time(one token per forward) / time(policy) in one round."""
    for size in batches:
        task, examples = mixed(bench, tasks, size)
        slow = baseline(task)
        units = [unit._replace(task=task) for unit in units]
        with ThreadPoolExecutor(threads()) as pool:  # compiling is most of it, and not yet timed
            slow_out, *outs = pool.map(lambda unit: decode(bench, unit, examples)[0], [slow, *units])
        timed = [
            times
            for first in range(0, len(units), TOGETHER)
            for times in _in_turn(bench, slow, units[first : first + TOGETHER], examples)
        ]
        for unit, out, times in zip(units, outs, timed, strict=True):
            ratio = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
            yield {
                "label": label(unit.policy, unit.settings), "policy": unit.policy, "settings": canonical(unit.settings),
                "cache": cache_label(unit.cache, unit.cache_settings), "batch": size,
                "speedup": {name: round(float(value), 3) for name, value in zip(("p25", "p50", "p75"), ratio)},
                "seconds": round(float(np.median(times[:, 1])), 6),
                "speedup_forwards": round(float(slow_out.forwards.sum() / out.forwards.sum()), 3),
                "loop_forwards": int(out.forwards.max()), "repeats": len(times),
                "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            }  # fmt: skip


def _in_turn(bench: Bench, slow: Unit, fast: Sequence[Unit], examples: Sequence[Any]) -> list[np.ndarray]:
    """Seconds [repeats, (slow, fast)] of each; the whole call, from prompts to text. In a round everyone has a turn."""

    def once(unit: Unit) -> float:
        begin = time.perf_counter()
        decode(bench, unit, examples)
        return time.perf_counter() - begin

    for unit in fast:
        for _ in range(WARM - 1):
            once(unit)
    rounds = np.array([[once(unit) for unit in (slow, *fast)] for _ in range(REPEATS)])
    return [rounds[:, [0, place]] for place in range(1, 1 + len(fast))]
