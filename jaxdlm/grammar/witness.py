"""A text of a checked language that agrees with much of what a step wants to write: beam search on the host.

The text that was known before (the witness) is always one of the candidates, so there is always one that fits all that is
written and the columns that are left: what is found may agree with less than could be, and is never wrong.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxdlm.grammar.checked import ALIKE, LEVEL, Checked, Matcher, by_number

BEAM = 6  # beginnings of texts that are gone on with
UNSEEN = -20.0  # log-probability of a token that is not among a column's best


@dataclasses.dataclass(frozen=True)
class Begun:
    """A beginning of a text. place: None once it has ended. along: it is what the witness begins with."""

    place: Matcher | None
    text: tuple[int, ...]
    agreed: int
    logp: float
    along: bool


def nearest(
    number: int, text: np.ndarray, first: int, last: int, fixed: np.ndarray, token: np.ndarray, wish: np.ndarray,
    best: np.ndarray, logp: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """int32[C], a text in canvas columns first .. last, which has `token` where `fixed` and agrees with much of `wish`.

    text: the one known before. wish: a token that a step wants to write, -1 for none. best: the likeliest tokens of each
    column [C, K], -1 outside the window; logp: theirs.
    """
    if not (wish >= 0).any() or text[first] < 0:
        return text
    span = slice(first, last)
    made = _searched(by_number(number), text[span], fixed[span], token[span], wish[span], best[span], logp[span])
    if made is None:
        return text
    new = text.copy()
    new[span] = made
    return new


def first_text(language: Checked, token: np.ndarray, fixed: np.ndarray) -> np.ndarray | None:
    """A text for these columns, some of them fixed, from nothing; None where none is found."""
    columns, shortest = len(token), [*language.shortest, *[language.ends[0]] * len(token)]
    text = np.array(shortest[:columns], np.int32)
    if not fixed.any():
        return text
    none = np.full(columns, -1, np.int32)
    return _searched(language, none, fixed, token, none, none[:, None], np.zeros((columns, 1), np.float32))


def _searched(
    language: Checked, old: np.ndarray, fixed: np.ndarray, token: np.ndarray, wish: np.ndarray, best: np.ndarray,
    logp: np.ndarray,
) -> np.ndarray | None:  # fmt: skip
    columns = len(old)
    begin = int(np.argmin(fixed)) if not fixed.all() else columns
    known = tuple(token[:begin].tolist())
    text = tuple(each for each in known if each not in language.ends)
    if known[: len(text)] != text or (place := language.place(text)) is None:
        return None
    if len(text) < begin and not place.is_accepting():
        return None
    begun = Begun(
        place if len(text) == begin else None, known, 0, 0.0, old[0] >= 0 and bool((old[:begin] == token[:begin]).all())
    )
    must = int(np.flatnonzero(fixed).max(initial=-1))
    asked = np.flatnonzero((wish >= 0) | (best[:, 0] >= 0))
    stop = max(must, int(asked.max(initial=-1)), begin - 1) + 1
    beam = [begun]
    for column in range(begin, stop):
        options = (
            [int(token[column])]
            if fixed[column]
            else [int(each) for each in (wish[column], *best[column]) if each >= 0]
        )
        weight = dict(zip(best[column].tolist(), logp[column].tolist(), strict=True))
        many = [
            _further(language, each, option, int(wish[column]) == option, weight.get(option, UNSEEN), int(old[column]))
            for each in beam
            for option in _options(language, each, options, int(old[column]), bool(fixed[column]), columns - column)
        ]
        beam = _best([each for each in many if each is not None], language, columns if must <= column else None)
    for each in beam:
        rest = _rest(language, each, columns - len(each.text), old)
        if rest is not None:
            return np.array([*each.text, *rest], np.int32)
    return None


def _options(language: Checked, begun: Begun, options: Sequence[int], old: int, fixed: bool, room: int) -> list[int]:
    """What a column may be tried with, each once: of nothing that is known, one of the letters."""
    if fixed:
        return list(options)
    more = [old] if begun.along and old >= 0 else []
    if begun.place is None:
        more.append(language.ends[0])
    elif options or more:
        more += begun.place.compute_ff_tokens()[:1] or (language.closing(begun.place, room) or [language.ends[0]])[:1]
    else:
        more += [language.ends[0], *language.closer.letters(language.closer.mask(begun.place)).tolist()]
    return list(dict.fromkeys([*options, *more]))


def _further(language: Checked, begun: Begun, token: int, wished: bool, logp: float, old: int) -> Begun | None:
    """With one more token; None where it cannot follow."""
    text, along = (*begun.text, token), begun.along and token == old
    agreed, logp = begun.agreed + wished, begun.logp + logp
    if token in language.ends:
        ended = begun.place is None or begun.place.is_accepting()
        return Begun(None, text, agreed, logp, along) if ended else None
    if begun.place is None or token >= language.live.size or not language.live[token]:
        return None
    after = begun.place.deep_copy()
    return Begun(after, text, agreed, logp, along) if after.try_consume_tokens([token]) == 1 else None


def _best(many: Sequence[Begun], language: Checked, columns: int | None) -> list[Begun]:
    """The best of them that can still be ended, and what the witness begins with; columns: None while others are fixed.
    Where no witness is known, many, and few with the same tokens behind them."""
    beam: list[Begun] = []
    most = BEAM if any(each.along for each in many) else LEVEL
    alike: collections.Counter[bytes] = collections.Counter()
    for each in sorted(many, key=lambda each: (-each.agreed, -each.logp)):
        if len(beam) >= most and not each.along:
            continue
        if most == LEVEL:
            name = b"" if each.place is None else language.closer.name(each.place)
            alike[name] += 1
            if alike[name] > ALIKE:
                continue
        room = None if columns is None else columns - len(each.text)
        if each.place is None or each.along or room is None or language.closing(each.place, room) is not None:
            beam.append(each)
    return beam


def _rest(language: Checked, begun: Begun, room: int, old: np.ndarray) -> list[int] | None:
    """What ends a text, and ends behind it."""
    if begun.along and old[0] >= 0:
        return [int(each) for each in old[len(begun.text) :]]
    closing = [] if begun.place is None else language.closing(begun.place, room)
    return None if closing is None else [*closing, *[language.ends[0]] * (room - len(closing))]
