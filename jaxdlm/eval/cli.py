"""`jaxdlm eval`: policies, caches and tasks as words into a run on the embedded benchmark."""

import click

from jaxdlm import argument, command
from jaxdlm.command import COUNT, Command, flag, option, section
from jaxdlm.errors import InputError

LEARNED = "learned"
UNSEEN = ("gsm", "code", "text")  # the embedded models are trained on every other task
DRAFT = "tiny-draft"
SWEEP = "NAME[,key=value...],..."


@click.command(cls=Command)
@section(
    "What is compared",
    command.model,
    option("--draft", metavar="M", show_default=DRAFT, help="draft of an autoregressive --model"),
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
        default=LEARNED,
        metavar="T,...",
        help="tasks, all, or those that reach their gate at one token per forward",
    ),
    option("--n", type=COUNT, default=200, metavar="N", help="held-out examples per task"),
    option(
        "--split",
        type=click.Choice(("test", "validation")),
        default="test",
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
    model: str, draft: str | None, policies: str, cache: str | None, max_new: int | None, block: int | None,
    no_stop: bool, seed: int, tasks: str, n: int, split: str, chosen: str | None, run_code: bool, output: str,
    batch: int | None, timing: str | None,
) -> None:  # fmt: skip
    """Decode the embedded benchmark under many policies and settings; a run goes on where it stopped."""
    import jaxdlm as jd
    from jaxdlm.eval import chosen as settled
    from jaxdlm.eval import evaluate as job
    from jaxdlm.eval import pairs, rows, run
    from jaxdlm.eval.sweeps import choices

    methods = choices(policies, jd.policies.RECIPES, "policy")
    caches = choices(cache or ("none" if chosen is None else "all"), jd.policies.CACHES, "cache")
    names, batches = read_tasks(tasks, run_code), None if timing is None else read_batches(timing)
    claimed = settled.NOTHING if chosen is None else settled.read(chosen, methods, caches)
    folder = argument.path(output, "--output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error
    lm = jd.load(model)
    at_once = batch or run.rows_per_batch()
    stop = not no_stop
    bench = run.bench(lm, names, n=n, split=split, seed=seed, canvas=max_new, block=block, batch=at_once, stop=stop)
    batches = list(dict.fromkeys([1, bench.batch])) if batches is None else batches
    head = rows.meta(lm, split=split, seed=seed, canvas=max_new, block=block, stop=stop)
    if draft is not None:
        pairs.refuse_masked(lm)
    if lm.config.tokens.mask is None:
        unused = {"--chosen": chosen, "--cache": cache, "--block": block}
        for name in (name for name, value in unused.items() if value is not None):
            raise InputError(f"{name} means nothing for {model}, which is autoregressive: leave it out")
        job.draft_and_target(bench, methods, names, draft or DRAFT, batches or [1], folder, head)
    else:
        if chosen is not None and claimed.model_hash != head["model_hash"]:
            raise InputError(f"--chosen {chosen} asked another model than {model}: choose settings on the same one")
        job.masked(bench, methods, caches, names, tasks == LEARNED, batches, folder, head, claimed)


def read_tasks(words: str, run_code: bool) -> list[str]:
    """Names of --tasks. Raises InputError for an unknown one, and for `code` without --run-code."""
    from jaxdlm.eval.task import TASKS, task

    if words == LEARNED:
        return [name for name in TASKS if name not in UNSEEN]
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
        return [argument.whole(1)(int(word), "a size") for word in words.split(",")]
    except ValueError:
        raise InputError(f"--timing {argument.shown(words)}: batch sizes such as 1,32, or none") from None
