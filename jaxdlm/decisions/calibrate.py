"""A temperature and a prior per question, fitted on labelled answers, kept in a file that no other model or question reads."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.pool import FLOOR, log_softmax, pool
from jaxdlm.decisions.questions import Question, place_of
from jaxdlm.errors import InputError
from jaxdlm.whole import whole_file

FORMAT, VERSION = "jaxdlm-calibration", 1
FARTHEST = 50.0  # of the bias
STEEPEST = math.log(100.0)  # of log(1 / T): labels that the answers separate would have T run to 0
ROUNDS = 200


@dataclass(frozen=True)
class Fit:
    """One question. T: temperature. bias: added to the logit of yes. prior: mean answer of the labelled rows, or None.
    at_bound: T is as far as it may go, and the rows say no more. nll_before, nll_after: mean over the n rows, nats."""

    name: str
    temperature: float
    bias: float
    prior: tuple[float, ...] | None
    n: int
    nll_before: float
    nll_after: float
    at_bound: bool


@dataclass(frozen=True)
class Calibration:
    """Fits by the fingerprint of their questions; model, reading: fingerprints of what they were fitted with."""

    model: str
    reading: str
    fits: Mapping[str, Fit] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def text(self) -> str:
        """The file's contents."""
        head = {"format": FORMAT, "version": VERSION, "model": self.model, "reading": self.reading}
        return json.dumps({**head, "questions": {key: asdict(fit) for key, fit in self.fits.items()}}, indent=1) + "\n"

    def save(self, path: Any) -> None:
        """Writes the file, whole or not at all."""
        target = argument.path(path, "calibration")
        try:
            with whole_file(target) as out:
                out.write(self.text().encode())
        except OSError as error:
            raise InputError(f"calibration {target} cannot be written ({error.strerror}): check the path") from None

    def check_model(self, lm: Any) -> None:
        """Raises InputError where it was fitted with another model."""
        if self.model != model_of(lm):
            raise InputError(f"the calibration belongs to another model than {lm.name}: fit one with this model")

    def check_reader(self, reading: str) -> None:
        """Raises InputError where the questions were read in another way."""
        if self.reading != reading:
            raise InputError(
                "the calibration was fitted with other read, law, orders or templates: use the same, or fit another"
            )

    def check_question(self, question: Question, where: str) -> None:
        """Raises InputError for a question that was not fitted."""
        fit, options = self.fits.get(question.fingerprint), len(question.options)
        if fit is None and options > 1:
            raise InputError(f"{where}: the calibration has no such question: fit it, or leave calibration out")
        if fit is not None and fit.prior is not None and len(fit.prior) != options:
            raise InputError(
                f"{where}: the calibration's prior has {len(fit.prior)} shares for {options} options: fit it again"
            )

    def of(self, question: Question) -> tuple[float, float, np.ndarray | None]:
        """(1 / T, bias, prior)."""
        fit = self.fits.get(question.fingerprint)
        if fit is None:  # of one option
            return 1.0, 0.0, None
        return 1 / fit.temperature, fit.bias, None if fit.prior is None else np.array(fit.prior)


def read(calibration: Any) -> Calibration:
    """A calibration, or the one in a file. Raises InputError for anything else."""
    if isinstance(calibration, Calibration):
        return calibration
    path = argument.path(calibration, "calibration")
    try:
        value = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise InputError(f"calibration {path} cannot be read ({error.strerror}): check the path") from None
    except (ValueError, RecursionError):
        value = None
    try:
        return _parsed(value)
    except (InputError, TypeError, KeyError, AttributeError):
        raise InputError(f"calibration {path} is not one of jaxdlm decide --calibrate: fit it again") from None


def _parsed(value: Any) -> Calibration:
    if value["format"] != FORMAT or value["version"] != VERSION:
        raise KeyError("format")
    fits = {}
    for key, each in value["questions"].items():
        fit = Fit(**each | {"prior": None if each["prior"] is None else tuple(each["prior"])})
        slack = 1 + 1e-9  # of the bounds that `fit` keeps to
        argument.real(math.exp(-STEEPEST) / slack, math.exp(STEEPEST) * slack)(fit.temperature, "temperature")
        argument.real(-FARTHEST, FARTHEST)(fit.bias, "bias")
        argument.text(fit.name, "name")
        argument.whole(1)(fit.n, "n")
        for share in fit.prior or ():
            argument.real(0, 1)(share, "prior")
        fits[key] = fit
    return Calibration(argument.text(value["model"], "model"), argument.text(value["reading"], "reading"), fits)


