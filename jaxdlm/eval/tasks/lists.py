"""Operations on lists of people (after ParallelBench, arXiv 2510.04767, with shuffle within groups and rotations).

n items of w tokens each (1: first name, 2: first and last name), drawn without replacement; indices count from 0.
Answers are `[ a , b , c ]`. Departures from the paper: `sort` is by first then last name and says so; the identity
counts as a shuffle, which keeps the closed forms exact.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from jaxdlm.eval.tasks.base import WRONG, Draw, Family, Score, choice_of, digits
from jaxdlm.eval.tasks.vocab import FIRST_NAMES, LAST_NAMES
from jaxdlm.registry import task

Item = tuple[str, ...]


def bracketed(items: list[Item]) -> tuple[str, ...]:
    """Tokens of `[ a , b ]`."""
    out = ["["]
    for i, item in enumerate(items):
        if i:
            out.append(",")
        out.extend(item)
    return (*out, "]")


def parse(tokens: list[str], w: int) -> list[Item] | None:
    """Items of a list, outer brackets optional; None where it is no list of w-token items."""
    if tokens and tokens[0] == "[":
        tokens = tokens[1:]
    if tokens and tokens[-1] == "]":
        tokens = tokens[:-1]
    if not tokens:
        return None
    items: list[Item] = [()]
    for token in tokens:
        if token == ",":
            items.append(())
        else:
            items[-1] += (token,)
    names = set(FIRST_NAMES) | set(LAST_NAMES)
    if any(len(item) != w or not names.issuperset(item) for item in items):
        return None
    return items


def people(rng: random.Random, n: int, w: int) -> list[Item]:
    """n different people of w tokens."""
    if w == 1:
        return [(name,) for name in rng.sample(FIRST_NAMES, n)]
    pairs = rng.sample(range(len(FIRST_NAMES) * len(LAST_NAMES)), n)
    return [(FIRST_NAMES[p // len(LAST_NAMES)], LAST_NAMES[p % len(LAST_NAMES)]) for p in pairs]


def _copy(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    return ["copy"], list(items)


def _reverse(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    return ["reverse"], items[::-1]


def _sort(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    return ["sort", "by", "first", "then", "last", "name"], sorted(items)


def _index(rng: random.Random, knobs: dict[str, Any], count: int) -> int:
    knobs["index"] = choice_of(rng, knobs.get("index"), range(count))
    return int(knobs["index"])


def _replace_index(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    *old, new = items
    i = _index(rng, knobs, len(old))
    return ["replace", "item", *digits(i), "by", *new], [*old[:i], new, *old[i + 1 :]]


def _insert_index(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    *old, new = items
    i = _index(rng, knobs, len(old) + 1)
    return ["insert", *new, "at", *digits(i)], [*old[:i], new, *old[i:]]


def _remove_index(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    i = _index(rng, knobs, len(items))
    return ["remove", "item", *digits(i)], items[:i] + items[i + 1 :]


def _replace_random(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    *old, new = items
    i = rng.randrange(len(old))
    return ["replace", "any", "item", "by", *new], [*old[:i], new, *old[i + 1 :]]


def _insert_random(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    *old, new = items
    i = rng.randrange(len(old) + 1)
    return ["insert", *new, "anywhere"], [*old[:i], new, *old[i:]]


def _remove_random(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    i = rng.randrange(len(items))
    return ["remove", "any", "item"], items[:i] + items[i + 1 :]


def _shuffle(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    return ["shuffle"], rng.sample(items, len(items))


def _gshuffle(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    n = len(items)
    g = choice_of(rng, knobs.get("g"), [g for g in dict.fromkeys((1, 2, 3, n)) if n % g == 0])
    knobs["g"] = g
    groups = [items[i : i + g] for i in range(0, n, g)]
    return ["shuffle", "groups", "of", *digits(g)], [x for group in groups for x in rng.sample(group, len(group))]


def _rotate(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    r = choice_of(rng, knobs.get("r"), range(1, len(items)))
    knobs["r"] = r
    return ["rotate", "by", *digits(r)], items[r:] + items[:r]


def _rotate_any(rng: random.Random, items: list[Item], knobs: dict[str, Any]) -> tuple[list[str], list[Item]]:
    r = rng.randrange(len(items))
    return ["rotate", "by", "any"], items[r:] + items[:r]


Operation = Callable[[random.Random, list[Item], dict[str, Any]], tuple[list[str], list[Item]]]
OPERATIONS: dict[str, Operation] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "replace_index": _replace_index,
    "insert_index": _insert_index,
    "remove_index": _remove_index,
    "replace_random": _replace_random,
    "insert_random": _insert_random,
    "remove_random": _remove_random,
    "shuffle": _shuffle,
    "gshuffle": _gshuffle,
    "rotate": _rotate,
    "rotate_any": _rotate_any,
}
_WITH_NEW = ("replace_index", "insert_index", "replace_random", "insert_random")


def _draw(name: str) -> Callable[..., Draw]:
    def draw(rng: random.Random, n: int | None = None, w: int | None = None, **knobs: Any) -> Draw:
        n = choice_of(rng, n, (3, 4, 5, 6))
        w = choice_of(rng, w, (1,))
        items = people(rng, n + (name in _WITH_NEW), w)
        op, answer = OPERATIONS[name](rng, items, knobs)
        shown = items[:-1] if name in _WITH_NEW else items
        knobs = {"n": n, "w": w, **knobs}
        payload = {"task": name, "items": shown, "new": items[-1] if name in _WITH_NEW else None, **knobs}
        if not _random(name):
            payload["answer"] = answer
        return Draw(knobs, (tuple(op), bracketed(shown)), bracketed(answer), payload, [sorted(knobs.items()), items])

    return draw


def _random(name: str) -> bool:
    return name.endswith("_random") or name in ("shuffle", "gshuffle", "rotate_any")


def allowed(payload: Mapping[str, Any], answer: list[Item]) -> bool:
    """True where the answer is one of the right ones."""
    task, items, new = payload["task"], list(payload["items"]), payload["new"]
    n = len(items)
    if task == "shuffle":
        return Counter(answer) == Counter(items)
    if task == "gshuffle":
        g = payload["g"]
        return len(answer) == n and all(Counter(answer[i : i + g]) == Counter(items[i : i + g]) for i in range(0, n, g))
    if task == "rotate_any":
        return any(answer == items[r:] + items[:r] for r in range(n))
    if task == "replace_random":
        return any(answer == [*items[:i], new, *items[i + 1 :]] for i in range(n))
    if task == "insert_random":
        return any(answer == [*items[:i], new, *items[i:]] for i in range(n + 1))
    if task == "remove_random":
        return any(answer == items[:i] + items[i + 1 :] for i in range(n))
    return answer == payload["answer"]


def _length(payload: Mapping[str, Any]) -> int:
    n, task = len(payload["items"]), payload["task"]
    return n + (task.startswith("insert")) - (task.startswith("remove"))


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """Right list: exact for deterministic operations, any legal outcome for random ones."""
    answer = parse(tokens, payload["w"])
    if answer is None:
        return WRONG
    correct = allowed(payload, answer)
    exact = tuple(tokens) == bracketed(answer)
    return Score(correct, correct and exact, exact and len(answer) == _length(payload))


for place, name in enumerate(OPERATIONS):
    task(Family(name, _draw(name), check, canvas=16, group="lists", trained=True, order=place))
