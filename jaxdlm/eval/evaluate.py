"""What `jaxdlm eval` does: decodes, and writes rows.jsonl, summary.json, report.html and curves.svg."""

import pathlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxdlm import distribution
from jaxdlm.command import note
from jaxdlm.errors import InputError
from jaxdlm.eval import chosen, ideal, pairs, plots, report, rows, run, summary, timing
from jaxdlm.eval.sweeps import Choice

Then = Callable[[Sequence[rows.Line]], Sequence[pairs.Pool]]  # rows so far -> what is asked next
More = Callable[[Sequence[rows.Line]], dict[str, Any]]  # rows -> further parts of the summary


def nothing(done: Sequence[rows.Line]) -> Sequence[pairs.Pool]:
    return ()


def no_more(done: Sequence[rows.Line]) -> dict[str, Any]:
    return {}


def masked(
    bench: run.Bench, methods: Sequence[Choice], caches: Sequence[Choice], tasks: Sequence[str], only_learned: bool,
    batches: Sequence[int], folder: pathlib.Path, head: rows.Line, claimed: chosen.Chosen, more: More = no_more,
) -> None:  # fmt: skip
    """A masked model: every setting of the methods and caches, or what was chosen of them, on the tasks or those that
    reach their gate. more: further parts of the summary; rows with marks are read by it alone."""
    begin = time.perf_counter()
    file, done = rows.open_for(folder / "rows.jsonl", head)
    with file:
        result = _run_all(bench, methods, caches, tasks, only_learned, claimed, file, done)
    plain = [row for row in result.rows if "marks" not in row]
    made = summary.summarise(head, plain, claimed.claims, bench.tasks, skipped=result.skipped, **more(result.rows))
    if batches:
        learned = [name for name, gate in made["gates"].items() if gate["learned"]] or list(tasks)
        made["timing"] = _timed(bench, timing.chosen(made, summary.POOLED), learned, batches)
    write(folder, made, plain)
    seconds = time.perf_counter() - begin
    note(f"wrote {folder / 'report.html'}, summary.json, rows.jsonl ({len(result.rows)} rows) after {seconds:.0f} s")


def draft_and_target(
    pools: Sequence[pairs.Pool], methods: Sequence[Choice], draft: Any, batches: Sequence[int], folder: pathlib.Path,
    head: rows.Line, then: Then = nothing, more: More = no_more,
) -> None:  # fmt: skip
    """An autoregressive model: rows of the table are methods, the chart is tokens per target forward of each task."""
    begin = time.perf_counter()
    contest = pairs.contest(max(pools, key=pairs.widest), methods, draft)
    for name, why in contest.skipped.items():
        note(f"left out: {name}: {why}")
    file, done = rows.open_for(folder / "rows.jsonl", head)
    with file:
        while pools:
            for new in (new for pooled in pools for new in pairs.run(pooled, contest, batches, done)):
                rows.append(file, new)
                done += new
                note(f"{len(done)} rows, {time.perf_counter() - begin:.0f} s")
            pools = then(done)
    lines = pairs.summarise(done)
    made = {
        "meta": {**head, "draft": draft and draft.name},
        "speculative": lines,
        "skipped": contest.skipped,
        **more(done),
    }
    (folder / "summary.json").write_text(summary.dump(made))
    (folder / "report.html").write_text(report.pairs_page(made))
    picture(folder / "tokens.svg", lambda: report.pairs_chart(made))
    for line in lines:
        note(f"{line['label']} at batch {line['batch']}: {line['equal']} of {line['n']} rows equal")
    note(f"wrote {folder / 'report.html'}, summary.json, rows.jsonl ({len(done)} rows)")


class Results:
    """Rows of this run, old and new, and what was left out."""

    def __init__(self, done: Sequence[rows.Line]) -> None:
        self.rows, self.skipped = list(done), dict[str, str]()
        self.ids: dict[Any, set[str]] = defaultdict(set)
        for row in done:
            self.ids[key_of(row)].add(row["id"])

    def add(self, new: Sequence[rows.Line], file: Any) -> None:
        rows.append(file, new)
        self.rows += new
        for row in new:
            self.ids[key_of(row)].add(row["id"])

    def leave_out(self, name: str, why: str) -> None:
        if name not in self.skipped:
            note(f"left out: {name}: {why}")
        self.skipped[name] = why


