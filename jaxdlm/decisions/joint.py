"""Several questions in one reply, a label in a line each: all open at once, one after the other, or all combinations."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.laws import masked
from jaxdlm.decisions.noisy import MORE, Noise, fresh, mean_share, shape_of, unsure
from jaxdlm.decisions.output import Decision
from jaxdlm.decisions.pool import log_softmax
from jaxdlm.decisions.questions import Number, Question
from jaxdlm.decisions.read import Column, Plan, Raw, Read
from jaxdlm.decisions.render import Template, Texts, encoded, ends_of, is_ids, labels_of, lines_of, put, spelled, words
from jaxdlm.errors import InputError

ASK = "Reply with one line for each question: its number, a colon, and the label of your choice alone."
TABLE, TEXTS = 256, 64  # contexts of which all combinations of answers are read; else texts that are drawn


class Reply(NamedTuple):
    """A reply with one label per question. body: its ids, with the first label of each. columns: where labels stand in it.
    ids: of the labels of each question. ends: those of which any ends the reply. noise: as in `Slot`.
    steps: forwards of a canvas of noise."""

    prompt: np.ndarray
    body: tuple[int, ...]
    columns: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    noise: Noise | None = None
    steps: int = 1


def reply(lm: Any, state: Any, questions: Sequence[Question], where: str) -> Reply:
    """The reply to all questions about a state. Raises InputError where a label is no single token in its line."""
    number = next((question for question in questions if isinstance(question, Number)), None)
    if number is not None:
        raise InputError(f"{where}, question {argument.shown(number.name)}: a number is no label: ask it apart")
    if is_ids(state):
        return _of_ids(lm, state, questions, where)
    if lm.tokenizer is None:
        raise InputError(f"{where} is text and {lm.name} has no tokenizer: {lm.advice or 'pass token ids'}")
    blocks, labels = [], []
    for place, question in enumerate(questions, start=1):
        reader = Texts(lm, Template(pre=f"{place}: "), f"{where}, question {argument.shown(question.name)}")
        own = labels_of(reader, question, range(len(question.options)))
        lines = lines_of(lm, question, own, range(len(own)))
        head = " ".join(filter(None, [f"{place}.", words(question.instructions)]))
        blocks.append("\n".join([head, *(lines or [f"{label})" for label in own])]))
        labels.append(own)
    asked = "\n\n".join([*blocks, *([] if lm.tokenizer.closed else [ASK])])
    prompt = put(state, lambda text: "\n\n".join(filter(None, [text, asked])), where)
    body, columns, ids = _columns(lm, labels, "" if lm.tokenizer.template else "\n", where)
    return Reply(encoded(lm, prompt, (), where), body, columns, ids, ends_of(lm))


def _columns(lm: Any, labels: list[list[str]], lead: str, where: str) -> tuple[Any, Any, Any]:
    """(ids of the reply, columns of its labels, ids of the labels): every label is tried in its place."""
    first = [own[0] for own in labels]

    def written(chosen: Sequence[str]) -> tuple[int, ...]:
        text = lead + "\n".join(f"{place}: {label}" for place, label in enumerate(chosen, start=1))
        return tuple(spelled(lm, text, where))

    body = written(first)
    columns, ids = [], []
    for place, own in enumerate(labels):
        others = [written([*first[:place], label, *first[place + 1 :]]) for label in own]
        places = {j for other in others for j, (a, b) in enumerate(zip(body, other)) if a != b}
        if len(places) != 1 or any(len(other) != len(body) for other in others):
            raise InputError(f"{where}: labels of question {place + 1} are not one token in its line: ask it apart")
        columns.append(places.pop())
        ids.append(tuple(other[columns[-1]] for other in others))
    return body, tuple(columns), tuple(ids)


def _of_ids(lm: Any, state: Any, questions: Sequence[Question], where: str) -> Reply:
    """Token ids as they are, and options given as one token each, side by side."""
    for question in questions:
        if question.instructions or any(
            option.tokens is None or len(option.tokens) != 1 for option in question.options
        ):
            raise InputError(
                f"{where}, question {argument.shown(question.name)}: beside token ids, options are one token each and "
                f"instructions are left out"
            )
    ids = tuple(tuple(token for option in question.options for token in option.tokens or ()) for question in questions)
    banned = {lm.config.tokens.mask, *lm.config.tokens.eos}
    wrong = [token for own in ids for token in own if token in banned or not 0 <= token < lm.config.vocab_size]
    if wrong:
        raise InputError(f"{where}: token id {wrong[0]} is no word: choose another")
    body = tuple(own[0] for own in ids)
    return Reply(encoded(lm, state, (), where), body, tuple(range(len(ids))), ids, ends_of(lm))


Context = tuple[tuple[int, ...], Sequence[int]]  # ids of the labels that are written, places of those that are read


class Tables(NamedTuple):
    """What was read: columns by draw of noise, context and place; sequences, and their columns."""

    columns: list[list[list[Column]]]
    reads: int
    size: int


def joint(lm: Any, asked: Reply, draws: int | str, where: str) -> Plan[list[Raw]]:
    """Marginals of all labels, every label open and all else in place: one read, counted with the first question.

    With uniform noise: one read per draw, which all labels share, and means over draws.
    """
    if asked.noise is None and not masked(lm.config):
        raise InputError(
            f"joint=True opens all answers at once, which {lm.name} cannot: use sequential=True or joint='chain'"
        )
    tables = yield from _tables(lm, asked, [((), range(len(asked.ids)))], draws, where)
    return [_raw(asked, tables, place, 0, place, place == 0) for place in range(len(asked.ids))]


def sequential(lm: Any, asked: Reply, draws: int | str, where: str) -> Plan[list[Raw]]:
    """Each label given the likeliest ones of the questions before it, which are written; those behind it are open."""
    raws: list[Raw] = []
    chosen: tuple[int, ...] = ()
    for place, ids in enumerate(asked.ids):
        tables = yield from _tables(lm, asked, [(chosen, [place])], draws, where)
        raws.append(_raw(asked, tables, place, 0, 0, True))
        chosen = (*chosen, ids[int(np.argmax(np.nan_to_num(raws[-1].logp, nan=-np.inf)))])
    return raws


def chain(lm: Any, asked: Reply, draws: int | str, most: int, key: Sequence[int], where: str) -> Plan[list[Raw]]:
    """Marginals of P(a_1 .. a_S) = Π_s p(a_s | a_1 .. a_{s-1}): p the shares of the options of a label with those before
    it written and those behind it open; and the likeliest answers together.

    Exact where the contexts are at most `TABLE` and `most`: one batch. Else `TEXTS` (or `draws`) texts are drawn from P, and
    a question has the mean of its conditionals over them, and that mean's standard error.
    """
    contexts = sum(math.prod(map(len, asked.ids[:place])) for place in range(len(asked.ids)))
    if contexts <= min(TABLE, most):
        return (yield from _exact(lm, asked, draws, where))
    if asked.noise is not None:
        raise InputError(
            f"{where}: joint='chain' has {contexts} contexts, and with noise at most {min(TABLE, most)} are read: ask fewer "
            f"questions at a time"
        )
    return (yield from _drawn(lm, asked, TEXTS if draws == "auto" else int(draws), np.random.default_rng(key), where))


def _exact(lm: Any, asked: Reply, draws: int | str, where: str) -> Plan[list[Raw]]:
    """From the table of all combinations; with uniform noise the mean over draws within each context."""
    earlier = [list(itertools.product(*asked.ids[:place])) for place in range(len(asked.ids))]
    tables = yield from _tables(lm, asked, [(c, [p]) for p, level in enumerate(earlier) for c in level], draws, where)
    some = lambda drawn: _marginals(asked, tables._replace(columns=drawn), list(map(len, earlier)))  # noqa: E731
    raws, every = some(tables.columns), tables.columns
    raws[0] = raws[0]._replace(reads=tables.reads, columns=tables.size)
    if asked.noise is None:
        return raws
    each = [some([table]) for table in every]
    rest = [some(every[:m] + every[m + 1 :]) for m in range(len(every))] if len(every) > 1 else []
    logps = lambda runs, place: tuple(run[place].logp for run in runs)  # noqa: E731
    return [raw._replace(drawn=logps(each, at), without=logps(rest, at)) for at, raw in enumerate(raws)]


def _marginals(asked: Reply, tables: Tables, contexts: Sequence[int]) -> list[Raw]:
    """Of each label; contexts: how many each has."""
    raws, before, first = [], np.zeros(1), 0  # log P of what stands before a label
    for place, count in enumerate(contexts):
        own = [_raw(asked, tables, place, first + at, 0, False) for at in range(count)]
        first += count
        mass = float(np.exp(before) @ [np.exp(np.logaddexp.reduce(raw.logp)) for raw in own])
        after = before[:, None] + np.array([_shares(raw.logp) for raw in own])
        top = all(raw.top_is_label for raw in own)
        raws.append(Raw(np.logaddexp.reduce(after, axis=0), top, 0, 0, mass=mass))
        before = after.reshape(-1)
    best = np.unravel_index(int(np.argmax(np.nan_to_num(before, nan=-np.inf))), [len(ids) for ids in asked.ids])
    return [raw._replace(together=int(at)) for raw, at in zip(raws, best)]


def _drawn(lm: Any, asked: Reply, texts: int, random: np.random.Generator, where: str) -> Plan[list[Raw]]:
    """From texts drawn label by label; the uniform number of a text and a label is its own."""
    uniform = random.random((texts, len(asked.ids)))
    chosen: list[tuple[int, ...]] = [()] * texts
    raws, total, places = [], np.zeros(texts), np.zeros((texts, 0), np.int64)
    for place, ids in enumerate(asked.ids):
        contexts = list(dict.fromkeys(chosen))
        tables = yield from _tables(lm, asked, [(each, [place]) for each in contexts], 1, where)
        own = [_raw(asked, tables, place, at, 0, False) for at in range(len(contexts))]
        logp = np.array([_shares(own[contexts.index(each)].logp) for each in chosen])
        mean = lambda some: np.logaddexp.reduce(some, axis=0) - np.log(len(some))  # noqa: E731
        raws.append(
            Raw(
                mean(logp), all(raw.top_is_label for raw in own), tables.reads, tables.size, drawn=tuple(logp),
                without=tuple(mean(np.delete(logp, at, 0)) for at in range(texts)) if texts > 1 else (),
                mass=float(np.mean([np.exp(np.logaddexp.reduce(own[contexts.index(each)].logp)) for each in chosen])),
            )
        )  # fmt: skip
        shares = np.nan_to_num(np.exp(logp)).cumsum(1)
        at = (uniform[:, place, None] * shares[:, -1:] >= shares).sum(1).clip(0, len(ids) - 1)
        total, places = total + logp[np.arange(texts), at], np.column_stack([places, at])
        chosen = [(*each, ids[k]) for each, k in zip(chosen, at)]
    best = places[int(np.argmax(np.nan_to_num(total, nan=-np.inf)))]
    return [raw._replace(together=int(at)) for raw, at in zip(raws, best)]


def _shares(logp: np.ndarray) -> np.ndarray:
    """log p of the options among themselves; where none is possible, no text goes on."""
    return log_softmax(logp) if np.isnan(logp).any() or np.isfinite(logp).any() else logp


def _tables(lm: Any, asked: Reply, contexts: Sequence[Context], draws: int | str, where: str) -> Plan[Tables]:
    """All contexts, with uniform noise once per draw: one draw, and more where one leaves an answer open ("auto")."""
    goal = 1 if draws == "auto" or asked.noise is None else int(draws)
    tables, reads = Tables([], 0, 0), [_read(lm, asked, *context, where, draw=0) for context in contexts]
    for draw in itertools.count():
        columns = yield reads
        size = sum(each.columns for each in reads)
        tables = Tables([*tables.columns, columns], tables.reads + len(reads), tables.size + size)
        if draws == "auto" and draw == 0 and asked.noise and any(unsure(c.logp) for each in columns for c in each):
            goal = MORE
        if draw + 1 == goal:
            return tables
        reads = [_read(lm, asked, *context, where, draw=draw + 1) for context in contexts]
    raise AssertionError


def _raw(asked: Reply, tables: Tables, place: int, context: int, at: int, counts: bool) -> Raw:
    """One label in one context, over all draws. counts: whether it is charged with all that was read."""
    columns = [table[context][at] for table in tables.columns]
    top, cost = all(c.top in asked.ids[place] for c in columns), (tables.reads, tables.size) if counts else (0, 0)
    if asked.noise is None:
        return Raw(columns[0].logp, top, *cost)
    logps = [column.logp for column in columns]
    others = range(len(logps) if len(logps) > 1 else 0)
    return Raw(
        mean_share(logps), top, *cost, drawn=tuple(mean_share([logp]) for logp in logps),
        without=tuple(mean_share(logps[:m] + logps[m + 1 :]) for m in others),
    )  # fmt: skip


def _read(lm: Any, asked: Reply, chosen: Sequence[int], places: Sequence[int], where: str, draw: int) -> Read:
    """The reply with the first labels written and the others open."""
    open_ = list(asked.columns[len(chosen) :])
    body = np.asarray(asked.body, np.int32)
    body[list(asked.columns[: len(chosen)])] = chosen
    want = tuple((len(asked.prompt) + asked.columns[place], asked.ids[place]) for place in places)
    text = np.concatenate([body, np.asarray(asked.ends[:1], np.int32)])
    if asked.noise is not None:
        start, width, noise = shape_of(lm, asked, len(text) + 1, where)
        text[open_] = noise(draw, 0, start, width)[open_]
        pads = np.full(width - len(text), lm.config.tokens.pad, np.int32)
        later = fresh(noise, draw, asked.steps, start, width, open_)
        return Read(np.concatenate([asked.prompt, text, pads]), want, width, open=tuple(open_), fresh=later)
    if masked(lm.config):
        text[open_] = lm.config.tokens.mask
    else:
        text = text[: open_[0]]
    tokens = np.concatenate([asked.prompt, text])
    if len(tokens) + 1 > lm.config.max_position:
        raise InputError(
            f"{where} has {len(tokens)} tokens with its reply, and {lm.name} reads {lm.config.max_position}: shorten it"
        )
    return Read(tokens, want)


def filled(plan: Plan[list[Raw]], questions: Sequence[Question]) -> Plan[list[list[Raw]]]:
    """The readings of the reply's questions, and certainty for those of one option."""
    raws = iter((yield from plan))
    return [[next(raws) if len(question.options) > 1 else Raw(np.zeros(1), True, 0, 0)] for question in questions]


def given(questions: Sequence[Question], decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Each decision with the answers that stood before it."""
    names = [question.name for question in questions]
    values = [decision.value for decision in decisions]
    return tuple(
        dataclasses.replace(decision, given=dict(zip(names[:place], values)))
        for place, decision in enumerate(decisions)
    )
