"""A canvas with the keys and marks of a JSON object written already, and the languages of what stands between."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.argument import shown
from jaxdlm.errors import InputError
from jaxdlm.grammar import schemas
from jaxdlm.grammar.grammar import Grammar
from jaxdlm.grammar.syntax import Node, cat, chars, repeat, text, those

SPACES = repeat(chars(those(" ")), 0, None)  # fill up what a value leaves of its columns
MOST_COLUMNS = 2**16


class Slot(NamedTuple):
    """A value of a schema: its path, "address.city", its schema and the path of that."""

    name: str
    schema: Any
    where: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Skeleton:
    """An object of a JSON schema, of which a diffusion model writes the values alone. Made by `jaxdlm.grammar.skeleton`.

    Attributes:
        grammar: the objects, with spaces behind each value.
        canvas: int32[N], the ids of keys and marks, the mask id in the columns of the values.
        slots: per value, by its path ("address.city"), its first column and the one behind its last.
    """

    grammar: Grammar
    canvas: np.ndarray
    slots: Mapping[str, tuple[int, int]]

    def __repr__(self) -> str:
        """One line."""
        names = ", ".join(f"{name} {end - begin}" for name, (begin, end) in self.slots.items())
        return f"<Skeleton of {len(self.canvas)} columns: {names}>"


def pieces(schema: Any, path: str = "", where: str = "#") -> Iterator[str | Slot]:
    """The text and the slots of an object, in its order, all of its properties in it. Raises InputError where there is none."""
    if not isinstance(schema, Mapping) or not schema.get("properties"):
        raise InputError(f"json_schema {where} has no properties: a skeleton is made of an object's")
    for index, (name, each) in enumerate(
        argument.table(schema["properties"], f"json_schema {where}/properties").items()
    ):
        own, inner = f"{path}{name}", f"{where}/properties/{name}"
        yield ("{" if not index else ", ") + json.dumps(name, ensure_ascii=False) + ": "
        if isinstance(each, Mapping) and each.get("properties"):
            yield from pieces(each, f"{own}.", inner)
        else:
            yield Slot(own, each, inner)
    yield "}"


def joined(parts: Iterator[str | Slot]) -> list[str | Slot]:
    """The same, texts beside each other as one."""
    made: list[str | Slot] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        else:
            made.append(part)
    return made


def tree(parts: list[str | Slot], document: Any, depth: int) -> Node:
    """The texts of a skeleton, or of one slot."""
    value = lambda slot: schemas.part(document, slot.schema, slot.where, depth)  # noqa: E731
    return cat(*(text(part) if isinstance(part, str) else cat(value(part), SPACES) for part in parts))


def laid_out(
    parts: list[str | Slot], columns: Mapping[str, int], lm: Any
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """(the canvas, the columns of each slot)."""
    mask, ids, slots = lm.config.tokens.mask, list[int](), dict[str, tuple[int, int]]()
    for part in parts:
        if isinstance(part, str):
            ids += lm.tokenizer.encode_inside(part)
        else:
            slots[part.name] = (len(ids), len(ids) + columns[part.name])
            ids += [mask] * columns[part.name]
    return np.array(ids, np.int32), slots


def widths(columns: Any, slots: list[Slot]) -> dict[str, int]:
    """The columns of each slot. Raises InputError for a name that is no slot, and one that is missing."""
    names = [slot.name for slot in slots]
    if not isinstance(columns, Mapping):
        return dict.fromkeys(names, _count(columns, "columns"))
    for name in columns:
        argument.check_choice(name, "columns", names)
    missing = next((name for name in names if name not in columns), None)
    if missing is not None:
        raise InputError(f"columns has none for {missing!r:.60}: say how many tokens its value may take")
    return {name: _count(columns[name], f"columns[{shown(name)}]") for name in names}


def _count(value: Any, name: str) -> int:
    return int(argument.whole(1, MOST_COLUMNS)(value, name) or 0)
