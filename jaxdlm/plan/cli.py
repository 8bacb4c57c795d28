"""`jaxdlm plan`: fit, time and money of a decode on a TPU slice, as a table or as JSON."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from jaxdlm import argument, command
from jaxdlm.command import AMOUNT, COUNT, PRICE, Command, flag, json_flag, option, section
from jaxdlm.errors import InputError

if TYPE_CHECKING:
    from jaxdlm.plan.aot import Job
    from jaxdlm.plan.search import Largest, Trial

GIB, MIB = 2**30, 2**20


@click.command(cls=Command)
@section(
    "Job",
    option(
        "--model",
        required=True,
        metavar="M",
        help="a released size, as llada-8b; a name that loads; a folder; or a GGUF file",
    ),
    command.policy,
    command.cache,
    option("--batch", type=COUNT, metavar="B", show_default="8 per copy of the weights", help="rows at once"),
    option("--length", type=COUNT, default=512, metavar="L", help="columns of prompt and answer"),
    command.max_new("half of --length"),
    command.block("that of decode"),
    option("--dtype", default="bfloat16", metavar="T", help="of the weights, and of a draft's"),
)
@section(
    "Slice",
    option("--topology", required=True, metavar="T", help="as v5e:2x4, v5p:2x2x1, v6e:16x16, tpu7x:2x2x1"),
    option("--mesh", metavar="data=D,tensor=T", show_default="as few chips per copy as fit", help="how it is divided"),
    flag("--no-search", help="do not look for the largest batch"),
)
@section(
    "Time and money",
    option("--tokens-per-forward", type=AMOUNT, default=1.0, metavar="X", help="per row, as measured"),
    option("--tokens", type=AMOUNT, default=1e6, metavar="N", help="size of the job"),
    option("--price", type=PRICE, metavar="P", help="money per chip-hour"),
)
@section(
    "Output",
    option("--hlo", metavar="FILE", help="write the compiled program here"),
    flag("--explain", help="say which implementation of each part runs, and why not the others"),
    json_flag("one JSON object on stdout"),
)
def plan(
    model: str, policy: str | None, cache: str, batch: int | None, length: int, max_new: int | None, block: int | None,
    dtype: str, topology: str, mesh: str | None, no_search: bool, tokens_per_forward: float, tokens: float, price: float | None,
    hlo: str | None, explain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compile the whole decode for a TPU slice (no TPU needed) and say what it needs and costs."""
    from jaxdlm.models.explain import listening
    from jaxdlm.plan.aot import Compiled, configured, prepare
    from jaxdlm.plan.chips import chip_of
    from jaxdlm.plan.search import PROBES, choose, largest_batch, meshes, on_mesh, read_mesh, slice_mesh
    from jaxdlm.policies import default

    chip = chip_of(topology)
    policy = default(configured(model, None)) if policy is None else policy
    job = read_job(model, policy, cache, batch, length, max_new, block, dtype)
    columns = job.columns[1]
    if tokens_per_forward > columns:
        what = "a draft and one token" if job.autoregressive else "a block"
        raise InputError(f"--tokens-per-forward {tokens_per_forward}: a forward commits at most {what}, {columns}")
    axes = read_mesh(mesh, topology) if mesh else None
    prepare()

    with listening() as lines:
        if axes is None:
            best = choose(job, meshes(topology, batch), batch, chip.hbm, command.note)
        else:
            best = on_mesh(job, slice_mesh(topology, axes), batch, chip.hbm, command.note)
    for line in lines if explain else ():
        command.note(line)
    command.note(verdict(best, chip.hbm))
    if not no_search:
        command.note(f"searching the largest batch: at most {PROBES} more compilations; --no-search leaves it out")
    largest = None if no_search else largest_batch(best, chip.hbm, command.note)
    rates = {"tokens_per_forward": tokens_per_forward, "tokens": tokens, "price": price}
    result = summary(topology, policy, best, largest, rates)
    if hlo and isinstance(best.outcome, Compiled):
        with open(hlo, "w") as file:
            file.write(best.outcome.text)
    if as_json:
        print(json.dumps(result))
    else:
        show(result)


def verdict(best: "Trial", limit: int) -> str:
    """Whether the job fits, in one line, before anything else is worked out."""
    from jaxdlm.plan.aot import Compiled

    if isinstance(best.outcome, Compiled):
        word, total = "fits" if best.fits else "does not fit", best.outcome.memory.total
        return f"{word}: {total / GIB:.2f} of {limit / GIB:.2f} GiB per chip, compiled in {best.outcome.seconds:.0f} s"
    return f"does not fit into {limit / GIB:.2f} GiB per chip"


