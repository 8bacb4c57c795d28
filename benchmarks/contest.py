"""Contestants timed in turns, so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def clock(work: Callable[[], Any]) -> float:
    """Seconds, results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def contest(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round to warm up; the order turns from round to round."""
    for work in works.values():
        clock(work)
    times: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(clock(works[name]))
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
