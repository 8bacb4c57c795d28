"""Several questions in one reply, a label in a line each: all open at once, or one after the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.laws import masked
from jaxdlm.decisions.noisy import MORE, Noise, mean_share, shape_of, unsure
from jaxdlm.decisions.questions import Number, Question
from jaxdlm.decisions.read import Column, Plan, Raw, Read
from jaxdlm.decisions.render import Template, Texts, encoded, ends_of, is_ids, labels_of, lines_of, put, spelled, words
from jaxdlm.errors import InputError

ASK = "Reply with one line for each question: its number, a colon, and the label of your choice alone."


class Reply(NamedTuple):
    """A reply with one label per question. body: its ids, with the first label of each. columns: where labels stand in it.
    ids: of the labels of each question. ends: those of which any ends the reply. noise: as in `Slot`."""

    prompt: np.ndarray
    body: tuple[int, ...]
    columns: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    noise: Noise | None = None


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


def joint(lm: Any, asked: Reply, draws: int | str, where: str) -> Plan[list[Raw]]:
    """Marginals of all labels, every label open and all else in place: one read, counted with the first question.

    With uniform noise: one read per draw, which all labels share, and means over draws.
    """
    if lm.config.noise == "uniform":
        return (yield from _noisy(lm, asked, draws, where))
    if not masked(lm.config):
        raise InputError(f"joint=True opens all answers at once, which {lm.name} cannot: use sequential=True")
    (found,) = yield [_read(lm, asked, (), where, range(len(asked.ids)))]
    reads = [(1, _size(lm, asked, len(asked.body)))] + [(0, 0)] * (len(found) - 1)
    return [Raw(c.logp, c.top in ids, *read) for c, ids, read in zip(found, asked.ids, reads)]


def _noisy(lm: Any, asked: Reply, draws: int | str, where: str) -> Plan[list[Raw]]:
    kept = (*asked.body, *asked.ends[:1])
    start, width, noise = shape_of(lm, asked, len(kept) + 1, where)
    want = tuple((start + column, ids) for column, ids in zip(asked.columns, asked.ids))

    def read(draw: int) -> Read:
        canvas = np.full(width, lm.config.tokens.pad, np.int32)
        canvas[: len(kept)] = kept
        canvas[list(asked.columns)] = noise(draw, start, width)[list(asked.columns)]
        return Read(np.concatenate([asked.prompt, canvas]), want, width)

    tables: list[list[Column]] = []
    goal = 1 if draws == "auto" else int(draws)
    while len(tables) < goal:
        tables += yield [read(draw) for draw in range(len(tables), goal)]
        if draws == "auto" and len(tables) == 1 and any(unsure(column.logp) for column in tables[0]):
            goal = MORE
    return [
        _mean_of([table[place] for table in tables], ids, place == 0, start + width)
        for place, ids in enumerate(asked.ids)
    ]


def _mean_of(columns: Sequence[Column], ids: tuple[int, ...], counts: bool, size: int) -> Raw:
    """One label over all draws."""
    logps = [column.logp for column in columns]
    others = range(len(logps) if len(logps) > 1 else 0)
    return Raw(
        mean_share(logps), all(column.top in ids for column in columns), counts * len(logps), counts * len(logps) * size,
        drawn=tuple(mean_share([logp]) for logp in logps),
        without=tuple(mean_share(logps[:m] + logps[m + 1 :]) for m in others),
    )  # fmt: skip


def sequential(lm: Any, asked: Reply, where: str) -> Plan[list[Raw]]:
    """Each label given the likeliest ones of the questions before it, which are written; those behind it are open."""
    raws: list[Raw] = []
    chosen: list[int] = []
    for place, ids in enumerate(asked.ids):
        one = _read(lm, asked, chosen, where, [place])
        ((column,),) = yield [one]
        raws.append(Raw(column.logp, column.top in ids, 1, len(one.tokens)))
        chosen.append(ids[int(np.argmax(np.nan_to_num(column.logp, nan=-np.inf)))])
    return raws


def _read(lm: Any, asked: Reply, chosen: Sequence[int], where: str, places: Sequence[int]) -> Read:
    body = list(asked.body)
    for place, column in enumerate(asked.columns):
        body[column] = chosen[place] if place < len(chosen) else lm.config.tokens.mask if masked(lm.config) else 0
    kept = [*body, *asked.ends[:1]] if masked(lm.config) else body[: asked.columns[len(chosen)]]
    tokens = np.concatenate([asked.prompt, np.asarray(kept, np.int32)])
    if len(tokens) + 1 > lm.config.max_position:
        raise InputError(
            f"{where} has {len(tokens)} tokens with its reply, and {lm.name} reads {lm.config.max_position}: shorten it"
        )
    return Read(tokens, tuple((len(asked.prompt) + asked.columns[place], asked.ids[place]) for place in places))


def _size(lm: Any, asked: Reply, body: int) -> int:
    return len(asked.prompt) + body + len(asked.ends[:1])
