"""The languages of rows as a program carries them: automata on the device, or texts that a checker on the host keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdlm.core import automaton
from jaxdlm.core.automaton import Automaton
from jaxdlm.core.carry import Witness
from jaxdlm.grammar.checked import Checked
from jaxdlm.grammar.witness import first_text
from jaxdlm.typing import Bool, Int32

Shape = tuple[int, int, int, int]
CHECKED: Shape = (0, 0, 0, 0)  # in the place of an automaton's sizes


def shape_of(grammar: Any) -> Shape | None:
    """What rows of one program have in common: the sizes of an automaton, or that a checker knows the language."""
    if grammar is None:
        return None
    return CHECKED if isinstance(grammar, Checked) else automaton.shape_of(grammar)


def blank(vocab: int, shape: Shape, rows: tuple[int, ...], columns: int) -> Automaton | Witness:
    """Languages of rows that are not there; columns: of the canvas."""
    if shape != CHECKED:
        return automaton.blank(vocab, shape, rows)
    zero = np.zeros(rows, np.int32)
    return Witness(zero, zero.copy(), zero.copy(), np.full((*rows, columns), -1, np.int32))


def pack(
    grammars: Sequence[Any], tokens: Int32[np.ndarray, "B C"], pending: Bool[np.ndarray, "B C"],
    first: Int32[np.ndarray, "B"], last: Int32[np.ndarray, "B"],
) -> Automaton | Witness:  # fmt: skip
    """The languages of rows of one shape, before the first forward. tokens, pending: of the canvas, whose columns a text
    begins and ends at in `first` and `last`."""
    sides = shape_of(grammars[0])
    assert sides is not None, "rows without a language are another program's"
    if sides != CHECKED:
        return automaton.pack(grammars, sides, first, last)
    text = np.full(tokens.shape, -1, np.int32)
    for row, (grammar, begin, end) in enumerate(zip(grammars, first.tolist(), last.tolist(), strict=True)):
        made = first_text(grammar, tokens[row, begin:end], ~pending[row, begin:end])
        if made is not None:
            text[row, begin:end] = made
    numbers = np.array([each.number for each in grammars], np.int32)
    return Witness(numbers, first.astype(np.int32), last.astype(np.int32), text)
