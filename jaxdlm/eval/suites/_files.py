"""Rows of the files that benchmarks are published as: JSON, JSON lines (plain or gzip) and Parquet."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument
from jaxdlm.argument import Kind
from jaxdlm.batch.rows import parse
from jaxdlm.batch.source import source
from jaxdlm.errors import InputError, shortened
from jaxdlm.eval.suites._base import Request

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def rows(path: pathlib.Path, schema: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """The objects of a file, each with the fields of the schema. Raises InputError that names file, row and field."""
    if not path.is_file():
        raise InputError(f"{path} is missing: give --data the folder that holds it")
    if path.suffix == ".json":
        values = [(value, f"entry {i}") for i, value in enumerate(_document(path), 1)]
    else:
        values = [(_parsed(path, raw), raw.where) for raw in source(str(path)).rows()]
    if not values:
        raise InputError(f"{path} has no rows: copy it again")
    return [argument.record(value, f"{path}: {where}", schema, required=True, dot=" ") for value, where in values]


def _parsed(path: pathlib.Path, raw: Any) -> Any:
    try:
        return parse(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _document(path: pathlib.Path) -> Sequence[Any]:
    """A list, or one object alone."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({shortened(str(error), 80)}): copy it again") from None
    return value if isinstance(value, list) else [value]


def found(request: Request, names: Sequence[str]) -> list[pathlib.Path]:
    """The files of the first of some names that is there, as `name` + ending, or shards of it as Hugging Face names them.

    A name may have folders before it, and stars. [] where there is none.
    """
    for name in names:
        for ending in ENDINGS:
            whole = sorted(request.data.glob(f"{name}{ending}"))
            shards = sorted(request.data.glob(f"{name}-[0-9]*-of-[0-9]*{ending}"))
            if whole or shards:
                return whole or shards
    return []


def needed(request: Request, names: Sequence[str]) -> list[pathlib.Path]:
    """The same. Raises InputError where there is none."""
    files = found(request, names)
    if not files:
        shown = ", ".join(f"{name}.*" for name in names)
        raise InputError(
            f"--data {request.data} holds none of {shown} ({', '.join(ENDINGS)}): give the folder of its files"
        )
    return files


def limited(values: Sequence[Any], request: Request) -> list[Any]:
    return list(values if request.limit is None else values[: request.limit])


def worked(count: int, names: Sequence[str], request: Request, schema: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """The first rows of the training file, as examples. Raises InputError where there are not so many."""
    if not count:
        return []
    files = found(request, names)
    if not files:
        shown = ", ".join(f"{name}.*" for name in names)
        raise InputError(
            f"--data {request.data} holds none of {shown} for {count} worked examples: add it, or --shots 0"
        )
    some: list[dict[str, Any]] = []
    for file in files:
        some += rows(file, schema)
        if len(some) >= count:
            return some[:count]
    raise InputError(f"--shots {count}: {files[0]} has {len(some)} rows")


def only(request: Request, names: Sequence[str]) -> list[str]:
    """The tasks that are asked for; of one name or a group (`group/name`). Raises InputError for one that is not known."""
    if request.tasks is None:
        return list(names)
    kept: list[str] = []
    for word in request.tasks:
        some = [name for name in names if word in (name, name.split("/")[0])]
        if not some:
            argument.check_choice(word, "--tasks", list(dict.fromkeys([*(n.split("/")[0] for n in names), *names])))
        kept += some
    return list(dict.fromkeys(kept))
