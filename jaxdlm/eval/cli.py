"""`jaxdlm eval`: rows.jsonl, summary.json, report.html and curves.svg of policies on the embedded benchmark."""

import argparse
import json
import pathlib
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from jaxdlm import policies
from jaxdlm.errors import InputError
from jaxdlm.eval import ideal, pairs, report, rows, run, summary, svg, timing
from jaxdlm.eval.sweeps import Choice, choices
from jaxdlm.eval.task import TASKS, task

MODEL_TASKS = tuple(name for name in TASKS if name not in ("gsm", "code", "text"))  # what the embedded models saw
LEARNED = "learned"
DRAFT = "tiny-draft"


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `jaxdlm`."""
    command = commands.add_parser(
        "eval",
        help="accuracy against speed of policies",
        description="Decodes the embedded benchmark under many policies and settings; goes on where a run stopped.",
    )
    add = command.add_argument
    add("--model", default="tiny", help="embedded name, folder or Hub id (default: tiny)")
    add(
        "--policies",
        default="all",
        metavar="A,B[,key=value...],...",
        help="methods; key=[1,2] is a sweep (default: all, each over its standard sweep)",
    )
    add(
        "--tasks",
        default=LEARNED,
        metavar="T,...",
        help="tasks, `all`, or `learned`: those that reach their gate at one token per forward (default)",
    )
    add(
        "--cache",
        default="none",
        metavar="C[,key=value...],...",
        help="caches to sweep; `all` is every one (default: none)",
    )
    add("--n", type=int, default=200, metavar="N", help="held-out examples per task (default: 200)")
    add(
        "--split",
        default="test",
        choices=("test", "validation"),
        help="choose a setting on validation, claim it on test (default: test)",
    )
    add("--seed", type=int, default=0, metavar="S", help="seed of examples and of all randomness (default: 0)")
    add("--max-new", type=int, metavar="G", help="columns to generate (default: the task's canvas)")
    add("--block", type=int, metavar="K", help="block length (default: one block)")
    add("--batch", type=int, default=64, metavar="B", help="rows per batch at most (default: 64)")
    add(
        "--timing",
        default="1,32",
        metavar="B,...",
        help="batch sizes of the wall-clock table, or `none` (default: 1,32)",
    )
    add("--draft", metavar="D", help="draft of an autoregressive --model (default there: tiny-draft)")
    add(
        "--chosen", metavar="DIR", help="folder of a validation run: its fastest settings without loss are claimed here"
    )
    add(
        "--run-code",
        action="store_true",
        help="allow the task `code`, which runs what the model wrote in a sandboxed process",
    )
    add("--output", required=True, metavar="DIR", help="folder for rows.jsonl, summary.json, report.html, curves.svg")
    command.set_defaults(run=evaluate)


def evaluate(args: argparse.Namespace) -> int:
    """The `eval` command."""
    chosen = choices(args.policies, policies.RECIPES, "policy")
    caches = choices(args.cache, policies.CACHES, "cache")
    tasks, batches = read_tasks(args.tasks, args.run_code), read_batches(args.timing)
    for name, value in (("--n", args.n), ("--batch", args.batch)):
        if value < 1:
            raise InputError(f"{name} {value}: at least 1")
    claims = read_claims(args.chosen)
    folder = pathlib.Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error

    import jaxdlm as jd

    lm = jd.load(args.model)
    bench = run.bench(
        lm, tasks, n=args.n, split=args.split, seed=args.seed, canvas=args.max_new, block=args.block, batch=args.batch
    )
    head = rows.meta(lm, split=args.split, seed=args.seed, canvas=args.max_new, block=args.block)
    if args.draft is not None:
        pairs.refuse_masked(lm)
    if lm.config.tokens.mask is None:
        return _evaluate_pairs(bench, chosen, tasks, args.draft or DRAFT, batches or [1], folder, head)
    file, done = rows.open_for(folder / "rows.jsonl", head)
    with file:
        found = _run_all(bench, chosen, caches, tasks, args.tasks == LEARNED, file, done)
    made = summary.summarise(head, found.rows, claims, skipped=found.skipped)
    if batches:
        learned = [name for name, gate in made["gates"].items() if gate["learned"]] or list(tasks)
        made["timing"] = _timed(bench, timing.chosen(made, summary.POOLED), learned, batches)
    write(folder, made, found.rows)
    _say(f"wrote {folder / 'report.html'}, summary.json, rows.jsonl ({len(found.rows)} rows)")
    return 0


def _evaluate_pairs(
    bench: run.Bench, chosen: Sequence[Choice], tasks: Sequence[str], draft: str, batches: Sequence[int], folder: Any,
    head: rows.Line,
) -> int:  # fmt: skip
    """An autoregressive model: rows of the table are methods, no curves."""
    pooled, found = pairs.pool(bench, tasks), pairs.methods(chosen, draft)
    lines = []
    for line in pairs.measure(pooled, found, batches, max(batches)):
        lines.append(line)
        _say(f"{line['label']} at batch {line['batch']}: {line['equal']} of {line['n']} rows equal")
    made = {"meta": {**head, "draft": draft}, "speculative": lines}
    (folder / "summary.json").write_text(summary.dump(made))
    (folder / "report.html").write_text(report.pairs_page(made))
    _say(f"wrote {folder / 'report.html'}, summary.json")
    return 0


def read_claims(folder: str | None) -> dict[tuple[str, str], dict[str, Any]]:
    """(policy, cache) -> the setting that a validation run found fastest without loss on the learned tasks."""
    if folder is None:
        return {}
    path = pathlib.Path(folder) / "summary.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"--chosen {folder}: {path} cannot be read; give the --output of a validation run") from error
    if found["meta"]["split"] != "validation":
        raise InputError(f"--chosen {folder} ran on the {found['meta']['split']} split: choose settings on validation")
    pooled = [c for c in found["curves"] if c["task"] == summary.POOLED and c["no_loss"]]
    return {(c["policy"], c["cache"]): c["no_loss"] for c in pooled}


class Found:
    """Rows of this run, old and new, and what was left out."""

    def __init__(self, done: Sequence[rows.Line]) -> None:
        self.rows, self.skipped = list(done), dict[str, str]()
        self.ids: dict[Any, set[str]] = defaultdict(set)
        for row in done:
            self.ids[key_of(row)].add(row["id"])


def key_of(row: rows.Line) -> tuple[str, str, str, str]:
    return row["policy"], run.canonical(row["settings"]), row["cache"], row["task"]


def _run_all(
    bench: run.Bench,
    chosen: Sequence[Choice],
    caches: Sequence[Choice],
    tasks: Sequence[str],
    only_learned: bool,
    file: Any,
    done: Any,
) -> Found:
    found, begin = Found(done), time.perf_counter()
    for name in tasks:
        _run_unit(bench, run.baseline(name), found, file)
    if only_learned:
        tasks = [name for name in tasks if _accuracy(found.rows, name) >= TASKS[name].gate]
        _say(f"{len(tasks)} tasks reach their gate: {', '.join(tasks) or 'none'}")
    grid = run.grid(chosen, caches, tasks, bench.canvas)
    found.skipped |= grid.skipped
    broken: set[str] = set()
    for index, unit in enumerate(grid.units):
        name = f"{unit.policy} with {unit.cache}"
        if name in broken:
            continue
        try:
            _run_unit(bench, unit, found, file)
        except InputError as error:
            broken.add(name)
            found.skipped[name] = str(error)
            _say(f"left out: {name}: {error}")
        if index % 20 == 19:
            _say(f"{index + 1} of {len(grid.units)} settings, {time.perf_counter() - begin:.0f} s")
    return found


def _run_unit(bench: run.Bench, unit: run.Unit, found: Found, file: Any) -> None:
    have = found.ids[unit.key]
    new = list(run.run(bench, unit, frozenset(have)))
    rows.append(file, new)
    found.rows += new
    have.update(row["id"] for row in new)


def _accuracy(found: Sequence[rows.Line], name: str) -> float:
    right = [row["correct"] for row in found if key_of(row) == run.baseline(name).key]
    return sum(right) / max(1, len(right))


def _timed(bench: run.Bench, units: Sequence[run.Unit], tasks: Sequence[str], batches: Sequence[int]) -> list[Any]:
    _say(f"wall clock of {len(units)} settings at batch {', '.join(map(str, batches))}")
    return list(timing.measure(bench, units, tasks, batches))


def write(folder: pathlib.Path, made: dict[str, Any], found: Sequence[rows.Line]) -> None:
    """summary.json, report.html and curves.svg."""
    made["bounds"] = bounds_of(made, found)
    (folder / "summary.json").write_text(summary.dump(made))
    (folder / "report.html").write_text(report.page(made))
    names = report.policies_of(made)
    (folder / "curves.svg").write_text(svg.chart(report.tpf_chart(made, summary.POOLED, names), names, legend=True))


def bounds_of(made: dict[str, Any], found: Sequence[rows.Line]) -> dict[str, Any]:
    """Task, or the pooled ones -> what an ideal model reaches on the baseline's rows, and its saving of forwards."""
    slow = [row for row in found if key_of(row) == run.baseline(row["task"]).key]
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


def read_tasks(words: str, run_code: bool) -> list[str]:
    """Names of --tasks. Raises InputError for an unknown one, and for `code` without --run-code."""
    if words == LEARNED:
        return list(MODEL_TASKS)
    names = [name.strip() for name in words.split(",") if name.strip()]
    names = [each for name in names for each in (TASKS if name == "all" else [name])]
    for name in names:
        task(name)
    if "code" in names and not run_code:
        if words == "all":
            names.remove("code")
        else:
            raise InputError("task 'code' runs what the model wrote, in a sandboxed process: allow it with --run-code")
    if not names:
        raise InputError("--tasks names no task")
    return list(dict.fromkeys(names))


def read_batches(words: str) -> list[int]:
    """Batch sizes of --timing; [] for `none`."""
    if words == "none":
        return []
    try:
        sizes = [int(word) for word in words.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise InputError(f"--timing {words!r}: batch sizes such as 1,32, or none")
    return sizes


def _say(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)
