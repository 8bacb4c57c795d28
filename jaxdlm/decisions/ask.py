"""`decide`: prompts and typed questions in, probabilities out."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.core.keys import randomness_key
from jaxdlm.decisions import calibrate, spellings, thought
from jaxdlm.decisions import joint as several
from jaxdlm.decisions.laws import LAWS, Limits, masked
from jaxdlm.decisions.noisy import noise_of
from jaxdlm.decisions.output import Answers, Decision, RowAnswers
from jaxdlm.decisions.pool import (
    CONFIDENCES,
    CONTENT_FREE,
    Pooled,
    confidence,
    entropy,
    margin,
    orders_of,
    pool,
    quantile,
    read_orders,
    read_prior,
    read_temperature,
)  # fmt: skip
from jaxdlm.decisions.questions import Number, Question
from jaxdlm.decisions.read import Plan, Raw, drive, started, together
from jaxdlm.decisions.render import Slot, read_templates, render
from jaxdlm.decisions.wire import one_set, read_questions
from jaxdlm.errors import InputError
from jaxdlm.layout import SEED, listed, row_numbers

READS = ("label", "text")
MOST_DRAWS = 1024
IMPROPER = ("pseudo", "anyorder")  # laws whose sum over all texts is not 1


def decide(
    lm: Any, prompts: Sequence[Any], questions: Any, *, read: str = "label", law: str = "auto", joint: bool | str = False,
    sequential: bool = False, orders: int | str = 1, draws: int | str = "auto", templates: Any = None,
    calibration: Any = None, prior: str | float | None = None, temperature: float = 1.0, cfg: float = 0.0,
    width: int | None = None, cache: str = "auto", seed: int = 0, ids: Sequence[Any] | None = None, batch: int = 16,
    confidence: str = "jev", max_contexts: int = 4096, tolerance: float = 0.01, tokenisations: str = "canonical",
    think: int = 0,
) -> Answers:  # fmt: skip
    """The probability of every allowed answer to typed questions about each prompt, read from a few forwards.

    p_k = P_k / Σ P over the options of a question, P_k by the law; then the mean of log p over orders and templates, the
    prior's correction, the temperature (arXiv 2102.09690), all in float64.

    Args:
        lm: from `jaxdlm.load`.
        prompts: as in `decode`: what is decided about. A dict is shown as JSON.
        questions: one set for all prompts, or a list with one for each. A set is a list of `Choice`, `Predicate`, `Score`,
            `Number` or of objects as OpenAI's /v1/decisions has them, or a map from names to objects as TypeSafe's
            /v1/systemone has them.
        read: "label": options are listed in the prompt under labels of one token, and these are read. "text": the words of
            the options are scored, and are not listed. Numbers are always read as text.
        law: "slot": one column. "chain": left to right, the end included; sums to 1 over all texts. "product": all columns
            as if independent, one read. "pseudo", "anyorder": see docs/decisions.md. "auto": slot for labels, chain for text.
        joint: all questions in one reply, every label open at once: marginals given the other questions' words and not their
            answers; one read (models with masks or noise). "chain": marginals of P(a_1 .. a_S) = Π p(a_s | those before),
            from all combinations, or from texts drawn where these are more than 256 contexts; and the likeliest answers
            together.
        sequential: all in one reply, one after the other, each given the likeliest answers before it.
        orders: 1, "reverse", "cyclic" or a number: listings of the options that are read and pooled.
        draws: of the noise of a model with uniform noise, whose probabilities are averaged. "auto": 1, and 4 of a question
            whose answer has more than 0.1 nats of entropy then. Else texts that joint="chain" draws: "auto" is 64.
        templates: one or several, pooled: a prompt with {state}, {instructions}, {options}, {ask}, or a `Template`.
        calibration: a file that `jaxdlm decide --calibrate` has written, or what `jaxdlm.decisions.calibrate.fit` returns.
        prior: "contextual" or its strength γ in [0, 1]: log p - γ log r, r from states without content.
        temperature: p = softmax(log p / T); 1. A calibration brings its own.
        cfg: guidance of strength w of labels of masked models, (w + 1) log p - w log u, u with masks in place of the prompt.
        width: open columns of a full-attention masked model under read="text"; default: whole blocks.
        cache: "auto" or "none": every sequence is read whole.
        seed, ids: key the noise of a row, where there is any; ids come back as the ids of rows, by default their places.
        batch: sequences per program, always that many.
        confidence: "jev", "mass" or "entropy"; see `jaxdlm.decisions.pool.confidence`.
        max_contexts: sequences that a question may read; above, the likeliest first, until at most a share `tolerance` of
            the probability is left. The distance that this may make is `bound`.
        tokenisations: "canonical": options under read="text" as the tokenizer spells them. "all": the sum over every way in
            which tokens spell the same letters, up to 4096 of each (law chain or product).
        think: tokens that the model may write about a row before it is asked; `thought` of the row's answers has them.

    A row's bits depend on its own prompt and questions, the model and these arguments, and on nothing else.

    Raises:
        InputError: for anything that cannot be read; row, question and fix are named. Nothing is read then.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> names = jd.Choice("answer", ["[ Omar , Fay , Kate ]", "[ Kate , Fay , Omar ]"])
        >>> answers = jd.decide(lm, ["reverse : [ Omar , Fay , Kate ]"], [names], read="text")
        >>> answers[0]["answer"].value
        '[ Kate , Fay , Omar ]'
    """
    reader = Reader(
        lm, read=read, law=law, orders=orders, draws=draws, templates=templates, calibration=calibration, prior=prior,
        temperature=temperature, width=width, cache=cache, seed=seed, batch=batch, confidence=confidence,
        max_contexts=max_contexts, tolerance=tolerance, joint=joint, sequential=sequential, cfg=cfg,
        tokenisations=tokenisations, think=think,
    )  # fmt: skip
    prompts = listed(prompts)
    numbers = list(range(len(prompts))) if ids is None else row_numbers(ids, len(prompts))
    if one_set(questions):
        sets = [read_questions(questions)] * len(prompts)
    elif len(questions) != len(prompts):
        raise InputError(f"questions has {len(questions)} sets for {len(prompts)} prompts: give one, or one per prompt")
    else:
        sets = [read_questions(each, f"questions[{index}]") for index, each in enumerate(questions)]
    thoughts: list[str] | None = None
    if reader.think:
        given = {"seed": reader.seed, "ids": numbers, "batch": reader.batch}
        prompts, thoughts = thought.think(lm, prompts, sets, reader.think, **given)
    rows = [reader.prepare(*each, f"row {index}") for index, each in enumerate(zip(prompts, sets, numbers))]
    answers = reader.answer(rows)
    if thoughts is not None:
        answers = [dataclasses.replace(row, thought=text) for row, text in zip(answers, thoughts, strict=True)]
    return Answers(answers)


class Asked(NamedTuple):
    """A row that can be read; its plan gives the readings of each question."""

    id: Any
    questions: tuple[Question, ...]
    plan: Plan[list[list[Raw]]]


class Reader:
    """Settings of a call, checked, and the priors that it has read."""

    def __init__(
        self, lm: Any, *, read: str = "label", law: str = "auto", orders: Any = 1, draws: Any = "auto",
        templates: Any = None, calibration: Any = None, prior: Any = None, temperature: Any = 1.0,
        width: Any = None, cache: Any = "auto", seed: Any = 0, batch: Any = 16, confidence: Any = "jev",
        max_contexts: Any = 4096, tolerance: Any = 0.01, joint: Any = False, sequential: Any = False,
        cfg: Any = 0.0, tokenisations: Any = "canonical", think: Any = 0,
    ) -> None:  # fmt: skip
        self.lm = argument.model(lm)
        if isinstance(joint, str) and joint != "chain":
            argument.refuse(joint, "joint", 'true, false or "chain"')
        self.joint = joint if isinstance(joint, str) else argument.flag(joint, "joint")
        self.sequential = argument.flag(sequential, "sequential")
        if self.joint or self.sequential:
            self._check_reply(read=(read, "label"), orders=(orders, 1), templates=(templates, None), prior=(prior, None),
                              calibration=(calibration, None), cfg=(cfg, 0.0))  # fmt: skip
        self.read = argument.check_choice(read, "read", READS)
        self.law = argument.check_choice(law, "law", ("auto", *LAWS))
        self.orders, self.prior = read_orders(orders), read_prior(prior)
        self.noisy = lm.config.noise == "uniform"
        if lm.config.expert_capacity:
            raise InputError(
                f"{lm.name} routes the tokens of a block together, and questions share parts of blocks: decode them"
            )
        if lm.config.masked_canvas:
            raise InputError(
                f"{lm.name} reads masks in blocks behind a causal prefix, so ask it from left to right: load it with "
                f"family='nemotron_ld_ar'"
            )
        draws = draws if isinstance(draws, str) and draws == "auto" else argument.whole(1, MOST_DRAWS)(draws, "draws")
        if not self.noisy and draws not in ("auto", 1) and self.joint != "chain":
            raise InputError(f"draws={draws}: {lm.name} has no noise to draw: leave it out")
        self.templates = read_templates(templates)
        self.temperature = read_temperature(temperature)
        argument.check_choice(cache, "cache", ("auto", "none"))
        self.seed = SEED(seed, "seed")
        self.batch = argument.whole(1, argument.MOST_ROWS)(batch, "batch")
        self.confidence = argument.check_choice(confidence, "confidence", CONFIDENCES)
        if confidence == "mass" and self.law in IMPROPER:
            raise InputError(f"confidence='mass': law={law!r} gives no probabilities that would add up: use another")
        self.limits = Limits(
            argument.whole(1, none=True)(width, "width"), argument.whole(1)(max_contexts, "max_contexts"),
            argument.real(0, 1)(tolerance, "tolerance"), draws, argument.real(0, 1000)(cfg, "cfg"),
        )  # fmt: skip
        self._check_width()
        self._check_guidance()
        self.think = argument.whole(0, lm.config.max_position)(think, "think")
        self.tokenisations = argument.check_choice(tokenisations, "tokenisations", spellings.WAYS)
        if self.tokenisations == "all" and (self.read != "text" or self.law not in ("auto", "chain", "product")):
            raise InputError(
                "tokenisations='all' is of read='text' with law='chain' or 'product', whose probabilities add up: leave it out"
            )
        self.priors: dict[str, np.ndarray | None] = {}  # None: not finite
        self._unread: dict[str, list[Plan[list[Raw]]]] = {}  # plans of priors that nobody has asked for before
        self.calibration = None if calibration is None else calibrate.read(calibration)
        if self.calibration is not None:
            argument.unused("beside a calibration, which has both", temperature=(temperature, 1.0), prior=(prior, None))
            self.calibration.check_model(lm)
            self.calibration.check_reader(self.fingerprint)

    def _check_reply(self, **given: tuple[Any, Any]) -> None:
        """What several questions in one reply leave out."""
        if self.joint and self.sequential:
            raise InputError("joint and sequential exclude each other: leave one out")
        argument.unused("in a reply to several questions (joint, sequential)", **given)

    def _check_guidance(self) -> None:
        if self.limits.cfg and not (masked(self.lm.config) and self.read == "label" and self.law in ("auto", "slot")):
            raise InputError(
                f"cfg={self.limits.cfg}: guidance is of labels and law='slot' of masked models: leave it out"
            )

    def _check_width(self) -> None:
        width = self.limits.width
        if width is None:
            return
        if not masked(self.lm.config):
            raise InputError(
                f"width={width}: open columns are for masked models, which {self.lm.name} is not: leave it out"
            )
        if self.read == "label" and self.law in ("auto", "slot"):
            raise InputError(f"width={width}: law='slot' reads one column: leave it out")

    @property
    def fingerprint(self) -> str:
        """Of all that decides how a question is read: by it calibrations know their reader."""
        parts = [self.read, self.law, self.orders, [vars(each) for each in self.templates], list(self.limits)]
        parts += [self.joint, self.sequential, self.tokenisations, self.think]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def named(self) -> str:
        """The fingerprint of the reader and its calibration, as rows carry it."""
        fitted = None if self.calibration is None else self.calibration.fingerprint
        parts = [self.fingerprint, None if self.prior is None else self.prior.strength, self.temperature, fitted,
                 self.confidence, self.seed if self.noisy else None]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def prepare(self, state: Any, questions: Sequence[Question], number: Any, where: str, seed: Any = None) -> Asked:
        """A row ready to be read, with a seed of its own or the call's. Raises InputError that names it."""
        seed = self.seed if seed is None else SEED(seed, f"{where}: seed")
        plans = []
        for question in questions:
            place = f"{where}, question {argument.shown(question.name)}"
            if self.calibration is not None:
                self.calibration.check_question(question, place)
            if not (self.joint or self.sequential):
                plans.append(self.plan(state, question, (seed, randomness_key(number)), place))
                self._prepare_prior(question, place)
        plan = together(plans) if plans else self._reply(state, questions, (seed, randomness_key(number)), where)
        return Asked(number, tuple(questions), started(plan))

    def _reply(
        self, state: Any, questions: Sequence[Question], key: tuple[int, int], where: str
    ) -> Plan[list[list[Raw]]]:
        """All questions in one reply, those of one option aside."""
        if self.law not in ("auto", "slot"):
            raise InputError(f"law={self.law!r}: labels in one reply are read by law='slot': leave it out")
        open_ = [question for question in questions if len(question.options) > 1]
        if not open_:
            return together([_certain() for _ in questions])
        asked = several.reply(self.lm, state, open_, where)
        every = hashlib.sha256("".join(question.fingerprint for question in open_).encode()).hexdigest()
        if self.noisy:
            asked = asked._replace(noise=noise_of(*key, every, self.lm.config.vocab_size))
        draws, seed = self.limits.draws, (key[0] & 0xFFFFFFFF, key[1], int(every[:8], 16))
        if self.joint == "chain":
            plan = several.chain(self.lm, asked, draws, self.limits.contexts, seed, where)
        else:
            plan = (several.joint if self.joint else several.sequential)(self.lm, asked, draws, where)
        return several.filled(plan, questions)

    def plan(self, state: Any, question: Question, key: tuple[int, int], where: str) -> Plan[list[Raw]]:
        """All readings of a question about a state; everything is encoded and checked before the first.

        key: seed and number of the row, by which noise is drawn.
        """
        if len(question.options) == 1:
            return _certain()
        read = "text" if isinstance(question, Number) else self.read
        name = {"label": "slot", "text": "chain"}[read] if self.law == "auto" else self.law
        if name not in ("slot", "chain") and not masked(self.lm.config):
            raise InputError(f"law={name!r} needs a masked model, which {self.lm.name} is not: use 'chain'")
        orders = self._orders(question, read, where)
        listings = [(template, order) for template in self.templates for order in orders]
        slots = [render(self.lm, state, question, order, template, read, where) for template, order in listings]
        if self.noisy:
            noise = noise_of(*key, question.fingerprint, self.lm.config.vocab_size)
            slots = [slot._replace(noise=noise) for slot in slots]
        return started(together([self._law(name, slot, where) for slot in slots]))

    def _law(self, name: str, slot: Slot, where: str) -> Plan[Raw]:
        if self.tokenisations == "canonical":
            return LAWS[name](self.lm, slot, self.limits, where)
        slot, options = spellings.every(self.lm, slot, where)
        return spellings.summed(LAWS[name](self.lm, slot, self.limits, where), options)

    def _orders(self, question: Question, read: str, where: str) -> list[tuple[int, ...]]:
        unlisted = read == "text" and not any("{options}" in (each.prompt or "") for each in self.templates)
        if unlisted and self.orders != 1 and not isinstance(question, Number):
            raise InputError(f"{where}: orders={self.orders!r}, and read='text' lists no options: leave orders out")
        return [tuple(range(len(question.options)))] if unlisted else orders_of(question, self.orders)

    def answer(self, rows: Sequence[Asked]) -> list[RowAnswers]:
        """Reads all rows together."""
        self._read_priors()
        found = drive(self.lm, [row.plan for row in rows], self.batch)
        decided = [tuple(map(self._decision, row.questions, raws)) for row, raws in zip(rows, found)]
        fixed = {"model": self.lm.name, "reader": self.named(), "reading": self.fingerprint}
        if self.sequential:
            decided = [several.given(row.questions, each) for row, each in zip(rows, decided)]
        return [RowAnswers(row.id, row.questions, each, **fixed) for row, each in zip(rows, decided)]

    def _prepare_prior(self, question: Question, where: str) -> None:
        """Plans for r of a question that is new: it about states without content."""
        known = question.fingerprint in self.priors or question.fingerprint in self._unread
        if self.prior is None or known or len(question.options) == 1:
            return
        closed = self.lm.tokenizer is not None and self.lm.tokenizer.closed
        states = CONTENT_FREE[-1:] if closed else CONTENT_FREE
        plans = [self.plan(state, question, (self.seed, 0), f"{where}: its prior") for state in states]
        self._unread[question.fingerprint] = plans

    def _read_priors(self) -> None:
        """r: the mean of what states without content give."""
        unread, self._unread = self._unread, {}
        found = iter(drive(self.lm, [plan for plans in unread.values() for plan in plans], self.batch))
        for name, plans in unread.items():
            raws = [next(found) for _ in plans]
            finite = all(_status(raw) == "ok" for raw in raws)
            shares = [pool([one.logp for one in raw]).probabilities for raw in raws] if finite else []
            self.priors[name] = np.mean(shares, axis=0) if finite else None

    def _decision(self, question: Question, raws: list[Raw]) -> Decision:
        forwards, columns = sum(raw.reads for raw in raws), sum(raw.columns for raw in raws)
        fixed: dict[str, Any] = {"type": question.kind, "forwards": forwards, "tokens_read": columns}
        status = "nonfinite" if self.priors.get(question.fingerprint, ()) is None else _status(raws)
        if status != "ok":
            bound = max(raw.bound for raw in raws)
            return Decision(**fixed, value=None, probabilities=None, status=status, bound=bound)
        pooled = self._pooled(question, [raw.logp for raw in raws])
        masses = [np.exp(np.logaddexp.reduce(raw.logp)) if raw.mass is None else raw.mass for raw in raws]
        p, mass = pooled.probabilities, float(np.mean(masses))
        draws = max(1, *(len(raw.drawn) for raw in raws))
        each = [log_p for raw in raws for log_p in raw.drawn or (raw.logp,)]
        told = _told(question, p) | {"stderr": self._stderr(question, raws, draws)}
        return Decision(
            **fixed, **told, draws=draws, confidence=confidence(self.confidence, question.kind, p, mass),
            entropy=entropy(p), margin=margin(p), label_mass=None if self.law in IMPROPER else mass,
            top_is_label=all(raw.top_is_label for raw in raws),
            agreement=float(np.mean([one.argmax() == p.argmax() for one in each])), spread=pooled.spread,
            flips=pooled.flips, bound=max(raw.bound for raw in raws), logits=tuple(pooled.logits.tolist()),
            together=None if raws[0].together is None else question.options[raws[0].together].value,
        )  # fmt: skip

    def _stderr(self, question: Question, raws: list[Raw], draws: int) -> dict[Any, float] | None:
        """The jackknife over draws, √((M-1)/M Σ (p_{-m} - mean)²), of the whole pipeline; nan for one draw."""
        if not any(raw.drawn for raw in raws):
            return None
        values = _told(question, np.ones(len(question.options)))["probabilities"]
        if draws == 1:
            return dict.fromkeys(values, float("nan"))
        some = [[raw.without[m] if m < len(raw.without) else raw.logp for raw in raws] for m in range(draws)]
        p = np.array([self._pooled(question, readings).probabilities for readings in some])
        return dict(zip(values, np.sqrt((draws - 1) / draws * ((p - p.mean(0)) ** 2).sum(0)).tolist()))

    def _pooled(self, question: Question, readings: list[np.ndarray]) -> Pooled:
        if self.calibration is not None:
            scale, bias, prior = self.calibration.of(question)
            return pool(readings, prior, 1.0, scale, bias)
        prior = self.priors.get(question.fingerprint) if self.prior is not None else None
        return pool(readings, prior, 1.0 if self.prior is None else self.prior.strength, 1 / self.temperature)


def _certain() -> Plan[list[Raw]]:
    """One option: it is the answer, and nothing is read."""
    return [Raw(np.zeros(1), True, 0, 0)]
    yield []  # a generator all the same


def _status(raws: Sequence[Raw]) -> str:
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
