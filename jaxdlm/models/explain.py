"""Which implementation of a part of the model a program got, and why not the others: `JAXDLM_EXPLAIN=1` prints it."""

import contextlib
import contextvars
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

VARIABLE = "JAXDLM_EXPLAIN"

T = TypeVar("T")
_heard: contextvars.ContextVar[dict[str, None] | None] = contextvars.ContextVar("heard", default=None)
_said: set[str] = set()


class Way(NamedTuple):
    """An implementation. refuses: why it does not apply to a case, None where it does."""

    name: str
    refuses: Callable[[Any], str | None]
    run: Callable[..., Any]


def first(part: str, ways: Sequence[Way], case: Any) -> Way:
    """The first way that applies; what was chosen is noted. The last one applies always."""
    others: list[str] = []
    for way in ways:
        why = way.refuses(case)
        if why is None:
            behind = [f"{each.name}: not asked" for each in ways[len(others) + 1 :]]
            note(f"{part}: {way.name} ({'; '.join([*others, *behind])})")
            return way
        others.append(f"{way.name}: {why}")
    raise AssertionError(f"{part}: the last way applies always")


def note(line: str) -> None:
    """Keeps a line for who listens; without a listener it is printed once, where the environment asks for it."""
    heard = _heard.get()
    if heard is not None:
        heard[line] = None
    elif os.environ.get(VARIABLE, "0") not in ("", "0") and line not in _said:
        _said.add(line)
        print(f"# {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def listening() -> Iterator[dict[str, None]]:
    """The lines that are noted inside, each once, as the keys of a dict."""
    lines: dict[str, None] = {}
    token = _heard.set(lines)
    try:
        yield lines
    finally:
        _heard.reset(token)
