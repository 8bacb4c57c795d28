"""Programs out of answers, and whether they pass their tests, in the process of `jaxdlm.confined.functions`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from jaxdlm.eval.tasks import sandbox
from jaxdlm.eval.tasks.base import Score

LINES = 100  # of an answer that are looked at
VERDICT = "passes_all_its_tests"
MODULES = (
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip


def fenced(text: str) -> str:
    """What stands between the first fence (that of Python if there is one) and the next; all where there is none."""
    for fence in ("```python", "```py", "```"):
        if fence in text:
            return text.partition(fence)[2].partition("```")[0].removeprefix("\n")
    return text


def longest(text: str) -> str:
    """The longest run of lines that parses, among the first `LINES`; "" where none does."""
    lines = text.split("\n")[:LINES]
    for size in range(len(lines), 0, -1):
        for first in range(len(lines) - size + 1):
            some = "\n".join(lines[first : first + size])
            if some.strip() and _tree(some) is not None:
                return some
    return ""


def reached(source: str, entry: str) -> str:
    """Imports, and the definitions that the entry point needs, in their order; all where it is not defined."""
    tree = _tree(source)
    if tree is None:
        return source
    defined = {name: node for node in tree.body for name in _names(node)}
    waiting, needed = [entry], set()
    while waiting:
        name = waiting.pop()
        if name in defined and name not in needed:
            needed.add(name)
            waiting += [each.id for each in ast.walk(defined[name]) if isinstance(each, ast.Name)]
    if entry not in needed:
        return source
    kept = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) or needed.intersection(_names(node))
    ]
    return "\n".join(ast.unparse(node) for node in kept)


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def passes(source: str, tests: str) -> bool:
    """Whether a program and then its tests run to the end: an assertion that fails ends the process."""
    whole = f"{source}\n{tests}\n\ndef {VERDICT}(_):\n    return True\n"
    return sandbox.run(whole, VERDICT, [0], modules=MODULES) == [True]


def grade(source: str, tests: str) -> Score:
    right = bool(source.strip()) and passes(source, tests)
    return Score(right, right, _tree(source) is not None and bool(source.strip()))
