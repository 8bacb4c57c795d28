"""Contestants timed in turns, so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax


def clock(work: Callable[[], Any]) -> float:
    """Seconds, results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def in_turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Every name once a round; who begins changes from round to round."""
    names = list(names)
    for number in range(rounds):
        turn = number % len(names)
        yield from names[turn:] + names[:turn]


def contest(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round to warm up."""
    for work in works.values():
        clock(work)
    times: dict[str, list[float]] = {name: [] for name in works}
    for name in in_turns(works, rounds):
        times[name].append(clock(works[name]))
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
