"""How good probabilities are, against what turned out to be right."""

from typing import NamedTuple

import numpy as np

BINS = 15


class Quality(NamedTuple):
    """n rows. accuracy; nll: -mean log p of the right option, nats; brier: Σ_k (p_k - 1[k = y])²; ece: expected
    calibration error of the winner's probability; floor: what it would be, on average, for labels drawn from p."""

    n: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    floor: float


def quality(p: np.ndarray, y: np.ndarray, draws: int = 200, seed: int = 0) -> Quality:
    """Of probabilities [n, K] and right places [n]."""
    p, y = np.asarray(p, np.float64), np.asarray(y)
    rows = np.arange(len(y))
    brier = float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean())
    return Quality(
        len(y), float((p.argmax(1) == y).mean()), float(-np.log(np.maximum(p[rows, y], 1e-300)).mean()), brier,
        ece(p.max(1), p.argmax(1) == y), ece_floor(p, draws, seed),
    )  # fmt: skip


def ece(top: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Σ_b n_b / n · |accuracy - mean probability| over bins of equal mass, cut only where the probability changes: else
    it would depend on the order of equal ones."""
    order = np.argsort(top, kind="stable")
    top, right = np.asarray(top, np.float64)[order], np.asarray(right, np.float64)[order]
    first = np.searchsorted(top, top, side="left")  # of those equal to each
    cuts = np.unique([0, *(first[at] for at in np.arange(1, bins) * len(top) // bins if at < len(top)), len(top)])
    gaps = [abs(right[a:b].sum() - top[a:b].sum()) for a, b in zip(cuts[:-1], cuts[1:])]
    return float(sum(gaps) / len(top))


def ece_floor(p: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """The mean of `ece` over labels that are drawn from p itself: no calibrated model shows less."""
    p = np.asarray(p, np.float64)
    random = np.random.default_rng(seed)
    top, winner = p.max(1), p.argmax(1)
    cumulative = p.cumsum(1) / p.sum(1, keepdims=True)
    drawn = [(random.random((len(p), 1)) > cumulative).sum(1).clip(0, p.shape[1] - 1) for _ in range(draws)]
    return float(np.mean([ece(top, winner == labels) for labels in drawn]))
