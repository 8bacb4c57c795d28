"""`jaxdlm models`: the list of models."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from jaxdlm.command import Command, json_flag, section
from jaxdlm.errors import InputError

COLUMNS = ("model", "family", "weights", "float32", "bfloat16", "chips", "policy", "cache")
NARROW = 150  # columns where stdout is no terminal


@click.command(
    cls=Command,
    epilog="""\b
    Examples:
      jaxdlm models
      jaxdlm models sdar --json""",
)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@section("Output", json_flag("one JSON object per model, with bytes, Hub id and the commands that measure"))
def models(words: Sequence[str], as_json: bool) -> None:
    """List models: size, memory, chips that hold a copy in bfloat16, policy and cache; WORDs select by name or family.

    Sizes follow from the configurations of the releases, chips from their published memory; nothing of it was measured on
    the weights. The commands under --json do that.
    """
    rows = [entry for entry in _entries() if all(word in f"{entry.name} {entry.family}" for word in words)]
    if not rows:
        raise InputError(f"no model has {' and '.join(words)} in its name or family: jaxdlm models lists all")
    if as_json:
        for row in rows:
            print(json.dumps(row._asdict()))
    else:
        _table(rows)


def _entries() -> Any:
    from jaxdlm.plan.models import entries

    return entries()


def _table(rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[2:5] else "left")
    for row in rows:
        table.add_row(*shown(row))
    Console(width=None if sys.stdout.isatty() else NARROW).print(table)


def shown(row: Any) -> list[str]:
    """The cells of a model."""
    size = [f"{row.bytes[dtype] / 2**30:.2f} GiB" for dtype in ("float32", "bfloat16")]
    chips = ", ".join(f"{count} {name}" for name, count in row.chips.items() if count) or "more than a host"
    return [row.name, row.family, f"{row.weights / 1e9:.3f} B", *size, chips, row.policy, row.cache or "its own"]
