"""`python -m checkpoints_convert SOURCE OUT`, also installed as jaxdlm-convert.

Exit status 0: done; 1: the work failed (disk full, a check that does not agree); 2: wrong usage or bad input; 130:
interrupted; each but the first with one line on stderr.
"""

from __future__ import annotations

import sys

# What follows takes a while: it is imported, by its own name, where an interrupt is one line.
if __name__ == "__main__":
    from jaxdlm import _start

    sys.exit(_start.convert())

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from jaxdlm import argument, command
from jaxdlm.command import OK, Command, flag, option, section

# as in jaxdlm.quant, which brings JAX with it
BITS, KINDS, DENSE = {"int8": 8, "int4": 4}, ("power", "uniform"), ("embed", "lm_head")
GIVEN = click.core.ParameterSource.COMMANDLINE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs; returns the exit status."""
    return command.run(convert, "checkpoints_convert", argv)


def _size(text: str) -> int:
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        value = int(float(text.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is not a size such as 1GiB or 500MiB") from None
    if value < 1:
        raise click.BadParameter(f"{text!r} must be positive")
    return value


@click.command(cls=Command, context_settings=command.HELP)
@click.argument("source")
@click.argument("out", required=False)
@section(
    "Conversion",
    option(
        "--dtype",
        type=click.Choice(("keep", "bfloat16", "float32", "float16")),
        default="keep",
        help="of the weights; keep is bit-exact, and bfloat16 for a GGUF file with quantised tensors",
    ),
    option("--max-leaf-bytes", type=_size, default="1GiB", metavar="SIZE", help="split larger stacked leaves"),
    flag("--allow-pickle", help="read .bin files with torch.load(weights_only=True)"),
    flag("--strict", help="refuse NaN and infinite values instead of warning"),
    flag("--force", help="replace a converted checkpoint that exists already"),
    flag("--export", help="the other way: SOURCE is converted, OUT gets safetensors"),
    option("--revision", metavar="R", help="of a Hub id"),
    flag("--quiet", help="no progress bar"),
)
@section(
    "Quantising",
    option("--quantise", type=click.Choice(tuple(BITS)), help="codes of so many bits for the large matrices"),
    option(
        "--group", type=click.IntRange(min=1), metavar="N", help="rows that share a scale; default: all of a column"
    ),
    option("--kind", type=click.Choice(KINDS), help="levels of the codes: power (default) or uniform"),
    option("--include", type=click.Choice(DENSE), multiple=True, help="quantise these, too"),
)
@section(
    "Proof",
    flag("--dry-run", help="print what would be written; reads headers only"),
    flag("--check", help="compare with the PyTorch oracle (transformers) or the manifest"),
    flag("--verify", help="read everything back and compare checksums; without OUT: of a converted SOURCE"),
)
@section(
    "Where config.json does not tell",
    option("--family", default="auto", metavar="NAME", help="family of the model"),
    option("--mask", type=int, metavar="ID", help="id of the mask token"),
    option("--block-size", type=int, metavar="N", help="block size of block-causal models"),
    option("--attention", type=click.Choice(("full", "block_causal", "causal")), help="the attention mask"),
)
@command.traceback
def convert(
    source: str, out: str | None, dry_run: bool, verify: bool, export: bool, traceback: bool, **rest: Any
) -> int:
    """Convert a released checkpoint to Orbax, exactly.

    SOURCE is a folder with config.json and safetensors, a GGUF file of llama.cpp, smollm2, or a Hub id such as
    GSAI-ML/LLaDA-8B-Base; OUT is the folder to write (not needed with --dry-run or --verify alone).
    """
    if not out and not dry_run and not verify:
        raise click.UsageError("OUT is missing", click.get_current_context())
    _refuse_idle(export, dry_run, verifies=not out and not dry_run)
    try:
        if not out and not dry_run:
            return _verify(Path(source))
        if export:
            return _export(Path(source), Path(str(out)), rest["force"])
        return _convert(source, out, dry_run, verify, **rest)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to continue") from None
    except (RuntimeError, OSError, MemoryError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error


def _convert(
    name: str, out: str | None, dry_run: bool, verify: bool, *, dtype: str, max_leaf_bytes: int, allow_pickle: bool,
    strict: bool, force: bool, revision: str | None, quiet: bool, check: bool, family: str, mask: int | None,
    block_size: int | None, attention: str | None, quantise: str | None, group: int | None, kind: str | None,
    include: tuple[str, ...],
) -> int:  # fmt: skip
    from checkpoints_convert import check as parity
    from checkpoints_convert.convert import convert
    from checkpoints_convert.hub import find_source
    from checkpoints_convert.pickles import open_pickles
    from checkpoints_convert.plan import describe, kind_of, make_plan
    from checkpoints_convert.staging import check_output
    from jaxdlm.checkpoint.source import open_folder
    from jaxdlm.quant import Recipe

    folder = find_source(name, revision)
    if allow_pickle and not folder.is_dir():
        raise click.UsageError("--allow-pickle has no effect on a GGUF file: leave it out", click.get_current_context())
    if out:
        check_output(folder.resolve(), argument.path(out, "OUT").absolute(), force)
    source = open_folder(
        folder, family=family, mask=mask, block_size=block_size, attention=attention,
        tensors=open_pickles(folder) if allow_pickle else None,
    )  # fmt: skip
    recipe = (
        None if quantise is None else Recipe(BITS[quantise], kind or KINDS[0], group, tuple(dict.fromkeys(include)))
    )
    plan = make_plan(source, dtype, max_leaf_bytes, recipe=recipe)
    if dry_run or not out:
        print("\n".join(describe(plan)))
        return OK
    with progress_bar(plan.nbytes, quiet) as progress:
        result = convert(plan, Path(out), force=force, strict=strict, progress=progress)
    for warning in (*source.notes, *result.warnings):
        print(f"note: {warning}", file=sys.stderr)
    resumed = f", {result.resumed} groups kept from an earlier run" if result.resumed else ""
    print(f"{result.out}: {result.nbytes / 1e9:.3f} GB in {result.groups} groups{resumed}", file=sys.stderr)
    if result.quantised:
        worst, facts = max(result.quantised.items(), key=lambda item: item[1]["relative_error"])
        print(
            f"quantised: {len(result.quantised)} tensors as {kind_of(plan.layouts[worst])}, largest relative error "
            f"{facts['relative_error']:.4f} ({worst})",
            file=sys.stderr,
        )
    if verify:
        _verify(result.out)
    return parity.check(result.out, source, sys.stdout) if check else OK


def _refuse_idle(export: bool, dry_run: bool, verifies: bool) -> None:
    """A usage error that names an option which would have no effect."""
    context = click.get_current_context()
    stated = {
        str(parameter.name): parameter.opts[0] for parameter in context.command.params
        if isinstance(parameter, click.Option) and context.get_parameter_source(str(parameter.name)) == GIVEN
    }  # fmt: skip
    if export:
        mode, idle = "--export", stated.keys() - {"export", "force", "quiet", "traceback"}
    elif verifies:
        mode, idle = "--verify without OUT", stated.keys() - {"verify", "quiet", "traceback"}
    elif dry_run:
        mode, idle = "--dry-run", stated.keys() & {"check", "verify", "strict"}
    else:
        mode, idle = "", set()
    if not idle and context.params["quantise"] is None:
        mode, idle = "a conversion without --quantise", stated.keys() & {"group", "kind", "include"}
    for name in (name for name in stated if name in idle):
        raise click.UsageError(f"{stated[name]} has no effect on {mode}: leave it out", context)


def _verify(folder: Path) -> int:
    from checkpoints_convert.verify import verify

    print(f"verified: {verify(folder)} parts equal their checksums", file=sys.stderr)
    return OK


def _export(source: Path, out: Path, force: bool) -> int:
    from checkpoints_convert.export import export

    print(f"{out}: {export(source, out, force=force)} tensors", file=sys.stderr)
    return OK


@contextmanager
def progress_bar(total: int, quiet: bool) -> Iterator[Callable[[str, int], None] | None]:
    """Bytes done, speed and time left on stderr."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("converting", total=total)

        def advance(leaf: str, count: int) -> None:
            bar.update(task, advance=count, description=leaf)

        yield advance
