"""`jaxdlm eval`: policies, caches and tasks as words into a run on the embedded benchmark, or on prompts."""

import pathlib
from collections.abc import Mapping
from typing import Any

import click

from jaxdlm import argument, command
from jaxdlm.command import COUNT, PLACE, Command, flag, option, section
from jaxdlm.errors import InputError

LEARNED = "learned"
PROMPTS = "prompts"  # a set that has no answers
DECISIONS = "decisions"  # labelled rows of questions: nothing is decoded
N = 200
SWEEP = "NAME[,key=value...],..."


@click.command(cls=Command)
@section(
    "What is compared",
    command.model,
    option("--dtype", metavar="T", show_default="as stored", help="float32, bfloat16 or float16: of the weights"),
    option("--draft", metavar="M", show_default="tiny-draft for tiny-ar", help="draft of an autoregressive --model"),
    option("--policies", default="all", metavar=SWEEP, help="methods, each over its standard sweep; key=[1,2] is one"),
    option("--cache", show_default="none", metavar=SWEEP, help="caches to sweep; all is every one"),
    command.max_new("the task's canvas"),
    command.block("one block"),
    command.no_stop,
    command.seed,
)
@section(
    "On what",
    option(
        "--tasks",
        metavar="T,...",
        show_default=f"{LEARNED}; {PROMPTS} for an autoregressive model of open text",
        help=f"tasks, all, {LEARNED}: those that reach their gate at one token per forward, {PROMPTS}: 80 in ten kinds, "
        f"or {DECISIONS}: 200 labelled questions",
    ),
    option(
        "--labelled",
        metavar="FILE",
        help=f"with --tasks {DECISIONS}: rows as of jaxdlm decide --calibrate, in place of ours",
    ),
    option(
        "--suite",
        metavar="NAME",
        help="a published benchmark from your own files, in place of --tasks of ours; docs/evaluation.md",
    ),
    option("--data", metavar="DIR", help="with --suite: the folder of its files"),
    option("--limit", type=COUNT, metavar="N", help="with --suite: questions per task at most"),
    option("--shots", type=PLACE, metavar="N", help="with --suite: worked examples before each question"),
    option("--n", type=COUNT, show_default=f"{N}; 8 prompts", metavar="N", help="held-out examples per task or kind"),
    option(
        "--split",
        type=click.Choice(("test", "validation")),
        show_default="test",
        help="choose a setting on validation, claim it on test",
    ),
    option("--chosen", metavar="DIR", help="a validation run: decode its fastest settings without loss, and no others"),
    flag("--run-code", help="allow the task code, which runs what the model wrote in a sandboxed process"),
)
@section(
    "Run",
    option("--output", required=True, metavar="DIR", help="folder for rows.jsonl, summary.json, report.html, curves.svg"),
    option("--batch", type=COUNT, metavar="B", help="rows per batch at most; by default 32 on a CPU, else 64"),
    option("--timing", metavar="B,...", help="batch sizes of the wall-clock table, or none; by default 1 and the run's"),
)  # fmt: skip
def evaluate(
    model: str, dtype: str | None, draft: str | None, policies: str, cache: str | None, max_new: int | None,
    block: int | None, no_stop: bool, seed: int, tasks: str | None, n: int | None, split: str | None, chosen: str | None,
    labelled: str | None, run_code: bool, output: str, batch: int | None, timing: str | None, **of_suite: Any,
) -> None:  # fmt: skip
    """Decode the embedded benchmark, or prompts, under many policies and settings; a run goes on where it stopped."""
    import jaxdlm as jd
    from jaxdlm.eval import chosen as settled
    from jaxdlm.eval import evaluate as job
    from jaxdlm.eval import pairs, prompts, rows, run
    from jaxdlm.eval.sweeps import choices

    if of_suite["suite"] is not None:
        unused = {"--n": n, "--split": split, "--chosen": chosen, "--labelled": labelled}
        kept = {"seed": seed, "canvas": max_new, "block": block, "stop": not no_stop}
        return _suite(
            model, dtype, draft, policies, cache, tasks, run_code, output, batch, timing, kept, unused, **of_suite
        )
    _unused("without --suite", {f"--{name}": value for name, value in of_suite.items()})
    if tasks is not None and tasks.strip() == DECISIONS:
        unused = {"--draft": draft, "--policies": None if policies == "all" else policies, "--cache": cache, "--max-new": max_new,
                  "--block": block, "--no-stop": no_stop or None, "--split": split, "--chosen": chosen,
                  "--run-code": run_code or None, "--timing": timing}  # fmt: skip
        _unused(f"with --tasks {DECISIONS}, where nothing is decoded", unused)
        return _decisions(model, dtype, labelled, n, seed, batch, output)
    _unused(f"without --tasks {DECISIONS}", {"--labelled": labelled})
    methods = choices(policies, jd.policies.RECIPES, "policy")
    caches = choices(cache or ("none" if chosen is None else "all"), jd.policies.CACHES, "cache")
    names = None if tasks is None else read_tasks(tasks, run_code)
    sizes = None if timing is None else read_batches(timing)
    claimed = settled.NOTHING if chosen is None else settled.read(chosen, methods, caches)
    folder = _folder(output)
    lm = jd.load(model, dtype=dtype)
    causal, at_once = lm.config.tokens.mask is None, batch or run.rows_per_batch()
    if draft is not None:
        pairs.refuse_masked(lm)
    if causal:
        _unused(f"for {model}, which is autoregressive", {"--chosen": chosen, "--cache": cache, "--block": block})
    open_text = lm.tokenizer is not None and not lm.tokenizer.closed
    names = names or read_tasks(PROMPTS if causal and open_text else LEARNED, run_code)
    fixed: dict[str, Any] = {"seed": seed, "block": block, "stop": not no_stop}
    if names == [PROMPTS]:
        _unused(f"with --tasks {PROMPTS}", {"--split": split})
        if not causal:
            raise InputError(f"--tasks {PROMPTS} has no answers to check, and {model} needs them: name other tasks")
        columns = pairs.COLUMNS if max_new is None else max_new
        pooled = pairs.pool_of_prompts(lm, n or prompts.EACH, columns, seed, not no_stop)
        even, split = run.evenly(len(pooled.questions), at_once), PROMPTS
        fixed |= {"canvas": columns, "mixture": PROMPTS}
    else:
        split, fixed = split or "test", {**fixed, "canvas": max_new}
        bench = run.bench(lm, names, n=n or N, split=split, batch=at_once, **fixed)
        even = bench.batch
        if causal:
            pooled = pairs.pool(bench, names)
    sizes = list(dict.fromkeys([1, even] if sizes is None else sizes))
    head = rows.meta(lm, split=split, **fixed)
    if causal:
        return job.draft_and_target([pooled], methods, pairs.draft_of(lm, draft, dtype), sizes or [1], folder, head)
    _same_model(chosen, claimed.model_hash, head["model_hash"], model)
    job.masked(bench, methods, caches, names, tasks in (None, LEARNED), sizes, folder, head, claimed)