def model_of(lm: Any) -> str:
    """Fingerprint of configuration, weights and tokenizer."""
    from jaxdlm.batch import fingerprint

    return fingerprint.digest(fingerprint.model(lm))


def fit(lm: Any, answers: Sequence[Any], truths: Sequence[Mapping[str, Any]], *, prior: bool = False) -> Calibration:
    """T = argmin -mean log softmax(z / T)_y per question, by bisection: convex in 1 / T (arXiv 1706.04599); of yes/no a
    bias as well. prior: first z - log of the mean answer (arXiv 2309.17249), which takes labels to be balanced.

    answers: of `decide` without calibration. truths: per row name -> the right value, of scores the place of the level.
    Raises InputError for a value that is no option, or no labelled row.
    """
    groups: dict[str, tuple[Question, list[np.ndarray], list[int]]] = {}
    for index, (row, truth) in enumerate(zip(answers, truths, strict=True)):
        for question in row.questions:
            if question.name not in truth or row[question.name].logits is None:
                continue
            place = place_of(question, truth[question.name], f"row {index}")
            _, logits, labels = groups.setdefault(question.fingerprint, (question, [], []))
            logits.append(np.array(row[question.name].logits))
            labels.append(place)
    if not groups:
        raise InputError("no row has both an answer and a label: give answers by the names of the questions")
    fits = {key: _fit(question, np.array(z), np.array(y), prior) for key, (question, z, y) in groups.items()}
    return Calibration(model_of(lm), answers[0].reading, fits)


def _fit(question: Question, z: np.ndarray, y: np.ndarray, prior: bool) -> Fit:
    z = np.maximum(z, -1e4)  # an option that cannot be written
    r = np.maximum(np.exp(z).mean(0), FLOOR) if prior else None
    moved = z if r is None else z - np.log(r)
    beta, bias, at_bound = _binary(moved, y) if question.kind == "predicate" else _temperature(moved, y)
    after = [pool([one], r, 1.0, beta, bias).probabilities[label] for one, label in zip(z, y)]
    return Fit(
        question.name, float(1 / beta), float(bias), None if r is None else tuple(r.tolist()), len(y), _nll(z, y),
        float(-np.log(np.maximum(after, 1e-300)).mean()), at_bound,
    )  # fmt: skip


def _nll(z: np.ndarray, y: np.ndarray) -> float:
    return float(-np.mean([log_softmax(one)[label] for one, label in zip(z, y)]))


def _temperature(z: np.ndarray, y: np.ndarray) -> tuple[float, float, bool]:
    """(1 / T, 0, whether at the bound): the root of mean(E_β z - z_y), which rises in log β."""
    own = z[np.arange(len(y)), y]

    def slope(log_beta: float) -> float:
        scaled = z * math.exp(log_beta)
        p = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1)[:, None])
        return float(((p * -z).sum(1) + own).mean())

    low, high = -STEEPEST, STEEPEST
    if slope(high) > 0 or slope(low) < 0:
        end = high if slope(high) > 0 else low
        return math.exp(end), 0.0, True
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2), 0.0, False


def _binary(z: np.ndarray, y: np.ndarray) -> tuple[float, float, bool]:
    """(a, b, whether at the bound) of σ(a·logit + b) by Newton's method, a in [1/100, 100]."""
    logit, yes = z[:, 0] - z[:, 1], (y == 0).astype(np.float64)
    inputs = np.stack([logit, np.ones_like(logit)], axis=1)
    at = np.array([1.0, 0.0])

    def loss(x: np.ndarray) -> float:
        t = inputs @ x
        return float((np.logaddexp(0, t) - yes * t).mean())

    for _ in range(ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(inputs @ at, -700, 700)))
        gradient = inputs.T @ (p - yes) / len(y)
        bend = (inputs.T * (p * (1 - p))) @ inputs / len(y) + 1e-9 * np.eye(2)
        step, length = np.linalg.solve(bend, gradient), 1.0
        while length > 1e-6 and loss(_inside(at - length * step)) > loss(at):
            length /= 2
        new = _inside(at - length * step)
        if np.abs(new - at).max() < 1e-10:
            break
        at = new
    edge = math.exp(STEEPEST)
    return float(at[0]), float(at[1]), bool(at[0] >= edge or at[0] <= 1 / edge or abs(at[1]) >= FARTHEST)


def _inside(x: np.ndarray) -> np.ndarray:
    edge = math.exp(STEEPEST)
    return np.array([np.clip(x[0], 1 / edge, edge), np.clip(x[1], -FARTHEST, FARTHEST)])
