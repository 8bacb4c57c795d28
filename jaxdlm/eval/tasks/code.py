"""Small functions from a description: many equivalent texts are right, an answer is run to see what it does."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping
from typing import Any

from jaxdlm.eval.tasks import sandbox
from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of, digits
from jaxdlm.eval.tasks.vocab import INDENT, join
from jaxdlm.registry import task

Op = tuple[str, int | None]
NUMBER_OPS = ("add", "subtract", "double", "triple", "negate")
LIST_OPS = ("sort", "keep even", "keep odd", "double each")
LIST_ENDS = ("sum", "largest", "smallest")
NUMBERS = [0, 1, -1, 2, 5, -7, 13, 100]
LISTS = [[1], [3, 1, 2], [4, 4], [-5, 2, 9, 8], [7, 6, 5, 4], [10, -3], [2, 2, 1], [11, 0, -8, 5]]


def draw(rng: random.Random, ops: int | None = None, lists: bool | None = None) -> Draw:
    """1-3 operations on a number or a list; the answer is one of at least three equivalent texts."""
    ops = choice_of(rng, ops, (1, 2, 3))
    lists = choice_of(rng, lists, (False, True))
    chain: list[Op] = []
    for _ in range(ops):
        name = rng.choice(LIST_OPS if lists else NUMBER_OPS)
        chain.append((name, rng.randint(1, 9) if name in ("add", "subtract") else None))
    if lists and rng.random() < 0.5:
        chain[-1] = (rng.choice(LIST_ENDS), None)
    described: list[str] = []
    for i, (name, k) in enumerate(chain):
        described += ([",", "then"] if i else []) + [*name.split(), *([] if k is None else digits(k))]
    x = "xs" if lists else "x"
    question = ("write", "f", "(", x, ")", ":", *described, ".")
    answer = _list_text(rng, chain, x) if lists else _number_text(rng, chain, x)
    knobs = {"ops": ops, "lists": lists}
    return Draw(knobs, (question,), answer, {"chain": chain, "lists": lists}, [lists, chain])


def _number_step(rng: random.Random, op: Op, x: list[str]) -> list[str]:
    name, k = op
    if name == "negate":
        return ["-", *x]
    if name == "subtract":
        return [*x, "-", *digits(k or 0)]
    number, sign = (digits(k or 0), "+") if name == "add" else (["2" if name == "double" else "3"], "*")
    return [*x, sign, *number] if rng.random() < 0.5 else [*number, sign, *x]


def _number_text(rng: random.Random, chain: list[Op], x: str) -> tuple[str, ...]:
    form = rng.randrange(3)
    if form == 2 and len(chain) > 1:
        lines = [[x, "=", *_number_step(rng, op, [x])] for op in chain[:-1]]
        return _function(x, [*lines, ["return", *_number_step(rng, chain[-1], [x])]])
    value = [x]
    for i, op in enumerate(chain):
        value = _number_step(rng, op, ["(", *value, ")"] if i else value)
    if form == 1:
        return ("f", "=", "lambda", x, ":", *value)
    return _function(x, [["return", *value]])


def _list_step(rng: random.Random, op: Op, x: list[str]) -> list[str]:
    name = op[0]
    if name == "sort":
        return ["sorted", "(", *x, ")"]
    if name in LIST_ENDS:
        return [{"sum": "sum", "largest": "max", "smallest": "min"}[name], "(", *x, ")"]
    if name == "double each":
        body = ["2", "*", "y"] if rng.random() < 0.5 else ["y", "*", "2"]
        return ["[", *body, "for", "y", "in", *x, "]"]
    return ["[", "y", "for", "y", "in", *x, "if", "y", "%", "2", "==", "0" if name == "keep even" else "1", "]"]


def _list_text(rng: random.Random, chain: list[Op], x: str) -> tuple[str, ...]:
    form = rng.randrange(3)
    if form == 2 and len(chain) > 1:
        lines = [[x, "=", *_list_step(rng, op, [x])] for op in chain[:-1]]
        return _function(x, [*lines, ["return", *_list_step(rng, chain[-1], [x])]])
    value = [x]
    for op in chain:
        value = _list_step(rng, op, value)
    if form == 1:
        return ("f", "=", "lambda", x, ":", *value)
    return _function(x, [["return", *value]])


def _function(x: str, lines: list[list[str]]) -> tuple[str, ...]:
    body = [token for line in lines for token in ("\n", INDENT, *line)]
    return ("def", "f", "(", x, ")", ":", *body)


def expected(chain: list[Op], value: Any) -> Any:
    """The result of the described function; "error ..." where Python itself would fail (largest of nothing)."""
    for name, k in chain:
        if name in ("largest", "smallest") and not value:
            return "error ValueError"
        value = {
            "add": lambda v, k: v + k,
            "subtract": lambda v, k: v - k,
            "double": lambda v, k: 2 * v,
            "triple": lambda v, k: 3 * v,
            "negate": lambda v, k: -v,
            "sort": lambda v, k: sorted(v),
            "keep even": lambda v, k: [y for y in v if y % 2 == 0],
            "keep odd": lambda v, k: [y for y in v if y % 2 == 1],
            "double each": lambda v, k: [2 * y for y in v],
            "sum": lambda v, k: sum(v),
            "largest": lambda v, k: max(v),
            "smallest": lambda v, k: min(v),
        }[name](value, k)
    return value


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """Parses, runs on eight inputs in a sandbox, and returns what the description says."""
    source = join(tokens)
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return WRONG
    inputs = LISTS if payload["lists"] else NUMBERS
    chain = [(name, k) for name, k in payload["chain"]]
    correct = sandbox.run(source, "f", inputs) == [expected(chain, value) for value in inputs]
    return Score(correct, correct, True)


TASK = task(Family("code", draw, check, canvas=64, group="code", gate=0.7, runs_code=True, order=140))
