"""All the ways in which tokens spell an option: disjoint texts of tokens, whose probabilities add up."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdlm.decisions.read import Plan, Raw
from jaxdlm.decisions.render import Slot
from jaxdlm.errors import InputError
from jaxdlm.grammar.spelling import Spelling, spelling_of

MOST = 4096  # ways of one option
WAYS = ("canonical", "all")


def every(lm: Any, asked: Slot, where: str) -> tuple[Slot, np.ndarray]:
    """(the slot with every way as a choice of its own, the option that each is of). Raises InputError for too many."""
    spelling = spelling_of(lm)
    start = int(spelling.leads[asked.prompt[-1]]) if asked.pre else 0
    ways, options = [], []
    for option, canonical in enumerate(asked.choices):
        own = {canonical}
        for way in ways_of(spelling, letters(spelling, canonical, start), start):
            own.add(way)
            if len(own) > MOST:
                raise InputError(
                    f"{where}: option {option} is spelled by tokens in more than {MOST} ways: leave tokenisations='all' out"
                )
        ways += sorted(own)
        options += [option] * len(own)
    return asked._replace(choices=tuple(ways)), np.array(options)


def letters(spelling: Spelling, tokens: tuple[int, ...], context: int) -> bytes:
    """What these tokens spell behind a context."""
    text = b""
    for token in tokens:
        pieces = spelling.contexts[context]
        text += pieces.data[pieces.start[token] : pieces.start[token + 1]].tobytes()
        context = int(spelling.leads[token])
    return text


def ways_of(spelling: Spelling, text: bytes, context: int) -> Iterator[tuple[int, ...]]:
    """Every sequence of live tokens that spells the bytes behind a context, none of its tokens empty."""
    if not text:
        yield ()
        return
    for size in range(1, min(len(text), spelling.longest[context]) + 1):
        for token in spelling.tokens[context].get(text[:size], ()):
            for rest in ways_of(spelling, text[size:], int(spelling.leads[token])):
                yield (token, *rest)


def summed(plan: Plan[Raw], options: np.ndarray) -> Plan[Raw]:
    """The reading of the options, from that of all their ways."""
    raw = yield from plan
    add = lambda logp: np.array([np.logaddexp.reduce(logp[options == k]) for k in range(options[-1] + 1)])  # noqa: E731
    some = lambda logps: tuple(map(add, logps))  # noqa: E731
    return raw._replace(logp=add(raw.logp), drawn=some(raw.drawn), without=some(raw.without))
