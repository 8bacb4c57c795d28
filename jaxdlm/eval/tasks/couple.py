"""Choices with a dialled dependence: every marginal is one half for every rho, only the joint distribution changes.

`pick with rho 3 : ( cat / dog ) ( red / blue )` -> `cat red`. rho = 0..4 quarters: with probability rho/4 all slots
follow one shared fair bit, else each its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of, digits
from jaxdlm.eval.tasks.vocab import ADJECTIVES, PEOPLE, THINGS
from jaxdlm.registry import task

OPTIONS = (*PEOPLE, *THINGS, *ADJECTIVES)


def draw(rng: random.Random, n: int | None = None, rho: int | None = None) -> Draw:
    """n slots (2-4 by default), rho in quarters."""
    n = choice_of(rng, n, (2, 3, 4))
    rho = choice_of(rng, rho, (0, 1, 2, 3, 4))
    words = rng.sample(OPTIONS, 2 * n)
    pairs = [(words[2 * i], words[2 * i + 1]) for i in range(n)]
    shared = rng.randrange(4) < rho
    bit = rng.getrandbits(1)
    answer = tuple(pair[bit if shared else rng.getrandbits(1)] for pair in pairs)
    data = tuple(token for a, b in pairs for token in ("(", a, "/", b, ")"))
    payload = {"pairs": pairs, "rho": rho}
    return Draw({"n": n, "rho": rho}, (("pick", "with", "rho", *digits(rho)), data), answer, payload, [rho, pairs])


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """Each slot holds one of its two options; with rho = 4 all follow the same side."""
    pairs = payload["pairs"]
    if len(tokens) != len(pairs) or any(token not in pair for token, pair in zip(tokens, pairs, strict=True)):
        return WRONG
    sides = {token == pair[0] for token, pair in zip(tokens, pairs, strict=True)}
    correct = payload["rho"] < 4 or len(sides) == 1
    return Score(correct, correct, True)


def alike(payload: Mapping[str, Any], tokens: list[str]) -> bool:
    """True where all slots chose the same side; its distribution has probability rho + (1 - rho) 2^(1-n), rho in
    0..1."""
    return len({token == pair[0] for token, pair in zip(tokens, payload["pairs"], strict=True)}) == 1


TASK = task(Family("couple", draw, check, canvas=16, group="couple", trained=True, order=100))
