"""Decodes the benchmark under every setting and scores each row."""

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import _decode, layout, policies
from jaxdlm._load import EMBEDDED, load
from jaxdlm.core import reads
from jaxdlm.core.rule import Decoding, Rule
from jaxdlm.errors import InputError
from jaxdlm.eval import metrics, rows
from jaxdlm.eval.sweeps import Choice, Settings, Sweep, cache_sweep, canonical, sweep
from jaxdlm.eval.task import TASKS, Example, make
from jaxdlm.eval.tasks.base import WRONG, Score

SMALLEST_CANVAS, SMALLEST_BATCH = 16, 8
BASELINE = "low_confidence"  # one token per step, no cache: what every speed-up is measured against
CACHED = ("threshold", BASELINE)  # policies whose caches are swept unless others are asked for


class Unit(NamedTuple):
    """One policy with its settings and cache on one task."""

    policy: str
    settings: Settings
    cache: str
    cache_settings: Settings
    task: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.policy, canonical(self.settings), cache_label(self.cache, self.cache_settings), self.task


def cache_label(name: str, settings: Settings) -> str:
    return ",".join([name, *(f"{key}={value}" for key, value in settings.items())])


def cache_of(label: str) -> tuple[str, Settings]:
    """(name, settings) of a cache from what `cache_label` made of them."""
    name, *pairs = label.split(",")
    return name, {key: int(value) for key, value in (pair.split("=") for pair in pairs)}


def baseline(task: str) -> Unit:
    return Unit(BASELINE, {}, "none", {}, task)


class Grid(NamedTuple):
    """The settings to run, and those left out, with the reason."""

    units: list[Unit]
    skipped: dict[str, str]


def grid(bench: "Bench", chosen: Sequence[Choice], caches: Sequence[Choice], tasks: Sequence[str]) -> Grid:
    """Every setting of every policy, baseline first; a setting that cannot be built is left out with its reason."""
    units, skipped = [baseline(task) for task in tasks], {}
    by_default = all(choice.settings is None for choice in chosen) and len(chosen) == len(policies.RECIPES)
    for cache in caches:
        for choice in chosen:
            for task in tasks:
                columns = bench.geometry(task)[0]
                reason = refused(choice.name, cache.name)
                if reason and not (cache.name != "none" and by_default):
                    skipped[f"{choice.name} with {cache.name}"] = reason
                if reason or (cache.name != "none" and by_default and choice.name not in CACHED):
                    continue
                for settings in choice.settings or _swept(bench.sweep, choice.name, cache.name, columns):
                    for cache_settings in cache.settings or cache_sweep(cache.name, columns):
                        units.append(Unit(choice.name, settings, cache.name, cache_settings, task))
    return Grid(list({unit.key: unit for unit in units}.values()), skipped)


def _swept(sweep: Sweep, policy: str, cache: str, columns: int) -> list[Settings]:
    """The standard sweep; with a cache, whose own settings are swept, the defaults. The baseline runs once."""
    settings = sweep(policy, columns) if cache == "none" else [{}]
    return [s for s in settings if policy != BASELINE or s.get("steps") != columns]


def refused(policy: str, cache: str) -> str | None:
    """Why a policy cannot be built, or does not work with a cache; None where it can."""
    try:
        built = policies.RECIPES[policy]()
    except InputError as error:
        return str(error)
    if not isinstance(built, Rule):
        return "for autoregressive models"
    entry = next((entry for entry in policies.TABLE if entry.name == policy), None)
    if entry is not None and cache not in entry.caches:
        return f"works with {', '.join(entry.caches)}"
    return None


class Bench(NamedTuple):
    """The settings that stay the same over a run. canvas, block None: the task's canvas, at least 16 columns, and one block.
    stop: rows end with their text. tasks: where the names of `examples` are known. sweep: settings of a policy on a canvas."""

    lm: Any
    students: Mapping[str, Any]  # policy -> the model that was trained for it
    examples: Mapping[str, list[Example]]
    prompts: Mapping[str, list[int]]  # example id -> token ids
    canvas: int | None
    block: int | None
    seed: int
    batch: int
    stop: bool = True
    tasks: Mapping[str, Any] = TASKS
    sweep: Sweep = sweep

    def geometry(self, task: str) -> tuple[int, int]:
        columns = max(SMALLEST_CANVAS, self.tasks[task].canvas) if self.canvas is None else self.canvas
        return columns, min(columns, self.block or columns)

    def model(self, policy: str) -> Any:
        return self.students.get(policy, self.lm)


