"""Rows of streams: only those with which a stream has moved are decoded, the others name the row whose answer is theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdlm.argument import shown
from jaxdlm.batch.rows import Raw, identity
from jaxdlm.errors import InputError
from jaxdlm.streams import Stream, begin, read_embeddings, step

STREAM, EMBEDDING = "stream", "embedding"  # fields of a row


class Gate(NamedTuple):
    """As in `jaxdlm.streams.step`."""

    threshold: float
    patience: int = 1


@dataclass(frozen=True)
class Repeat:
    """A row that is not decoded: its answer is that of the row with the id `same`."""

    row: int
    line: int
    id: Any
    same: Any


class Gates:
    """The streams of an input, which is read once in its order. same: row -> the id of the row with its answer."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.same: dict[int, Any] = {}
        self.refused: dict[int, str] = {}
        self._open: dict[Any, tuple[Stream, Any]] = {}  # of each stream its state, and the id that was decoded last

    def see(self, raw: Raw, value: Mapping[str, Any]) -> None:
        """A row without an embedding is decoded, and moves no stream; one whose embedding does not read is refused."""
        if value.get(EMBEDDING) is None:
            return
        try:
            self._see(raw, value)
        except InputError as error:
            self.refused[raw.row] = f"line {raw.line}: {error}"

    def _see(self, raw: Raw, value: Mapping[str, Any]) -> None:
        name, number = value.get(STREAM), value[EMBEDDING]
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise InputError(f"{STREAM}={shown(name)}: must be a string or a whole number")
        frame = read_embeddings([number])[0]
        state, last = self._open.get(name, (begin(len(frame)), None))
        if len(frame) != len(state.mean):
            raise InputError(f"{EMBEDDING} has {len(frame)} numbers, those of its stream before have {len(state.mean)}")
        state, moved = step(state, jnp.asarray(frame), self.gate.threshold, self.gate.patience)
        if moved:
            last = identity(value, raw)
        else:
            self.same[raw.row] = last
        self._open[name] = state, last
