"""Runs a function that a model wrote, on given inputs, in a process of its own that can do little else.

What it does and does not protect from: docs/eval.md. `jaxdlm.confined.functions` is the other side.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from jaxdlm.confined import Child, Died
from jaxdlm.errors import InputError

SECONDS = 3.0  # the wall limit of the usual code benchmarks
MEMORY = 512 * 2**20
MOST = 2**20  # bytes of JSON that all results may have


def run(
    source: str,
    name: str,
    inputs: list[Any],
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    modules: Sequence[str] = (),
) -> list[Any] | None:
    """[name(input) for input in inputs] as JSON values; None where it fails, takes too long or returns no JSON.

    None, too, where the results have more than `MOST` bytes. What the function prints is dropped. modules: names of
    the standard library that it may import; they are loaded before anything is refused. Raises InputError on
    systems that do not limit a process's memory (Windows).
    """
    if importlib.util.find_spec("resource") is None:
        raise InputError("this system does not limit what a process may take: run the task code on Linux or macOS")
    question = {
        "source": source,
        "name": name,
        "inputs": inputs,
        "seconds": seconds,
        "memory": memory,
        "modules": list(modules),
    }
    child = Child("functions", MOST)
    try:
        results = child.ask(question, seconds)
    except (TimeoutError, Died):
        return None
    finally:
        child.close()
    return results if isinstance(results, list) else None


def passed(source: str, name: str, cases: Sequence[tuple[Any, Any]], *, seconds: float = SECONDS) -> float:
    """The share of cases (input, result) that the function gives, 0 where the program does not run: a reward for planning.

    Raises InputError as `run`.
    """
    results = run(source, name, [each for each, _ in cases], seconds=seconds)
    right = [] if results is None else [result == wanted for result, (_, wanted) in zip(results, cases, strict=True)]
    return sum(right) / max(1, len(cases))
