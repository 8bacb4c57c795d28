"""From the readings of a question to its `Decision`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.decisions.calibrate import Calibration
from jaxdlm.decisions.output import Decision
from jaxdlm.decisions.pool import Pooled, confidence, entropy, margin, pool, quantile
from jaxdlm.decisions.questions import Number, Question
from jaxdlm.decisions.read import Raw


class Pipeline(NamedTuple):
    """What stands between readings and answer: r of the question where it is corrected by it, and how strongly."""

    kind: str  # of confidence
    proper: bool  # whether probabilities of options add up
    temperature: float
    calibration: Calibration | None
    prior: np.ndarray | None
    strength: float
    pool: str = "log"

    def pooled(self, question: Question, readings: Sequence[np.ndarray]) -> Pooled:
        """One distribution of several readings."""
        if self.calibration is not None:
            scale, bias, prior = self.calibration.of(question)
            return pool(readings, prior, 1.0, scale, bias, by=self.pool)
        return pool(readings, self.prior, self.strength, 1 / self.temperature, by=self.pool)


def decision(question: Question, raws: Sequence[Raw], pipeline: Pipeline, status: str | None = None) -> Decision:
    """What the readings amount to. status: of a question that its prior leaves without an answer."""
    forwards, columns = sum(raw.reads for raw in raws), sum(raw.columns for raw in raws)
    fixed: dict[str, Any] = {"type": question.kind, "forwards": forwards, "tokens_read": columns}
    status = status or status_of(raws)
    if status != "ok":
        bound = max(raw.bound for raw in raws)
        return Decision(**fixed, value=None, probabilities=None, status=status, bound=bound)
    pooled = pipeline.pooled(question, [raw.logp for raw in raws])
    masses = [np.exp(np.logaddexp.reduce(raw.logp)) if raw.mass is None else raw.mass for raw in raws]
    p, mass = pooled.probabilities, float(np.mean(masses))
    draws = max(1, *(len(raw.drawn) for raw in raws))
    each = [log_p for raw in raws for log_p in raw.drawn or (raw.logp,)]
    told = _told(question, p) | {"stderr": _stderr(question, raws, draws, pipeline)}
    return Decision(
        **fixed, **told, draws=draws, confidence=confidence(pipeline.kind, question.kind, p, mass),
        entropy=entropy(p), margin=margin(p), label_mass=mass if pipeline.proper else None,
        top_is_label=all(raw.top_is_label for raw in raws),
        agreement=float(np.mean([one.argmax() == p.argmax() for one in each])), spread=pooled.spread,
        flips=pooled.flips, bound=max(raw.bound for raw in raws), logits=tuple(pooled.logits.tolist()),
        together=None if raws[0].together is None else question.options[raws[0].together].value,
    )  # fmt: skip


def _stderr(question: Question, raws: Sequence[Raw], draws: int, pipeline: Pipeline) -> dict[Any, float] | None:
    """The jackknife over draws, √((M-1)/M Σ (p_{-m} - mean)²), of the whole pipeline; nan for one draw."""
    if not any(raw.drawn for raw in raws):
        return None
    values = _told(question, np.ones(len(question.options)))["probabilities"]
    if draws == 1:
        return dict.fromkeys(values, float("nan"))
    some = [[raw.without[m] if m < len(raw.without) else raw.logp for raw in raws] for m in range(draws)]
    p = np.array([pipeline.pooled(question, readings).probabilities for readings in some])
    return dict(zip(values, np.sqrt((draws - 1) / draws * ((p - p.mean(0)) ** 2).sum(0)).tolist()))


def close(decision: Decision, below: float) -> bool:
    """Whether the two likeliest options differ by less than this in log p."""
    best = sorted(decision.logits or (), reverse=True)[:2]
    return len(best) == 2 and best[0] - best[1] < below


def status_of(raws: Sequence[Raw]) -> str:
    return next((raw.status for raw in raws if raw.status != "ok"), "ok")


def _told(question: Question, p: np.ndarray) -> dict[str, Any]:
    """The answer that a distribution amounts to, by the kind of question."""
    options, top = question.options, int(np.argmax(p))
    shares = p.tolist()
    if question.kind == "score":
        places = range(len(shares))
        return {"value": top, "probabilities": dict(zip(places, shares)), "score": float(np.dot(list(places), p))}
    told: dict[str, Any] = {"value": options[top].value, "probabilities": {o.value: x for o, x in zip(options, shares)}}
    if question.kind == "predicate":
        return told | {"probability": shares[0]}
    if isinstance(question, Number):
        values = np.array([option.value for option in options], np.float64)
        mean = float(values @ p)
        told |= {"score": mean, "sd": float(np.sqrt(max(0.0, float((values - mean) ** 2 @ p))))}
        told["quantiles"] = tuple(quantile(values.tolist(), p, q) for q in (0.05, 0.5, 0.95))
    return told
