"""How rows are read: settings that are checked once, plans of rows, and their answers, stage by stage."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.core.keys import randomness_key
from jaxdlm.decisions import joint as several
from jaxdlm.decisions import spellings, stages
from jaxdlm.decisions.decided import Pipeline, close, decision, status_of
from jaxdlm.decisions.laws import LAWS, masked
from jaxdlm.decisions.noisy import noise_of
from jaxdlm.decisions.output import Decision, RowAnswers
from jaxdlm.decisions.pool import CONTENT_FREE, orders_of, pool
from jaxdlm.decisions.questions import Number, Question
from jaxdlm.decisions.read import Plan, Raw, drive, started, together
from jaxdlm.decisions.render import Slot, render
from jaxdlm.decisions.settings import IMPROPER, Settings
from jaxdlm.errors import InputError
from jaxdlm.layout import SEED


class Asked(NamedTuple):
    """A row that can be read. key: seed and number, by which noise is drawn. plan: the readings of the first stage's
    questions; stages: places of those that are asked together."""

    id: Any
    questions: tuple[Question, ...]
    state: Any
    key: tuple[int, int]
    where: str
    stages: tuple[tuple[int, ...], ...]
    plan: Plan[list[list[Raw]]]


Part = tuple[int, tuple[int, ...], Plan[list[list[Raw]]]]  # number of a row, places of its questions, their readings


class Reader(Settings):
    """Settings of a call, and the priors that it has read."""

    def __init__(self, lm: Any, **settings: Any) -> None:
        super().__init__(lm, **settings)
        self.priors: dict[str, np.ndarray | None] = {}  # None: not finite
        self._unread: dict[str, list[Plan[list[Raw]]]] = {}  # plans of priors that nobody has asked for before
        self._exact: Any = None  # the model in float32, once a question is read again

    def prepare(self, state: Any, questions: Sequence[Question], number: Any, where: str, seed: Any = None) -> Asked:
        """A row ready to be read, with a seed of its own or the call's. Raises InputError that names it."""
        seed = self.seed if seed is None else SEED(seed, f"{where}: seed")
        key, parts = (seed, randomness_key(number)), stages.stages_of(questions, where)
        one_reply = bool(self.joint or self.sequential)
        if one_reply and len(parts) > 1:
            raise InputError(
                f"{where}: questions of one reply (joint, sequential) wait for none: leave depends_on and ask_if out"
            )
        row = Asked(number, tuple(questions), state, key, where, parts, together([]))
        for question in questions:
            if self.calibration is not None:
                self.calibration.check_question(question, _place(where, question))
            if not one_reply:
                self._prepare_prior(question, _place(where, question))
        if len(parts) > 1:  # what waits is checked now, behind the longest answers
            most = stages.longest(self.lm, questions, where)
            for place in {place for stage in parts[1:] for place in stage}:
                self._behind(row, place, most)
        return row._replace(plan=started(self._plans(row, parts[0], {})))

    def _plans(self, row: Asked, places: Sequence[int], values: stages.Values) -> Plan[list[list[Raw]]]:
        """The readings of some of a row's questions, given answers to others."""
        if self.joint or self.sequential:
            return self._reply(row.state, row.questions, row.key, row.where)
        return together([self._behind(row, place, values) for place in places])

    def _behind(self, row: Asked, place: int, values: stages.Values) -> Plan[list[Raw]]:
        question = row.questions[place]
        state = stages.behind(self.lm, row.state, question, row.questions, values, row.where)
        return self.plan(state, question, row.key, _place(row.where, question))

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
            asked = asked._replace(
                noise=noise_of(*self._key(key, asked.prompt), every, self.lm.config.vocab_size), steps=self.limits.steps
            )
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
            noise = noise_of(*self._key(key, slots[0].prompt), question.fingerprint, self.lm.config.vocab_size)
            slots = [slot._replace(noise=noise) for slot in slots]
        return started(together([self._law(name, slot, where) for slot in slots]))

    def _key(self, key: tuple[int, int], prompt: np.ndarray) -> tuple[int, int]:
        """What the noise of a question is drawn by: seed and number of the row, or seed and what it is asked."""
        if self.noise == "row":
            return key
        digest = hashlib.sha256(np.asarray(prompt, np.int64).tobytes()).digest()
        return key[0], int.from_bytes(digest[:4], "big")

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
        """Reads all rows together, first what waits for nothing, then what waits for that."""
        self._read_priors()
        decided: list[dict[int, Decision]] = [{} for _ in rows]
        parts: list[Part] = [(number, row.stages[0], row.plan) for number, row in enumerate(rows)]
        for stage in range(1, 1 + max((len(row.stages) for row in rows), default=0)):
            self._decide(rows, parts, decided)
            later = [number for number, row in enumerate(rows) if stage < len(row.stages)]
            parts = [part for number in later for part in self._next(rows[number], number, stage, decided[number])]
        fixed = {"model": self.lm.name, "reader": self.named(), "reading": self.fingerprint}
        whole = [tuple(own[place] for place in range(len(own))) for own in decided]
        if self.sequential:
            whole = [several.given(row.questions, each) for row, each in zip(rows, whole)]
        return [RowAnswers(row.id, row.questions, each, **fixed) for row, each in zip(rows, whole)]

    def _next(self, row: Asked, number: int, stage: int, decided: dict[int, Decision]) -> list[Part]:
        """The questions of a stage that are asked, each by itself; the others are decided, as skipped."""
        values = {row.questions[place].name: each.value for place, each in decided.items()}
        parts: list[Part] = []
        for place in row.stages[stage]:
            question, status = row.questions[place], "skipped"
            if stages.asked(question, row.questions, values):
                try:
                    parts.append((number, (place,), started(self._plans(row, (place,), values))))
                    continue
                except InputError:  # behind these answers alone it does not fit
                    status = "refused"
            decided[place] = Decision(type=question.kind, value=None, probabilities=None, status=status)
        return parts

    def _decide(self, rows: Sequence[Asked], parts: Sequence[Part], decided: Sequence[dict[int, Decision]]) -> None:
        """Adds the decisions of these questions; those too close to call are read again in float32."""
        for (number, places, _), raws in zip(parts, drive(self.lm, [part[2] for part in parts], self.batch)):
            decided[number] |= zip(places, map(self._decision, (rows[number].questions[k] for k in places), raws))
        if not self.reread:
            return
        again: list[Part] = []
        for number, places, _ in parts:
            one_reply = bool(self.joint or self.sequential)
            some = tuple(place for place in places if close(decided[number][place], self.reread))
            values = {rows[number].questions[place].name: each.value for place, each in decided[number].items()}
            if some:
                own = places if one_reply else some
                again.append((number, own, self._plans(rows[number], own, values)))
        if not again:
            return
        for (number, places, _), raws in zip(again, drive(self._in_float32(), [part[2] for part in again], self.batch)):
            for place, raw in zip(places, raws):
                old, new = decided[number][place], self._decision(rows[number].questions[place], raw)
                cost = old.forwards + new.forwards, old.tokens_read + new.tokens_read
                decided[number][place] = dataclasses.replace(new, reread=True, forwards=cost[0], tokens_read=cost[1])

    def _in_float32(self) -> Any:
        """The model with its weights, and what it computes, in float32."""
        if self._exact is None:
            wide = lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf  # noqa: E731
            model = dataclasses.replace(
                self.lm.model, config=dataclasses.replace(self.lm.config, param_dtype="float32")
            )
            self._exact = dataclasses.replace(self.lm, model=model, params=jax.tree.map(wide, self.lm.params))
        return self._exact

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
        answers = iter(drive(self.lm, [plan for plans in unread.values() for plan in plans], self.batch))
        for name, plans in unread.items():
            raws = [next(answers) for _ in plans]
            finite = all(status_of(raw) == "ok" for raw in raws)
            shares = [pool([one.logp for one in raw], by=self.pool).probabilities for raw in raws] if finite else []
            self.priors[name] = np.mean(shares, axis=0) if finite else None

    def _decision(self, question: Question, raws: Sequence[Raw]) -> Decision:
        prior = self.priors.get(question.fingerprint) if self.prior is not None else None
        unread = question.fingerprint in self.priors and prior is None
        strength = 1.0 if self.prior is None else self.prior.strength
        pipeline = Pipeline(
            self.confidence, self.law not in IMPROPER, self.temperature, self.calibration, prior, strength, self.pool
        )
        return decision(question, raws, pipeline, "nonfinite" if unread else None)


def _place(where: str, question: Question) -> str:
    return f"{where}, question {argument.shown(question.name)}"


def _certain() -> Plan[list[Raw]]:
    """One option: it is the answer, and nothing is read."""
    return [Raw(np.zeros(1), True, 0, 0)]
    yield []  # a generator all the same
