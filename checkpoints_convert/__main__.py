"""`python -m checkpoints_convert SOURCE OUT`, also installed as jaxdlm-convert.

Exit status 0: done; 1: the work failed (disk full, a check that does not agree); 2: wrong usage or bad input, one line
on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxdlm.errors import InputError

DTYPES = ("keep", "bfloat16", "float32", "float16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="checkpoints_convert", description="Convert a released checkpoint to Orbax, exactly."
    )
    p.add_argument("source", help="folder with config.json and safetensors, or a Hub id such as GSAI-ML/LLaDA-8B-Base")
    p.add_argument("out", nargs="?", help="folder to write (not needed with --dry-run or --verify alone)")
    p.add_argument("--family", default="auto", help="family name where config.json does not tell (default: auto)")
    p.add_argument("--dtype", default="keep", choices=DTYPES, help="dtype of the weights (default: keep, bit-exact)")
    p.add_argument(
        "--check", action="store_true", help="compare with the PyTorch oracle (transformers) or the manifest"
    )
    p.add_argument(
        "--verify",
        action="store_true",
        help="read everything back and compare checksums; without OUT: of a converted SOURCE",
    )
    p.add_argument("--strict", action="store_true", help="refuse NaN and infinite values instead of warning")
    p.add_argument("--force", action="store_true", help="replace a converted checkpoint that exists already")
    p.add_argument("--dry-run", action="store_true", help="print what would be written; reads headers only")
    p.add_argument("--export", action="store_true", help="the other way: SOURCE is converted, OUT gets safetensors")
    p.add_argument("--allow-pickle", action="store_true", help="read .bin files with torch.load(weights_only=True)")
    p.add_argument("--max-leaf-bytes", type=_size, default=2**30, help="split larger stacked leaves (default 1GiB)")
    p.add_argument("--mask", type=int, help="id of the mask token, where config.json lacks it")
    p.add_argument("--block-size", type=int, help="block size of block-causal models, where config.json lacks it")
    p.add_argument("--attention", choices=("full", "block_causal", "causal"), help="mask, where config.json lacks it")
    p.add_argument("--revision", help="revision of a Hub id")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    args = parser().parse_args(argv)
    if not args.out and not args.dry_run and not args.verify:
        parser().error("OUT is missing")
    try:
        if not args.out and not args.dry_run:
            return _verify(Path(args.source))
        return _export(args) if args.export else _convert(args)
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue", 1)
    except (RuntimeError, OSError, MemoryError) as error:
        return _fail(error, 1)


def _fail(problem: object, status: int) -> int:
    line = " ".join(str(problem).split()) or type(problem).__name__
    print(f"checkpoints_convert: {line}", file=sys.stderr)
    return status


def _convert(args: argparse.Namespace) -> int:
    from checkpoints_convert.check import check
    from checkpoints_convert.convert import convert
    from checkpoints_convert.hub import find_source
    from checkpoints_convert.pickles import open_pickles
    from checkpoints_convert.plan import describe, make_plan
    from checkpoints_convert.staging import check_output
    from checkpoints_convert.verify import verify
    from jaxdlm.checkpoint.source import open_folder

    folder = find_source(args.source, args.revision)
    if args.out:
        check_output(folder.resolve(), Path(args.out).expanduser().absolute(), args.force)
    source = open_folder(
        folder, family=args.family, mask=args.mask, block_size=args.block_size, attention=args.attention,
        tensors=open_pickles(folder) if args.allow_pickle else None,
    )  # fmt: skip
    plan = make_plan(source, args.dtype, args.max_leaf_bytes)
    if args.dry_run:
        print("\n".join(describe(plan)))
        return 0
    with progress_bar(plan.nbytes, args.quiet) as progress:
        result = convert(plan, Path(args.out), force=args.force, strict=args.strict, progress=progress)
    for warning in (*source.notes, *result.warnings):
        print(f"note: {warning}", file=sys.stderr)
    resumed = f", {result.resumed} groups kept from an earlier run" if result.resumed else ""
    print(f"{result.out}: {result.nbytes / 1e9:.3f} GB in {result.groups} groups{resumed}", file=sys.stderr)
    if args.verify:
        print(f"verified: {verify(result.out)} parts equal their checksums", file=sys.stderr)
    return check(result.out, source, sys.stdout) if args.check else 0


def _verify(folder: Path) -> int:
    from checkpoints_convert.verify import verify

    print(f"verified: {verify(folder)} parts equal their checksums", file=sys.stderr)
    return 0


def _export(args: argparse.Namespace) -> int:
    from checkpoints_convert.export import export

    count = export(Path(args.source), Path(args.out), force=args.force)
    print(f"{args.out}: {count} tensors", file=sys.stderr)
    return 0


def _size(text: str) -> int:
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        value = int(float(text.removesuffix(unit)) * units.get(unit, 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1GiB or 500MiB") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive")
    return value


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


if __name__ == "__main__":
    sys.exit(main())