def _same_model(chosen: str | None, asked: str, here: str, model: str) -> None:
    if chosen is not None and asked != here:
        raise InputError(f"--chosen {chosen} asked another model than {model}: choose settings on the same one")


def _decisions(
    model: str, dtype: str | None, labelled: str | None, n: int | None, seed: int, batch: int | None, output: str
) -> None:
    import jaxdlm as jd
    from jaxdlm.eval import decisions, rows

    asked, folder = decisions.read(labelled, n), _folder(output)
    lm = jd.load(model, dtype=dtype)
    decisions.check(lm, labelled)
    mixture = f"{DECISIONS} {asked.digest}"
    head = rows.meta(lm, split=mixture, seed=seed, canvas=None, block=None, mixture=mixture)
    decisions.evaluate(lm, asked, {"seed": seed, "batch": batch or 16}, folder, head)


def _suite(
    model: str, dtype: str | None, draft: str | None, policies: str, cache: str | None, tasks: str | None, run_code: bool,
    output: str, batch: int | None, timing: str | None, fixed: dict[str, Any], unused: Mapping[str, Any],
    suite: str, data: str | None, limit: int | None, shots: int | None,
) -> None:  # fmt: skip
    import jaxdlm as jd
    from jaxdlm.eval import pairs, run
    from jaxdlm.eval import suite as suites
    from jaxdlm.eval.suites._base import Request
    from jaxdlm.eval.sweeps import choices

    _unused(f"with --suite {suite}", unused)
    if data is None:
        raise InputError(f"--suite {suite} reads your own files: give their folder with --data DIR")
    words = None if tasks is None else tuple(name.strip() for name in tasks.split(",") if name.strip())
    request = Request(argument.path(data, "--data"), words, limit, shots)
    known, reading = suites.read(suite, request, run_code)
    caches = choices(cache or "none", jd.policies.CACHES, "cache")
    choices(policies, jd.policies.RECIPES, "policy")
    batches, folder = None if timing is None else read_batches(timing), _folder(output)
    lm = jd.load(model, dtype=dtype)
    if draft is not None:
        pairs.refuse_masked(lm)
    causal = lm.config.tokens.mask is None
    if causal:
        _unused(f"for {model}, which is autoregressive", {"--cache": cache, "--block": fixed["block"]})
    methods = choices(known.methods if policies == "all" and not causal else policies, jd.policies.RECIPES, "policy")
    drafted = pairs.draft_of(lm, draft, dtype) if causal else None
    at_once = batch or run.rows_per_batch()
    suites.job(lm, known, request, reading, methods, caches, drafted, fixed, at_once, batches, folder)


def _folder(output: str) -> pathlib.Path:
    folder = argument.path(output, "--output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error
    return folder


def _unused(why: str, options: Mapping[str, Any]) -> None:
    for name in (name for name, value in options.items() if value is not None):
        raise InputError(f"{name} means nothing {why}: leave it out")


def read_tasks(words: str, run_code: bool) -> list[str]:
    """Names of --tasks. Raises InputError for an unknown one, and for `code` without --run-code."""
    from jaxdlm.eval.task import LEARNABLE, TASKS, task

    if words.strip() == PROMPTS:
        return [PROMPTS]
    if words == LEARNED:
        return list(LEARNABLE)
    names = [name.strip() for name in words.split(",") if name.strip()]
    names = [each for name in names for each in (TASKS if name == "all" else [name])]
    for name in names:
        if name in (PROMPTS, DECISIONS):
            raise InputError(f"--tasks {name} stands alone: leave the others out")
        if task(name).family.runs_code and not run_code and words != "all":
            raise InputError(
                f"task {name!r} runs what the model wrote, in a sandboxed process: allow it with --run-code"
            )
    names = [name for name in names if run_code or not TASKS[name].family.runs_code]
    if not names:
        raise InputError("--tasks names no task")
    return list(dict.fromkeys(names))


def read_batches(words: str) -> list[int]:
    """Batch sizes of --timing; [] for `none`."""
    if words == "none":
        return []
    try:
        return [argument.whole(1)(int(word), "a size") for word in words.split(",")]
    except ValueError:
        raise InputError(f"--timing {argument.shown(words)}: batch sizes such as 1,32, or none") from None
