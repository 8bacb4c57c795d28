"""What a number of the report means: intervals, the paired test of "no loss", curves of accuracy against parallelism.

Accuracies are percent in `aup`, `aup_self` and `points`, shares in [0, 1] elsewhere. TPF: counted tokens per forward.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdlm.errors import InputError

Z95, Z95_ONE_SIDED = 1.959964, 1.644854


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of the share right / n: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


class Paired(NamedTuple):
    """Two policies on the same rows. delta: policy minus baseline, half a count added to each cell."""

    n: int
    b: int  # baseline right, policy wrong
    c: int  # baseline wrong, policy right
    delta: float
    se: float
    mcnemar_p: float  # exact, two-sided; p > .05 alone never means "no loss"

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.delta - Z95 * self.se, self.delta + Z95 * self.se

    @property
    def lower(self) -> float:
        """Lower bound of the one-sided 95 % interval, which the test of non-inferiority reads."""
        return self.delta - Z95_ONE_SIDED * self.se

    def noninferior(self, margin: float) -> bool:
        """True iff delta - 1.645 se > -margin (margin a share: 0.01 is one point)."""
        return self.lower > -margin

    def p_inferior(self, margin: float) -> float:
        """One-sided p of "the loss is at least the margin": Φ(-(delta + margin) / se)."""
        return 0.5 * math.erfc((self.delta + margin) / (self.se * math.sqrt(2)))


def paired(baseline: Sequence[bool] | np.ndarray, policy: Sequence[bool] | np.ndarray) -> Paired:
    """Δ = (c - b) / (n + 2), SE = √((b + c + 1) - (c - b)² / (n + 2)) / (n + 2). Raises InputError: unequal lengths."""
    old, new = np.asarray(baseline, bool), np.asarray(policy, bool)
    if old.shape != new.shape:
        raise InputError(f"paired: {old.size} rows against {new.size}; give the same rows under both policies")
    n, b, c = int(old.size), int((old & ~new).sum()), int((~old & new).sum())
    se = math.sqrt((b + c + 1) - (c - b) ** 2 / (n + 2)) / (n + 2)
    return Paired(n, b, c, (c - b) / (n + 2), se, mcnemar(b, c))


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p of b against c discordant rows: min(1, 2 P(X ≤ min(b, c))), X ~ Binomial(b + c, ½)."""
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values of several claims: running maximum of (m - i) p_(i), at most 1."""
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def bootstrap(
    baseline: np.ndarray, policy: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of mean(policy - baseline) over prompts. Arrays [seeds, n]; a prompt's seeds stay together."""
    difference = (np.asarray(policy, np.float64) - np.asarray(baseline, np.float64)).mean(0)
    index = np.random.default_rng(seed).integers(0, difference.size, (draws, difference.size))
    low, high = np.quantile(difference[index].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def aup(rho: Sequence[float], y: Sequence[float], y_max: float, alpha: float = 3.0, drop: float = 5.0) -> float:
    """Accuracy under parallelism (arXiv 2601.07568) of points (TPF, percent).

    Sorted by ρ; points with y_i < y_1 - drop are left out; W(y) = min(1, exp(-α(1 - y / y_max)));
    AUP = ρ_1 y_1 + Σ_{i≥2} ½(ρ_i - ρ_{i-1})(y_i W(y_i) + y_{i-1} W(y_{i-1})).
    y_max: best accuracy of any method on the task. Departure: the official function fails when the last point is one
    to be left out; here it is left out like any other. Raises InputError without points.
    """
    points = _sorted(rho, y)
    points = [(r, v) for r, v in points if v >= points[0][1] - drop]
    return _area(points, y_max, alpha)


def aup_draws(
    tokens: np.ndarray, forwards: np.ndarray, correct: np.ndarray, y_max: float, draws: int = 500, seed: int = 0
) -> np.ndarray:
    """AUP of problems drawn with replacement, [draws]; arrays [settings, n]. The same draws for every curve of n problems,
    so that the differences of two curves are paired."""
    count = correct.shape[1]
    index = np.random.default_rng(seed).integers(0, count, (draws, count))
    sums = [np.asarray(x, np.float64)[:, index].sum(2) for x in (tokens, forwards, correct)]
    rho, y = sums[0] / np.maximum(sums[1], 1), 100 * sums[2] / count
    return np.array([aup(rho[:, draw], y[:, draw], y_max) for draw in range(draws)])


def aup_self(rho: Sequence[float], y: Sequence[float], alpha: float = 3.0, drop: float = 5.0) -> float:
    """AUP that depends on nobody else: y_max = y_1, and the curve ends before the first point below y_1 - drop."""
    points = _sorted(rho, y)
    end = next((i for i, (_, v) in enumerate(points) if v < points[0][1] - drop), len(points))
    return _area(points[:end], points[0][1], alpha)


def _sorted(rho: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    if not len(rho) or len(rho) != len(y):
        raise InputError(f"a curve needs at least one point and as many accuracies as TPFs: got {len(rho)}, {len(y)}")
    return sorted(zip(rho, y), key=lambda point: point[0])


def _area(points: list[tuple[float, float]], y_max: float, alpha: float) -> float:
    def weighed(v: float) -> float:
        return v * min(1.0, math.exp(-alpha * (1 - v / y_max))) if y_max > 0 else 0.0

    first, total = points[0], points[0][0] * points[0][1]
    for (r0, v0), (r1, v1) in zip(points, points[1:]):
        total += 0.5 * (r1 - r0) * (weighed(v1) + weighed(v0))
    return total if len(points) > 1 else first[0] * first[1]


def parallelizability(per_step: Sequence[float], accuracy: Sequence[float]) -> float | None:
    """Σ k acc(k) / Σ acc(k) over k tokens per step (arXiv 2510.04767); None where every accuracy is 0."""
    total = sum(accuracy)
    return sum(k * a for k, a in zip(per_step, accuracy)) / total if total else None


class Oracle(NamedTuple):
    accuracy: float
    tpf: float


def oracle(correct: np.ndarray, tokens: np.ndarray, forwards: np.ndarray) -> Oracle:
    """Per row the setting with the fewest forwards among those with the best score; arrays [settings, n].

    Uses the answers: a bound on choosing the knob per row, and no policy (arXiv 2510.04767, G.2).
    """
    correct, forwards = np.asarray(correct, bool), np.asarray(forwards)
    usable = np.equal(correct, correct.any(0, keepdims=True))
    best = np.argmin(np.where(usable, forwards, np.iinfo(np.int64).max), axis=0, keepdims=True)
    arrays = (correct, np.asarray(tokens), forwards)
    taken = [np.take_along_axis(x, best, 0)[0] for x in arrays]
    return Oracle(float(taken[0].mean()), float(taken[1].sum() / max(1, taken[2].sum())))


def tokens_to_end(tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """int[B]: ids up to and including the first end-of-text, all of them where there is none. Padding never counts."""
    is_end = np.isin(tokens, np.asarray(list(ends), tokens.dtype))
    return np.where(is_end.any(1), is_end.argmax(1) + 1, tokens.shape[1]).astype(np.int64)


def kendall(commit_step: np.ndarray, counted: np.ndarray) -> list[float | None]:
    """τ-b of commit step against column, over the first `counted` columns of each row; None where all are equal.

    1: left to right; -1: right to left.
    """
    steps = np.asarray(commit_step)
    rows, width = steps.shape
    used = np.arange(width)[None] < np.asarray(counted)[:, None]
    score, untied, pairs = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for gap in range(1, width):
        both = used[:, gap:]  # used is a prefix: the earlier column is used, too
        sign = np.sign(steps[:, gap:] - steps[:, :-gap]) * both
        score, untied, pairs = score + sign.sum(1), untied + (sign != 0).sum(1), pairs + both.sum(1)
    return [float(s / math.sqrt(u * p)) if u else None for s, u, p in zip(score, untied, pairs)]


def committed(commit_step: np.ndarray, counted: np.ndarray) -> list[float]:
    """Mean number of counted tokens that a row commits at its forward 0, 1, 2, ..."""
    steps = np.asarray(commit_step)
    used = (np.arange(steps.shape[1])[None] < np.asarray(counted)[:, None]) & (steps >= 0)
    return [round(float(x), 4) for x in np.bincount(steps[used]) / len(steps)] if used.any() else []
