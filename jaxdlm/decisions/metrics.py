"""How good probabilities are, against what turned out to be right."""

from typing import NamedTuple

import numpy as np

BINS = 15


class Quality(NamedTuple):
    """n rows. accuracy; nll: -mean log p of the right option, nats; brier: Σ_k (p_k - 1[k = y])²; ece: expected
    calibration error of the winner's probability, low, high: its 95 % interval (`ece_interval`); floor: what it would be,
    on average, for labels drawn from p. covered: `covered`."""

    n: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    low: float
    high: float
    floor: float
    covered: float


def quality(p: np.ndarray, y: np.ndarray, draws: int = 200, seed: int = 0) -> Quality:
    """Of probabilities [n, K] and right places [n]."""
    p, y = np.asarray(p, np.float64), np.asarray(y)
    rows = np.arange(len(y))
    brier = float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean())
    top, right = p.max(1), p.argmax(1) == y
    return Quality(
        len(y), float(right.mean()), float(-np.log(np.maximum(p[rows, y], 1e-300)).mean()), brier, ece(top, right),
        *ece_interval(top, right, draws, seed), ece_floor(p, draws, seed), covered(top, right),
    )  # fmt: skip


def ece(top: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Σ_b n_b / n · |accuracy - mean probability| over bins of equal mass, cut only where the probability changes: else
    it would depend on the order of equal ones."""
    order = np.argsort(top, kind="stable")
    top, right = np.asarray(top, np.float64)[order], np.asarray(right, np.float64)[order]
    gaps = [abs(right[part].sum() - top[part].sum()) for part in _bins(top, bins)]
    return float(sum(gaps) / len(top))


def _bins(top: np.ndarray, bins: int) -> list[slice]:
    """Of sorted values."""
    first = np.searchsorted(top, top, side="left")  # of those equal to each
    cuts = np.unique([0, *(first[at] for at in np.arange(1, bins) * len(top) // bins if at < len(top)), len(top)])
    return [slice(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:])]


def ece_floor(p: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """The mean of `ece` over labels that are drawn from p itself: no calibrated model shows less."""
    p = np.asarray(p, np.float64)
    random = np.random.default_rng(seed)
    top, winner = p.max(1), p.argmax(1)
    cumulative = p.cumsum(1) / p.sum(1, keepdims=True)
    drawn = [(random.random((len(p), 1)) > cumulative).sum(1).clip(0, p.shape[1] - 1) for _ in range(draws)]
    return float(np.mean([ece(top, winner == labels) for labels in drawn]))


def ece_interval(top: np.ndarray, right: np.ndarray, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of `ece` over rows drawn again with replacement. Drawn rows show more error than the
    rows themselves, as a bin of few rows does: read it beside the floor."""
    random, count = np.random.default_rng(seed), len(top)
    picks = random.integers(0, count, (draws, count))
    errors = [ece(np.asarray(top)[pick], np.asarray(right)[pick]) for pick in picks]
    low, high = np.quantile(errors, [0.025, 0.975])
    return float(low), float(high)


def covered(top: np.ndarray, right: np.ndarray, wrong: float = 0.05) -> float:
    """The largest share of rows, the surest first, of which at most so many are wrong; equal probabilities stay together."""
    order = np.argsort(-np.asarray(top, np.float64), kind="stable")
    top, errors = np.asarray(top, np.float64)[order], np.cumsum(~np.asarray(right, bool)[order])
    count = np.arange(1, len(top) + 1)
    ends = np.append(top[1:] != top[:-1], True)
    return float(max(count[ends & (errors <= wrong * count)], default=0) / len(top))


class Levels(NamedTuple):
    """Of scores. distance: mean of |Σ i p_i - y|. ranked: ranked probability score, Σ over levels of (F - 1[level >= y])²."""

    distance: float
    ranked: float


def of_levels(p: np.ndarray, y: np.ndarray) -> Levels:
    """Of probabilities [n, K] of levels and right places [n]."""
    p, y, levels = np.asarray(p, np.float64), np.asarray(y), np.arange(np.shape(p)[1])
    reached = levels[None, :] >= y[:, None]
    return Levels(float(np.abs(p @ levels - y).mean()), float(((p.cumsum(1) - reached) ** 2).sum(1).mean()))


class Bin(NamedTuple):
    """Rows whose winner has about this probability. p: its mean. accuracy; low, high: Wilson's 95 % interval of it."""

    n: int
    p: float
    accuracy: float
    low: float
    high: float


def reliability(top: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Accuracy by the winner's probability, over the bins that `ece` sums."""
    order = np.argsort(top, kind="stable")
    top, right = np.asarray(top, np.float64)[order], np.asarray(right, np.float64)[order]
    made = []
    for part in _bins(top, bins):
        n, share = part.stop - part.start, float(right[part].mean())
        z, spread = 1.96, 1.96**2 / n
        middle = (share + spread / 2) / (1 + spread)
        side = z / (1 + spread) * np.sqrt(share * (1 - share) / n + spread / (4 * n))
        made.append(Bin(n, float(top[part].mean()), share, float(middle - side), float(middle + side)))
    return made