def key_of(row: rows.Line) -> tuple[str, str, str, str]:
    return row["policy"], run.canonical(row["settings"]), row["cache"], row["task"]


def _run_all(
    bench: run.Bench,
    methods: Sequence[Choice],
    caches: Sequence[Choice],
    tasks: Sequence[str],
    only_learned: bool,
    claimed: chosen.Chosen,
    file: Any,
    done: Any,
) -> Results:
    result = Results(done)
    at_once = 1 if claimed.claims else run.threads()  # a claim's seconds are its own
    _side_by_side(bench, [run.baseline(name) for name in tasks], result, file, at_once)
    if only_learned:
        tasks = [name for name in tasks if _accuracy(result.rows, name) >= bench.tasks[name].gate]
        note(f"{len(tasks)} tasks reach their gate: {', '.join(tasks) or 'none'}")
    if claimed.claims:
        result.skipped |= claimed.skipped
        _side_by_side(bench, chosen.units(claimed.claims, tasks), result, file, at_once)
        return result
    grid = run.grid(bench, methods, caches, tasks)
    result.skipped |= grid.skipped
    _side_by_side(bench, grid.units, result, file, at_once)
    return result


def _side_by_side(bench: run.Bench, units: Sequence[run.Unit], result: Results, file: Any, at_once: int) -> None:
    """Every unit, `at_once` at a time; rows are written in the order of the units, as by one after the other."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(_new_rows, bench, unit, frozenset(result.ids[unit.key])) for unit in units]
        try:
            for index, (unit, future) in enumerate(zip(units, waiting)):
                try:
                    result.add(future.result(), file)
                except InputError as error:
                    result.leave_out(f"{unit.policy} with {unit.cache}", str(error))
                if index % 20 == 19:
                    note(f"{index + 1} of {len(units)} settings, {time.perf_counter() - begin:.0f} s")
        finally:
            pool.shutdown(cancel_futures=True)


def _new_rows(bench: run.Bench, unit: run.Unit, skip: frozenset[str]) -> list[rows.Line]:
    return list(run.run(bench, unit, skip))


def _accuracy(lines: Sequence[rows.Line], name: str) -> float:
    right = [row["correct"] for row in lines if key_of(row) == run.baseline(name).key]
    return sum(right) / max(1, len(right))


def _timed(bench: run.Bench, units: Sequence[run.Unit], tasks: Sequence[str], batches: Sequence[int]) -> list[Any]:
    note(f"wall clock of {len(units)} settings at batch {', '.join(map(str, batches))}")
    return list(timing.measure(bench, units, tasks, batches))


def write(folder: pathlib.Path, made: dict[str, Any], lines: Sequence[rows.Line]) -> None:
    """summary.json, report.html and curves.svg."""
    made["bounds"] = bounds_of(made, lines)
    (folder / "summary.json").write_text(summary.dump(made))
    (folder / "report.html").write_text(report.page(made))
    picture(folder / "curves.svg", lambda: plots.overview(made, summary.POOLED, "tpf", report.TPF))


def picture(path: pathlib.Path, chart: Callable[[], plots.Spec]) -> None:
    """Writes a chart, or says what draws it where that is missing."""
    if plots.there():
        path.write_text(plots.svg(chart()))
    else:
        note(f"no charts, for which: {distribution.install('plot')}")


def bounds_of(made: dict[str, Any], lines: Sequence[rows.Line]) -> dict[str, Any]:
    """Task, or the pooled ones -> what an ideal model reaches on the baseline's rows, and its saving of forwards."""
    slow = [row for row in lines if key_of(row) == run.baseline(row["task"]).key]
    groups = {name: [row for row in slow if row["task"] == name] for name in dict.fromkeys(row["task"] for row in slow)}
    learned = [name for name, gate in made["gates"].items() if gate["learned"]]
    groups[summary.POOLED] = [row for row in slow if row["task"] in learned]
    bounds = {}
    for name, members in groups.items():
        reached = ideal.bound(members)
        if reached is not None:
            saved = sum(row["forwards"] for row in members) / len(members) / reached.forwards
            bounds[name] = {"points": reached.points, "forwards": reached.forwards, "speedup": saved}
    return bounds
