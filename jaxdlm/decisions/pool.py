"""From readings of a question to one distribution over its options: orders, prior, temperature, in float64 on the host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.questions import Question
from jaxdlm.errors import InputError

FLOOR = 1e-9  # of a prior
CONTENT_FREE = ("N/A", "[MASK]", "")  # states that say nothing (arXiv 2102.09690)
MOST_ORDERS = 255
POOLS = ("log", "mean")
CONFIDENCES = ("jev", "mass", "entropy")


def orders_of(question: Question, orders: Any) -> list[tuple[int, ...]]:
    """The listings that a question is read in, each as places of its options.

    1: as given. "reverse": and backwards. "cyclic": every option at every place once, from the options sorted by their
    words, so that the listing does not matter. n: n of these, evenly. Levels and yes/no have two listings at most.
    """
    count = len(question.options)
    plain = tuple(range(count))
    if orders == 1 or count == 1:
        return [plain]
    if orders == "reverse" or question.kind in ("score", "predicate"):
        return [plain, plain[::-1]]
    by_text = sorted(plain, key=lambda k: (question.options[k].text, str(type(question.options[k].value))))
    number = count if orders == "cyclic" else min(count, orders)
    turns = [index * count // number for index in range(number)]
    return [tuple(by_text[turn:] + by_text[:turn]) for turn in turns]


def read_orders(orders: Any) -> Any:
    """The argument, checked."""
    if isinstance(orders, str):
        return argument.check_choice(orders, "orders", ("reverse", "cyclic"))
    return argument.whole(1, MOST_ORDERS)(orders, "orders")


class Prior(NamedTuple):
    """strength γ of the correction by what a state without content gives."""

    strength: float


def read_prior(prior: Any) -> Prior | None:
    """None; "contextual"; a number γ in [0, 1]."""
    if prior is None:
        return None
    if isinstance(prior, str):
        argument.check_choice(prior, "prior", ("contextual",))
        return Prior(1.0)
    return Prior(argument.real(0, 1)(prior, "prior"))


@dataclass(frozen=True)
class Pooled:
    """probabilities: float64[K]. logits: their logarithms before prior and temperature. spread: the largest total
    variation between one reading and the result. flips: readings whose likeliest option is another one."""

    probabilities: np.ndarray
    logits: np.ndarray
    spread: float
    flips: int


def log_softmax(z: np.ndarray) -> np.ndarray:
    """z - log Σ exp z; -inf stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return z - np.logaddexp.reduce(z)


def pool(
    readings: Sequence[np.ndarray],
    prior: np.ndarray | None = None,
    strength: float = 1.0,
    scale: float = 1.0,
    bias: float = 0.0,
    by: str = "log",
) -> Pooled:
    """z = mean of log p over readings - γ log r, p = softmax(scale · z), with `bias` on the first of two options.

    readings: log P of each, in the order of the options. prior: r. scale: 1 / T. by: "mean": the log of the mean of p.
    """
    each = np.array([log_softmax(np.asarray(one, np.float64)) for one in readings])
    z = logits = log_softmax(each.mean(0) if by == "log" else np.logaddexp.reduce(each, axis=0))
    if prior is not None:
        z = log_softmax(z - strength * np.log(np.maximum(prior, FLOOR)))
    scaled = np.where(z == -np.inf, -np.inf, z * scale)
    if bias:
        scaled = scaled + np.array([bias, *[0.0] * (len(z) - 1)])
    p = np.exp(log_softmax(scaled))
    winner = int(np.argmax(p))
    same = [int(np.argmax(one)) == winner for one in each]
    spread = max(0.5 * float(np.abs(np.exp(one) - p).sum()) for one in each) if len(each) > 1 else 0.0
    return Pooled(p, logits, spread, same.count(False))


def confidence(kind: str, question_kind: str, p: np.ndarray, label_mass: float) -> float:
    """jev: (max p - 1/K) / (1 - 1/K), of levels max(0, 1 - Σ p_i |i - mode| / mean_i |i - (K-1)/2|); mass: the largest p
    times the probability of all options; entropy: 1 - H / ln K. One option: 1."""
    count, top = len(p), int(np.argmax(p))
    if kind == "mass":
        return float(p[top] * label_mass)
    if count == 1:
        return 1.0
    if kind == "entropy":
        return float(1 - entropy(p) / math.log(count))
    if question_kind in ("score", "number"):
        places = np.arange(count)
        return max(0.0, float(1 - (p * np.abs(places - top)).sum() / np.abs(places - (count - 1) / 2).mean()))
    return float((p[top] - 1 / count) / (1 - 1 / count))


def entropy(p: np.ndarray) -> float:
    """Nats."""
    return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum())


def margin(p: np.ndarray) -> float:
    """The largest less the second probability."""
    best = np.sort(p)[::-1]
    return float(best[0] - best[1]) if len(p) > 1 else float(best[0])


def quantile(values: Sequence[float], p: np.ndarray, q: float) -> float:
    """The smallest value whose cumulative probability reaches q; values ascending."""
    reached = np.cumsum(p) >= q - 1e-12
    return float(values[int(np.argmax(reached)) if reached.any() else len(p) - 1])


def read_temperature(temperature: Any) -> float:
    """Above 0."""
    value = argument.real(above=0, high=1e6)(temperature, "temperature")
    if value < 1e-6:
        raise InputError(
            f"temperature={value}: must be at least 1e-6; the likeliest option is `value` at any temperature"
        )
    return value
