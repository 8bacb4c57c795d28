"""What rows bring in the place of their policy's: numbers of the distribution, guides, arrays of both, and columns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdlm import argument
from jaxdlm.core import automaton
from jaxdlm.core.guide import Guide, joined
from jaxdlm.errors import InputError
from jaxdlm.grammar.checked import Checked
from jaxdlm.guides._checked import checked
from jaxdlm.guides.grammar import GrammarGuide
from jaxdlm.typing import PyTree


class Own(NamedTuple):
    """What a row of an autoregressive model brings in the place of its policy's: numbers of the distribution by the names
    of `speculative.warp.Warp`, and a guide beside the policy's. Those of one decode have the same names, and guides of one
    structure."""

    numbers: Mapping[str, Any] = {}
    guide: Guide | None = None


def own_guides(own: Sequence[Own] | None, grammars: Sequence[Any] | None, rows: int) -> list[Guide | None] | None:
    """The guide of each row: its own numbers, then its grammar, which has the last word; None: rows have none."""
    guides: list[Guide | None] = [None if own is None else own[row].guide for row in range(rows)]
    if grammars is not None and isinstance(grammars[0], Checked):
        guides = [joined(*both) for both in zip(guides, map(checked, grammars), strict=True)]
    elif grammars is not None:
        sizes = automaton.shape_of(grammars[0])[:2]
        tables = [grammar.tables(sizes) for grammar in grammars]
        guides = [joined(*both) for both in zip(guides, map(GrammarGuide, tables), strict=True)]
    return None if guides[0] is None else guides


def columns_of(numbers: Sequence[Mapping[str, Any]]) -> PyTree:
    """{name: an array with a number of each row}; (): there are none."""
    if not numbers or not numbers[0]:
        return ()
    one = lambda name: np.array([row[name] for row in numbers])  # noqa: E731
    narrow = {"i": np.int32, "f": np.float32}
    return {name: one(name).astype(narrow[one(name).dtype.kind]) for name in numbers[0]}


def stacked(guides: Sequence[PyTree] | None) -> PyTree:
    """What each row brings for a guide, with a leading axis of rows; (): nothing."""
    if guides is None:
        return ()
    shapes = {str(jax.tree.map(np.shape, each)) for each in guides}
    if len(shapes) > 1:
        raise InputError(f"rows bring guides of {len(shapes)} shapes to one program: fill them up to one of them")
    return jax.tree.map(lambda *each: np.stack(each), *guides)


def rooms_of(max_new: Any, rows: int, **beside: Any) -> tuple[Any, list[int] | None]:
    """(the columns of the longest, those of each prompt); None where `max_new` is one number for all. beside: arguments that
    say themselves how many columns a prompt has. Raises InputError for numbers that are none, too few, or beside these."""
    if not isinstance(max_new, list | tuple | np.ndarray):
        return max_new, None
    if len(max_new) != rows:
        raise InputError(f"max_new has {len(max_new)} numbers for {rows} prompts: give one per prompt, or one for all")
    for name, value in beside.items():
        if value is not None and value is not False:
            raise InputError(f"max_new is one number for all beside {name}: leave one of the two out")
    rooms = [argument.whole(1)(each, "max_new") for each in max_new]
    return max(rooms), rooms
