"""What an ideal model reaches when columns are committed in parallel: exact distributions of the benchmark's tasks.

Total correlation C(Y) = Σ_j H(y_j) - H(Y) in bits is the KL error of one fully parallel step (arXiv 2510.04767,
Theorem 1). n is the number of one-token items. Functions named after a task give its C; `*_all_at_once` the
probability that sampling every column from its marginal (temperature 1) is right; `*_top_k` greedy decoding of k
items per step with exact ties broken at random.
"""

import math

import numpy as np

from jaxdlm.errors import InputError


def entropy(probabilities: np.ndarray) -> float:
    """-Σ p log₂ p, zeros left out."""
    p = np.asarray(probabilities, np.float64)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def marginals(answers: np.ndarray, weights: np.ndarray | None = None) -> list[dict[int, float]]:
    """Per column: token -> probability."""
    answers, weights = _distribution(answers, weights)
    return [{int(token): float(weights[column == token].sum()) for token in np.unique(column)} for column in answers.T]


def total_correlation(answers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """C(Y) in bits of a distribution given as answers [R, G] (repeats add up) and weights [R]."""
    answers, weights = _distribution(answers, weights)
    _, inverse = np.unique(answers, axis=0, return_inverse=True)
    joint = np.bincount(inverse.reshape(-1), weights)
    return sum(entropy(np.array(list(column.values()))) for column in marginals(answers, weights)) - entropy(joint)


def all_at_once(answers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Probability that independent draws from the marginals form one of the answers."""
    columns = marginals(answers, weights)
    return float(sum(math.prod(columns[j][int(v)] for j, v in enumerate(row)) for row in np.unique(answers, axis=0)))


def _distribution(answers: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    answers = np.asarray(answers)
    weights = np.ones(len(answers)) if weights is None else np.asarray(weights, np.float64)
    return answers, weights / weights.sum()


def shuffle(n: int, w: int = 1) -> float:
    """w n log₂ n - log₂ n!, names of w tokens that are all different."""
    return w * n * math.log2(n) - math.log2(math.factorial(n))


def shuffle_all_at_once(n: int) -> float:
    """n! / nⁿ, greedy (random ties) and sampled alike."""
    return math.factorial(n) / n**n


def shuffle_top_k(n: int, k: int) -> float:
    """Π over steps of P(m, k) / mᵏ, m items being left."""
    probability, left = 1.0, n
    while left > 0:
        size = min(k, left)
        probability *= math.perm(left, size) / left**size
        left -= size
    return probability


def gshuffle(n: int, g: int) -> float:
    """(n / g) · shuffle(g): independent groups."""
    return _groups(n, g) * shuffle(g)


def gshuffle_all_at_once(n: int, g: int) -> float:
    """(g! / gᵍ)^(n / g)."""
    return shuffle_all_at_once(g) ** _groups(n, g)


def _groups(n: int, g: int) -> int:
    if n % g:
        raise InputError(f"groups of {g} do not divide {n} items")
    return n // g


def replace_random(n: int) -> float:
    """(n - 1)(log₂ n - log₂(n - 1))."""
    return (n - 1) * (math.log2(n) - math.log2(n - 1)) if n > 1 else 0.0


def replace_random_all_at_once(n: int) -> float:
    """((n - 1) / n)^(n - 1): exactly one slot takes the new item, n · (1/n) · ((n-1)/n)^(n-1)."""
    return ((n - 1) / n) ** (n - 1)


def replace_random_top_k(n: int, k: int) -> float:
    """Greedy by confidence, k dividing n: 1, 1/2, then 0 from k = 3 on."""
    return {1: 1.0, 2: 0.5}.get(k, 0.0) if n > 2 else float(k == 1)


def insert_random(n: int) -> float:
    """Σ_j H((n - j, 1, j) / (n + 1)) - log₂(n + 1), slots j = 0..n."""
    slots = (np.array([n - j, 1, j]) / (n + 1) for j in range(n + 1))
    return sum(map(entropy, slots)) - math.log2(n + 1)


def insert_random_all_at_once(n: int) -> float:
    """Σ_i 1/(n+1) · Π_{j<i} (n-j)/(n+1) · Π_{j>i} j/(n+1)."""
    m = n + 1
    return sum(
        math.prod((n - j) / m for j in range(i)) / m * math.prod(j / m for j in range(i + 1, m)) for i in range(m)
    )


def remove_random(n: int) -> float:
    """Σ_j h₂((j + 1) / n) - log₂ n, slots j = 0..n-2."""
    return sum(entropy(np.array([(j + 1) / n, (n - 1 - j) / n])) for j in range(n - 1)) - math.log2(n)


def remove_random_all_at_once(n: int) -> float:
    """Σ_i Π_{j<i} (n-1-j)/n · Π_{j≥i} (j+1)/n, i = 0..n-1 the item that goes."""
    return sum(
        math.prod((n - 1 - j) / n for j in range(i)) * math.prod((j + 1) / n for j in range(i, n - 1)) for i in range(n)
    )


def rotate_any(n: int) -> float:
    """(n - 1) log₂ n."""
    return (n - 1) * math.log2(n)


def rotate_any_top_k(n: int, k: int) -> float:
    """n^(1-k): the first step must agree with itself, later ones are certain."""
    return float(n) ** (1 - min(k, n))


def couple_entropy(n: int, rho: float) -> float:
    """H of n slots: p₁ = ρ/2 + (1-ρ)2⁻ⁿ for each of the two all-alike answers, p₀ = (1-ρ)2⁻ⁿ for the others."""
    p0 = (1 - rho) * 2.0**-n
    p1 = rho / 2 + p0
    return entropy(np.array([p1, p1, *[p0] * (2**n - 2)]))


def couple(n: int, rho: float) -> float:
    """n - H."""
    return n - couple_entropy(n, rho)


def couple_alike(n: int, rho: float) -> float:
    """True probability that all slots are alike: ρ + (1 - ρ) 2^(1-n)."""
    return rho + (1 - rho) * 2.0 ** (1 - n)


def couple_top_k(k: int) -> float:
    """ρ = 1: 2^(1-k), rate of all alike."""
    return 2.0 ** (1 - k)


def latin_square() -> float:
    """16 · 2 - log₂ 576 bits, squares of order 4 over stated symbols."""
    return 32 - math.log2(576)
