"""Decisions as objects, and as rows of the three shapes: our own, OpenAI's, TypeSafe's."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdlm import argument
from jaxdlm.decisions.questions import Question
from jaxdlm.decisions.render import words
from jaxdlm.decisions.wire import Place

SHAPES = ("jaxdlm", "openai", "typesafe")


@dataclass(frozen=True)
class Decision:
    """The answer to one question about one state.

    Attributes:
        type: choice, predicate, score or number.
        value: the likeliest option; of a score its place from 0; None without an answer.
        probabilities: value -> probability, in the order of the options.
        probability: of yes; None but for a predicate.
        score: Σ i·p_i of levels, Σ value·p of numbers; None else.
        sd, quantiles: of a number: standard deviation, and the 5th, 50th and 95th percentile; None else.
        confidence: 0 to 1, as `confidence=` says.
        entropy: nats over the options; margin: the largest less the second probability.
        label_mass: probability of all options together in the model's own distribution, the mean over readings; None
            under laws that are none (pseudo, anyorder).
        top_is_label: the model's likeliest token was one of theirs, in every reading.
        stderr: value -> of its probability, over draws of noise; nan of one draw, None where nothing is drawn.
        draws: draws of noise; agreement: share of readings with this winner; spread: the largest total variation between
            one reading and the result; flips: readings with another winner.
        forwards: sequences read; tokens_read: their columns.
        bound: total variation that options left out by a search may make.
        given: with sequential=True, name -> value of the answers that stood before this one.
        together: with joint="chain", the answer in the likeliest combination of all answers, which need not be the
            likeliest one by itself.
        reread: it was too close to call, and read again in float32.
        status: ok; nonfinite: logits were NaN or infinite; infeasible: no option can be written; unfinished: max_contexts
            were read before any option's end; skipped: `ask_if` is not met, or there is no answer to what it depends on;
            refused: behind the answers that it depends on it cannot be read.
    """

    type: str
    value: Any
    probabilities: dict[Any, float] | None
    probability: float | None = None
    score: float | None = None
    sd: float | None = None
    quantiles: tuple[float, float, float] | None = None
    confidence: float | None = None
    entropy: float | None = None
    margin: float | None = None
    label_mass: float | None = None
    top_is_label: bool | None = None
    stderr: dict[Any, float] | None = None
    draws: int = 1
    agreement: float | None = None
    spread: float | None = None
    flips: int | None = None
    forwards: int = 0
    tokens_read: int = 0
    bound: float = 0.0
    given: dict[str, Any] | None = None
    together: Any = None
    reread: bool = False
    status: str = "ok"
    logits: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)  # before prior and temperature


class Answers(Sequence["RowAnswers"]):
    """One `RowAnswers` per prompt, in their order."""

    def __init__(self, rows: Sequence["RowAnswers"]) -> None:
        self.rows = tuple(rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        asked = sum(map(len, self.rows))
        return f"<Answers of {len(self)} rows, {asked} questions, {sum(row.forwards for row in self)} sequences read>"

    def to_rows(self, shape: str = "jaxdlm") -> list[dict[str, Any]]:
        """Each row as an object of JSON. shape: jaxdlm, openai or typesafe. Raises InputError for another."""
        argument.check_choice(shape, "shape", SHAPES)
        return [row.to_row(shape) for row in self.rows]


@dataclass(frozen=True)
class RowAnswers(Mapping[str, Decision]):
    """The decisions about one prompt, by the names of the questions.

    reader: fingerprint of all that turned the prompt into numbers; reading: of that less prior, temperature, calibration.
    thought: what the model wrote about the row before it was asked (`think`); None where it was not to.
    """

    id: Any
    questions: tuple[Question, ...]
    decisions: tuple[Decision, ...]
    model: str
    reader: str
    reading: str
    thought: str | None = None

    def __getitem__(self, name: str) -> Decision:
        for question, decision in zip(self.questions, self.decisions):
            if question.name == name:
                return decision
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([question.name for question in self.questions])

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def forwards(self) -> int:
        return sum(decision.forwards for decision in self.decisions)

    @property
    def tokens_read(self) -> int:
        return sum(decision.tokens_read for decision in self.decisions)

    @property
    def status(self) -> str:
        """ok, or what the first question has that was asked and not answered."""
        return next((each.status for each in self.decisions if each.status not in ("ok", "skipped")), "ok")

    def to_row(self, shape: str = "jaxdlm") -> dict[str, Any]:
        """The row as an object of JSON; see `Answers.to_rows`."""
        pairs = list(zip(self.questions, self.decisions))
        if shape == "openai":
            return {
                "answers": [_openai(*pair) for pair in pairs],
                "model": self.model,
                "usage": _usage(self.tokens_read),
            }
        if shape == "typesafe":
            usage = {"input_tokens": self.tokens_read, "output_tokens": 0}
            return {"answers": {q.name: _typesafe(q, d) for q, d in pairs}, "model": self.model, "usage": usage}
        return {
            "id": self.id, "answers": {q.name: _own(q, d) for q, d in pairs},
            "usage": {"forwards": self.forwards, "tokens_read": self.tokens_read},
            "diagnostics": {q.name: _diagnostics(d) for q, d in pairs}, "status": self.status, "reader": self.reader,
            **({} if self.thought is None else {"thought": self.thought}),
        }  # fmt: skip


DIAGNOSTICS = ("label_mass", "top_is_label", "draws", "agreement", "spread", "flips", "forwards", "tokens_read", "bound",
               "status")  # fmt: skip


def _diagnostics(decision: Decision) -> dict[str, Any]:
    told = {name: getattr(decision, name) for name in DIAGNOSTICS}
    if decision.given is not None:
        told["given"] = list(decision.given)
    if decision.together is not None:
        told["together"] = decision.together
    if decision.reread:
        told["reread"] = True
    if decision.stderr is not None and decision.draws > 1:
        told["stderr"] = list(decision.stderr.values())
    return told


def _pairs(decision: Decision, key: str = "value") -> list[dict[str, Any]]:
    return [{key: value, "probability": p} for value, p in (decision.probabilities or {}).items()]


def _own(question: Question, decision: Decision) -> dict[str, Any]:
    row: dict[str, Any] = {"type": decision.type, "value": decision.value}
    if decision.probabilities is None:
        return row
    if decision.type == "predicate":
        row["probability"] = decision.probability
    else:
        row["probabilities"] = _labelled(question, decision) if decision.type == "score" else _pairs(decision)
    if decision.score is not None:
        row["score"] = decision.score
    if decision.quantiles is not None:
        row |= {"sd": decision.sd, "quantiles": list(decision.quantiles)}
    return row | {name: getattr(decision, name) for name in ("confidence", "entropy", "margin")}


def _labelled(question: Question, decision: Decision) -> list[dict[str, Any]]:
    rows = zip(_pairs(decision), question.options)
    return [{"value": pair["value"], "label": option.text, "probability": pair["probability"]} for pair, option in rows]


def _openai(question: Question, decision: Decision) -> dict[str, Any]:
    named = {"name": None if isinstance(question.name, Place) else question.name, "type": decision.type}
    if decision.probabilities is None:
        return named | {"type": "refusal"}
    if decision.type == "predicate":
        return named | {"probability": decision.probability}
    if decision.type == "choice":
        return named | {"choice": decision.value, "confidence": decision.confidence, "probabilities": _pairs(decision)}
    levels = _labelled(question, decision)
    return named | {"confidence": decision.confidence, "probabilities": levels, "score": decision.score}


def _typesafe(question: Question, decision: Decision) -> dict[str, Any]:
    if decision.probabilities is None:
        return {"type": "refusal"}
    if decision.type == "predicate":
        return {"type": "noul", "noul": decision.probability}
    spelled = {option.text: p for option, p in zip(question.options, decision.probabilities.values())}
    if decision.type == "choice":
        return {"type": "choice", "choice": _spelled(decision.value), "confidence": decision.confidence,
                "probabilities": spelled}  # fmt: skip
    if decision.type == "number":
        return _own(question, decision)
    legend = {str(place): _legend(option) for place, option in enumerate(question.options)}
    levels = {str(place): p for place, p in enumerate(decision.probabilities.values())}
    return {"type": "score", "score": decision.score, "confidence": decision.confidence, "legend": legend,
            "probabilities": levels}  # fmt: skip


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _legend(option: Any) -> Any:
    """A level as it was asked: its description, or its label."""
    if isinstance(option.value, str):
        return ": ".join(filter(None, [option.value, words(option.description)]))
    return option.text if option.description is None else option.description


def _usage(columns: int) -> dict[str, Any]:
    return {
        "input_tokens": columns, "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": 0, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": columns,
    }  # fmt: skip