def read_job(
    model: str, policy: str, cache: str, batch: int | None, length: int, max_new: int | None, block: int | None, dtype: str
) -> "Job":  # fmt: skip
    """Checks the arguments; raises InputError, one line each."""
    from jaxdlm import resolve
    from jaxdlm.models.config import DTYPES
    from jaxdlm.plan.aot import Job
    from jaxdlm.policies import read

    max_new = length // 2 if max_new is None else max_new
    if not 0 < max_new < length:
        raise InputError(f"--max-new {max_new}: must lie between 1 and --length {length} less one prompt column")
    if length > 2**20:
        raise InputError(f"--length {length}: no released model reads more than {2**20} columns")
    argument.check_choice(dtype, "--dtype", DTYPES)
    method = read(policy)
    if not resolve.has_blocks(method):
        resolve.check_continuation(resolve.resolve_cache(cache), block)
    return Job(
        model=model, batch=batch or 1, prompt=length - max_new, max_new=max_new, block=block, policy=method, cache=cache,
        dtype=dtype,
    )  # fmt: skip


def summary(
    topology: str, policy: str, best: "Trial", largest: "Largest | None", rates: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is known about the job, as plain values. rates: tokens per forward, tokens, price."""
    from jaxdlm.plan.aot import Compiled, weights_per_chip
    from jaxdlm.plan.chips import chip_of

    job, chip, (prompt, columns) = best.job, chip_of(topology), best.job.columns
    result: dict[str, Any] = {
        "model": job.lm.name,
        "topology": topology,
        "chips": best.mesh.size // chip.devices,
        "mesh": dict(best.mesh.shape),
        "batch": job.batch,
        "prompt": prompt,
        "max_new": job.max_new,
        "block": None if job.autoregressive else columns,
        "policy": policy,
        "cache": None if job.autoregressive else job.cache,
        "dtype": job.dtype,
        "command": command_line(topology, policy, best),
        "fits": best.fits,
        "bytes_available": chip.hbm,
        "largest_batch": None if largest is None else dataclasses.asdict(largest),
    }
    if not isinstance(best.outcome, Compiled):
        needed = {"weights": weights_per_chip(job, best.mesh), "total": best.outcome.needed}
        return result | {"bytes": needed}
    memory = best.outcome.memory
    result["bytes"] = dataclasses.asdict(memory) | {"total": memory.total}
    result["compile_seconds"] = best.outcome.seconds
    return result | speed(topology, rates, best, best.outcome.text)


def command_line(topology: str, policy: str, best: "Trial") -> str | None:
    """The job as `jaxdlm batch` runs it on each host; None where a copy of the weights spans hosts, which it never does.

    A released size stands as random weights of it: in its place goes the folder or the Hub id of the real ones.
    """
    import shlex

    from jaxdlm._load import SHAPE
    from jaxdlm.models.registry import RELEASED
    from jaxdlm.plan.chips import host_devices
    from jaxdlm.plan.search import groups
    from jaxdlm.policy_words import split

    job, sizes = best.job, dict(best.mesh.shape)
    copy, chips = best.mesh.size // sizes["data"], host_devices(topology)
    if chips % copy:
        return None

    def loadable(name: str) -> str:
        name = name.removeprefix(SHAPE)
        return f"{SHAPE}{name}:{job.dtype}" if name in RELEASED else name

    parts = split(policy)
    drafts = [f"draft={loadable(part.partition('=')[2])}" if part.startswith("draft=") else part for part in parts]
    words = {
        "--model": loadable(job.lm.name), "--policy": ",".join(drafts),
        "--max-new": str(job.max_new), "--slots": str(job.batch // groups(best.mesh)),
        "--mesh": ",".join(f"{axis}={size}" for axis, size in (sizes | {"data": chips // copy}).items()),
    }  # fmt: skip
    if not job.autoregressive:
        words |= {"--cache": str(job.cache), "--block": str(job.columns[1])}
    rest = shlex.join(word for pair in words.items() for word in pair)
    return f"jaxdlm batch INPUT --output DIR {rest}" + (" --distributed" if chips < best.mesh.size else "")


def speed(topology: str, rates: dict[str, Any], best: "Trial", text: str) -> dict[str, Any]:
    """Collectives, times and cost of a job that fits; text: its program."""
    from jaxdlm.plan import collectives, cost
    from jaxdlm.plan.chips import chip_of

    job, chip = best.job, chip_of(topology)
    kinds = cost.kinds(job, rates["tokens_per_forward"])
    counted = {kind: collectives.count(text, int(kind != "other")) for kind in kinds}  # arms of the cache's condition
    worked = {kind: cost.work(job, best.mesh, refresh=kind != "other") for kind in kinds}
    times = {kind: cost.time(worked[kind], counted[kind], chip) for kind in kinds}

    def average(part: str) -> float:
        return cost.mean({kind: getattr(times[kind], part) for kind in kinds}, kinds)

    bill = cost.bill(average("predicted"), batch=job.batch, chips=best.mesh.size // chip.devices, **rates)
    return {
        "forwards": {
            kind: {"share": kinds[kind]}
            | dataclasses.asdict(times[kind])
            | {"floor": times[kind].floor, "predicted": times[kind].predicted}
            | {"flops": worked[kind].flops, "weight_bytes": worked[kind].weight_bytes}
            | {"collective_calls": [dataclasses.asdict(one) for one in counted[kind]]}
            for kind in kinds
        },
        "floor_seconds": average("floor"),
        "predicted_seconds": average("predicted"),
        "tokens_per_forward": rates["tokens_per_forward"],
        "tokens": rates["tokens"],
    } | dataclasses.asdict(bill)


def show(result: dict[str, Any]) -> None:
    """The table for people."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    mesh = " × ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    console.print(f"[bold]{result['model']}[/] ({result['dtype']}) on [bold]{result['topology']}[/], {mesh}")
    console.print(
        f"{result['batch']} rows of {result['prompt']} + {result['max_new']} columns, "
        + (f"block {result['block']}, cache {result['cache']}, " if result["block"] else "")
        + f"policy {result['policy']}\n"
    )
    _show_memory(console, result)
    if "forwards" in result:
        _show_collectives(console, result)
        _show_times(console, result)
    console.print(
        "\nrun it as" if result["command"] else "\na copy of the weights spans hosts: jaxdlm batch runs no such job"
    )
    if result["command"]:
        print(result["command"], flush=True)  # one line, to be copied


KINDS = {
    "every": "every forward is like every other",
    "first": "a forward in which the cache reads everything again: the first of a block, and whenever it is due",
    "other": "a forward that reads what a step of the cache reads",
}


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _show_memory(console: Any, result: dict[str, Any]) -> None:
    table = _table("memory per chip", "GiB")
    for kind, size in result["bytes"].items():
        table.add_row(
            kind, "not said" if size is None else f"{size / GIB:.3f}", style="bold" if kind == "total" else ""
        )
    table.add_row("available", f"{result['bytes_available'] / GIB:.3f}")
    console.print(table)
    console.print("[green]fits[/]" if result["fits"] else "[red]does not fit[/]", end="")
    largest = result["largest_batch"]
    if largest and largest["fits"]:
        beyond = f"; {largest['fails']} rows do not" if largest["fails"] else ""
        console.print(f"; the largest batch compiled that fits: [bold]{largest['fits']}[/] rows{beyond}", end="")
    elif largest:
        console.print("; no batch fits on this mesh", end="")
    console.print("\n")


def _show_collectives(console: Any, result: dict[str, Any]) -> None:
    table = _table("collectives per forward", "forward", "chips", "count", "MiB per chip")
    for kind, forward in result["forwards"].items():
        for one in forward["collective_calls"]:
            numbers = (str(one["group"]), str(one["count"]), f"{one['bytes'] / MIB:.3f}")
            table.add_row(one["kind"], kind, *numbers)
    console.print(table if table.row_count else "no collectives")
    console.print()


def _show_times(console: Any, result: dict[str, Any]) -> None:
    parts = ("compute", "weights", "cache", "collectives", "floor", "predicted")
    table = _table("ms per forward at published peaks", *parts)
    for kind, forward in result["forwards"].items():
        table.add_row(kind, *(f"{1e3 * forward[part]:.3f}" for part in parts))
    if len(result["forwards"]) > 1:
        table.add_row("mean", *[""] * 4, *(f"{1e3 * result[f'{part}_seconds']:.3f}" for part in ("floor", "predicted")))
    console.print(table)
    for kind, forward in result["forwards"].items():
        what = KINDS[kind] if result["block"] else "a forward of the target, and those of its draft where it has one"
        console.print(f"{kind}: {what} ({100 * forward['share']:.3g} % of a row's)", soft_wrap=True)
    console.print()
    table = _table(f"at {result['tokens_per_forward']:g} tokens per row and forward, all rows busy", "")
    table.add_row("tokens/s", f"{result['tokens_per_second']:,.0f}")
    for what, key in (("chip-hours", "chip_hours"), ("money", "price")):
        if result[key] is None:
            continue
        table.add_row(f"{what} per million tokens", f"{result[f'{key}_per_million']:.4g}")
        if result["tokens"] != 1e6:
            table.add_row(f"{what} for {result['tokens']:g} tokens", f"{result[key]:.4g}")
    console.print(table)