def bench(
    lm: Any,
    tasks: Sequence[str],
    *,
    n: int,
    split: str,
    seed: int,
    canvas: int | None,
    block: int | None,
    batch: int,
    stop: bool = True,
) -> Bench:
    """The examples of every task; a task whose answers do not fit the canvas is refused."""
    for task in tasks:
        if canvas is not None and canvas < TASKS[task].canvas:
            raise InputError(f"--max-new {canvas}: task {task!r} needs {TASKS[task].canvas} columns")
    if lm.tokenizer is None:
        raise InputError(f"model {lm.name!r} has no tokenizer: {lm.advice or 'the benchmark asks with text'}")
    examples = {task: make(task, n, split, seed) for task in tasks}
    prompts = {e.id: lm.tokenizer.encode_prompt(e.prompt) for each in examples.values() for e in each}
    return Bench(lm, students(lm), examples, prompts, canvas, block, seed, evenly(n, batch), stop)


def evenly(n: int, most: int) -> int:
    """Rows per batch where n rows go into as few batches of at most so many as they can, all of one size."""
    return -(-n // -(-n // most))


def students(lm: Any) -> dict[str, Any]:
    """Models that ship for one policy on this model: tiny-dparallel for dparallel on tiny."""
    names = {policy: f"{lm.name}-{policy}" for policy in policies.RECIPES}
    return {policy: load(name) for policy, name in names.items() if name in EMBEDDED}


def threads() -> int:
    """How many settings are decoded at once: one per core of a CPU, whose cores a small model cannot fill alone."""
    return rows.cores() if jax.default_backend() == "cpu" else 1


def rows_per_batch() -> int:
    """Rows decoded together: few on a CPU, so that activations stay in its caches and few rows wait for a slow one."""
    return 32 if jax.default_backend() == "cpu" else 64


class Stopwatch:
    """Wall seconds of a with block, those of tracing and compiling in this thread taken off."""

    PREFIX = "/jax/core/compile/"

    def __enter__(self) -> "Stopwatch":
        self.compiling, self._thread = 0.0, threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        self._wall = time.perf_counter()
        return self

    def _heard(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith(self.PREFIX) and threading.get_ident() == self._thread:
            self.compiling += seconds

    def __exit__(self, *_: Any) -> None:
        wall = time.perf_counter() - self._wall
        self.seconds = max(0.0, wall - self.compiling)
        jax.monitoring.unregister_event_duration_listener(self._heard)


def run(bench: Bench, unit: Unit, skip: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Rows of a unit; those in `skip` are left out.

    Batches have one size (the last one is filled up), so a unit adds no shape; answers of one length go together,
    because a batch runs until its slowest row ends, and among them prompts, because it is as wide as the longest. Where
    a forward holds several versions of a row, a batch holds fewer rows. Raises InputError where the policy does not
    work with the model.
    """
    order = lambda example: (len(example.answer.split()), len(bench.prompts[example.id]), example.id)  # noqa: E731
    examples = sorted(bench.examples[unit.task], key=order)
    examples = [example for example in examples if example.id not in skip]
    policy = policies.RECIPES[unit.policy](**unit.settings)
    size = max(min(SMALLEST_BATCH, bench.batch), bench.batch // policy.traits.versions)
    for first in range(0, len(examples), size):
        part = examples[first : first + size]
        filled = part + [part[-1]] * (size - len(part))
        yield from itertools.islice(_decoded(bench, unit, filled), len(part))


def decode(bench: Bench, unit: Unit, examples: Sequence[Example]) -> tuple[Any, Stopwatch]:
    """(Output, its time) of some examples as one batch."""
    columns, block = bench.geometry(unit.task)
    policy = policies.RECIPES[unit.policy](**unit.settings) if unit.settings else unit.policy
    cache = policies.CACHES[unit.cache](**unit.cache_settings)
    prompts, ids = [bench.prompts[e.id] for e in examples], [_number(e.id) for e in examples]
    with Stopwatch() as watch:
        out = _decode.decode(
            bench.model(unit.policy),
            prompts,
            policy=policy,
            cache=cache,
            max_new=columns,
            block=block,
            seed=bench.seed,
            ids=ids,
            stop=bench.stop,
        )
    return out, watch


def _decoded(bench: Bench, unit: Unit, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    out, watch = decode(bench, unit, examples)
    ends = bench.lm.config.tokens.eos
    counted = metrics.tokens_to_end(out.tokens, ends)
    cached, positions = _work(bench, unit, examples, out)
    for index, example in enumerate(examples):
        score = check(bench.lm, bench.tasks, example, out.tokens[index], out.text[index] if out.text else None)
        length = int(counted[index])
        yield {
            "kind": "row", "id": example.id, "task": example.task, "knobs": example.knobs, "template": example.template,
            "split": example.split, "model": bench.model(unit.policy).name, "policy": unit.policy, "settings": unit.settings,
            "cache": cache_label(unit.cache, unit.cache_settings), "seed": bench.seed, "prompt": example.prompt,
            "text": out.text[index] if out.text else None, "tokens": out.tokens[index, :length].tolist(),
            "answer": example.answer, "correct": score.correct, "strict": score.strict, "valid": score.valid,
            "n_tokens": length, "columns": out.tokens.shape[1], "forwards": int(out.forwards[index]),
            "forwards_cached": int(cached[index]), "draft_forwards": 0, "positions": int(positions[index]),
            "commit_step": out.commit_step[index, :length].tolist(), "status": str(out.status[index]),
            "seconds": round(watch.seconds / len(examples), 7), "batch": len(examples),
            **({"marks": dict(score.marks)} if score.marks else {}),
        }  # fmt: skip


def check(lm: Any, tasks: Mapping[str, Any], example: Example, tokens: np.ndarray, text: str | None) -> Score:
    """The task's judgement; by ids where model and task speak the benchmark's vocabulary, else by text. Never raises."""
    task = tasks[example.task]
    own = lm.tokenizer is not None and lm.tokenizer.closed and task.reads_ids
    try:
        return task.check(example, tokens.tolist() if own else (text or ""))
    except (InputError, ValueError, KeyError, IndexError):
        return WRONG


def _work(bench: Bench, unit: Unit, examples: Sequence[Example], out: Any) -> tuple[np.ndarray, np.ndarray]:
    """(forwards that were cached, token positions), per row."""
    cache = policies.CACHES[unit.cache](**unit.cache_settings)
    policy = policies.RECIPES[unit.policy](**unit.settings)
    full, part = _positions(bench, unit, max((bench.prompts[e.id] for e in examples), key=len))
    cached = reads.forwards_cached(cache, out.commit_step, out.forwards, bench.geometry(unit.task)[1])
    positions = (out.forwards - cached) * full + cached * part
    return cached, positions * (2 if policy.traits.uncond else 1)


def _positions(bench: Bench, unit: Unit, longest: list[int]) -> tuple[int, int]:
    """Token positions of a full and of a cached forward of one row, all its versions together."""
    columns, block = bench.geometry(unit.task)
    lm, policy = bench.model(unit.policy), policies.RECIPES[unit.policy](**unit.settings)
    cache = policies.CACHES[unit.cache](**unit.cache_settings)
    if cache.recomputes_all:
        length = layout.geometry_of(lm.config, np.array([len(longest)]), columns, block).length * policy.traits.versions
        length += block if policy.traits.blind else 0  # the shadow
        return length, length
    batch = layout.lay_out(lm, [longest], max_new=columns, block=block, seed=0, ids=None)
    full, part = reads.both(Decoding(lm.model, lm.params, policy, cache, batch.geometry), batch.rows)
    return full.widest, part.widest


def _number(name: str) -> int:
    """32 bits of an example's id: the key of its row's randomness, wherever and whenever it is decoded."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
