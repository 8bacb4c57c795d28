"""Word problems with a written calculation: one right number; with `free_order` the order of the steps is open."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of, digits
from jaxdlm.eval.tasks.vocab import FIRST_NAMES
from jaxdlm.registry import task

ITEMS = ("apples", "oranges", "eggs", "books", "coins", "pens", "balls")
HOLDERS = ("bags", "boxes", "packs")
MOVES = ("buys", "loses", "holders")


def _equation(a: int, op: str, b: int) -> tuple[list[str], int]:
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    return [*digits(a), op, *digits(b), "=", *digits(value), "."], value


def draw(rng: random.Random, steps: int | None = None, free_order: bool = False) -> Draw:
    """`steps` equations (1-2 by default); free_order: two independent products and their sum, steps = 3."""
    name, item = rng.choice(FIRST_NAMES), rng.choice(ITEMS)
    if free_order:
        return _draw_free(rng, name, item)
    steps = choice_of(rng, steps, (1, 2))
    total = start = rng.randint(2, 20)
    key: list[Any] = [start]
    story, work = [name, "has", *digits(start), item, "."], []
    left = steps
    while left:
        move = rng.choice(MOVES if left > 1 else MOVES[:2])
        if move == "loses" and total < 2:
            move = "buys"
        if move == "holders":
            count, each, holder = rng.randint(2, 5), rng.randint(2, 5), rng.choice(HOLDERS)
            story += [name, "buys", *digits(count), holder, "with", *digits(each), item, "each", "."]
            line, amount = _equation(count, "*", each)
            work += line
            left -= 1
            key += [move, count, each]
        else:
            amount = rng.randint(1, min(9, total - 1) if move == "loses" else 9)
            story += [name, move, *digits(amount), *(["more"] if move == "buys" else []), item, "."]
            key += [move, amount]
        line, total = _equation(total, "-" if move == "loses" else "+", amount)
        work += line
        left -= 1
    return _finish(name, item, story, work, total, {"steps": steps, "free_order": False}, key)


def _draw_free(rng: random.Random, name: str, item: str) -> Draw:
    first, second = rng.sample(HOLDERS, 2)
    a, b, c, d = (rng.randint(2, 5) for _ in range(4))
    story = [name, "has", *digits(a), first, "with", *digits(b), item, "each", "."]
    story += [name, "buys", *digits(c), second, "with", *digits(d), item, "each", "."]
    lines = [_equation(a, "*", b), _equation(c, "*", d)]
    rng.shuffle(lines)
    last, total = _equation(lines[0][1], "+", lines[1][1])
    work = [*lines[0][0], *lines[1][0], *last]
    return _finish(name, item, story, work, total, {"steps": 3, "free_order": True}, ["free", a, b, c, d])


def _finish(
    name: str, item: str, story: list[str], work: list[str], total: int, knobs: dict[str, Any], key: list[Any]
) -> Draw:
    question = (*story, "How", "many", item, "does", name, "have", "?")
    answer = (*work, "####", *digits(total))
    return Draw(knobs, (question,), answer, {"answer": total, "steps": knobs["steps"]}, key)


def number(tokens: list[str]) -> int | None:
    """The number that the tokens spell, or None."""
    return int("".join(tokens)) if tokens and all(token.isdigit() for token in tokens) else None


def equation_holds(tokens: list[str]) -> bool:
    """True for `a op b = c` with c right."""
    if tokens.count("=") != 1:
        return False
    left, right = tokens[: tokens.index("=")], tokens[tokens.index("=") + 1 :]
    for op in ("+", "-", "*"):
        if left.count(op) == 1:
            a, b, c = number(left[: left.index(op)]), number(left[left.index(op) + 1 :]), number(right)
            return not (a is None or b is None or c is None) and {"+": a + b, "-": a - b, "*": a * b}[op] == c
    return False


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """correct: the number after `####`. strict: every equation true as well, as many as the problem needs."""
    if tokens.count("####") != 1:
        return WRONG
    mark = tokens.index("####")
    value, work = number(tokens[mark + 1 :]), tokens[:mark]
    if value is None or not work or work[-1] != ".":
        return Score(value == payload["answer"], False, False)
    lines = " ".join(work[:-1]).split(" . ")
    sound = len(lines) == payload["steps"] and all(equation_holds(line.split()) for line in lines)
    return Score(value == payload["answer"], value == payload["answer"] and sound, True)


TASK = task(Family("gsm", draw, check, canvas=64, group="gsm", gate=0.7, order=130))
