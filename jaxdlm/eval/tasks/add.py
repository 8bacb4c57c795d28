"""Addition with the longest carry run as a knob: one right answer (no dependence), but depth."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of, digits
from jaxdlm.registry import task


def carry_run(a: int, b: int) -> int:
    """Length of the longest run of columns that carry."""
    longest = run = carry = 0
    while a or b:
        carry = int(a % 10 + b % 10 + carry > 9)
        run = run + 1 if carry else 0
        longest = max(longest, run)
        a, b = a // 10, b // 10
    return longest


def draw(rng: random.Random, d: int | None = None, c: int | None = None, reversed: bool = False) -> Draw:
    """Two numbers of d digits (2-3 by default) whose longest carry run is c (uniform over 0..d by default)."""
    d = choice_of(rng, d, (2, 3))
    c = choice_of(rng, c, range(d + 1))
    low, high = 10 ** (d - 1), 10**d
    while True:
        a, b = rng.randrange(low, high), rng.randrange(low, high)
        if carry_run(a, b) == c:
            break
    answer = digits(a + b)[::-1] if reversed else digits(a + b)
    op = ("add", "reversed") if reversed else ("add",)
    payload = {"answer": answer, "d": d}
    knobs = {"d": d, "c": c, "reversed": reversed}
    return Draw(knobs, (op, (*digits(a), "+", *digits(b))), tuple(answer), payload, [reversed, *sorted((a, b))])


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """The exact digits."""
    if not tokens or not all(token.isdigit() for token in tokens):
        return WRONG
    correct = tokens == payload["answer"]
    return Score(correct, correct, len(tokens) in (payload["d"], payload["d"] + 1))


TASK = task(Family("add", draw, check, canvas=8, group="add", gate=0.7, trained=True, order=120))
