"""A language as the decoding loops read it: a table of states and classes of tokens."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.argument import shown
from jaxdlm.errors import InputError
from jaxdlm.grammar.tokens import FAR
from jaxdlm.typing import Array, Bool, Int32

BUCKETS = (16, 64, 256, 1024, 4096, 16384)


class Tables(NamedTuple):
    """The arrays of one row's grammar; the loops carry them with a leading batch axis."""

    classes: Int32[Array, "V"]
    next: Int32[Array, "S C"]
    accepting: Bool[Array, "S"]
    distance: Int32[Array, "S"]
    forced: Int32[Array, "S"]
    state: Int32[Array, ""]  # where the row is


class Arcs(NamedTuple):
    """The live entries of a table by pairs of states: source[p] -> target[p] by the classes of group[p]. Pairs with the same
    classes share a group; member and symbol list what is in which."""

    source: Int32[np.ndarray, "P"]
    target: Int32[np.ndarray, "P"]
    group: Int32[np.ndarray, "P"]
    member: Int32[np.ndarray, "M"]
    symbol: Int32[np.ndarray, "M"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grammar:
    """A set of texts, as an automaton over the ids of one tokenizer. Made by the functions of `jaxdlm.grammar`.

    Every way to spell a text by tokens is in it, whatever the tokenizer itself would choose; a text that no tokens spell is
    not. Behind a text come any number of tokens that end one: an answer that fills n columns is w end ... end. Equal are
    grammars with the same words for the same tokenizer.

    Attributes:
        words: what it was made of, "regex:[0-9]+".
        fingerprint: of the tokenizer's letters, its ends and the number of its ids.
        classes: int32[V], the class of each id; class 0 leads nowhere from any state.
        next: int32[S, C], the state behind a token of the class; state 0 is dead and stays dead.
        start: the state before the first token, at least 1.
        accepting: bool[S], whether the tokens so far are a text, or a text and ends.
        distance: int32[S], the least number of further tokens until that is so; 2^30 from the dead state.
        forced: int32[S], a token of what all texts go on with, letter by letter; -1 where they differ. By other tokens the
            same letters may be spelled: it is a draft.
    """

    words: str
    fingerprint: str
    classes: np.ndarray
    next: np.ndarray
    start: int
    accepting: np.ndarray
    distance: np.ndarray
    forced: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.classes, self.next, self.accepting, self.distance, self.forced):
            array.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grammar):
            return NotImplemented
        return (self.words, self.fingerprint) == (other.words, other.fingerprint)

    def __hash__(self) -> int:
        return hash((self.words, self.fingerprint))

    def __repr__(self) -> str:
        """One line."""
        tokens = f"at least {self.min_tokens} token{'s' * (self.min_tokens != 1)}"
        return f"<Grammar {shown(self.words)}: {self.states} states, {self.number_of_classes} classes, {tokens}>"

    @property
    def live(self) -> np.ndarray:
        """bool[V], tokens that some text may hold, and ends."""
        return self.classes > 0

    @property
    def drafts(self) -> bool:
        """Whether some texts go on with the same letters."""
        return bool((self.forced >= 0).any())

    @property
    def states(self) -> int:
        """S, the dead one among them."""
        return self.next.shape[0]

    @property
    def number_of_classes(self) -> int:
        """C, the dead one among them."""
        return self.next.shape[1]

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest text, without an end."""
        return int(self.distance[self.start])

    @property
    def bucket(self) -> tuple[int, int]:
        """(S', C'), each the least of 16, 64, 256, 1024, 4096, 16384 that holds it: programs are compiled per bucket."""
        states, classes = (next(size for size in BUCKETS if size >= each) for each in self.next.shape)
        return states, classes

    @functools.cached_property
    def arcs(self) -> Arcs:
        """What sums and maxima over texts run over: fewer than the live entries, by a factor of 2 to 10 for JSON."""
        source, symbol = np.nonzero(self.next)
        target = self.next[source, symbol]
        order = np.lexsort((symbol, target, source))
        source, symbol, target = source[order], symbol[order].astype(np.int32), target[order]
        first = np.flatnonzero(np.diff(source, prepend=-1) | np.diff(target, prepend=-1))
        known: dict[bytes, int] = {}
        group = [known.setdefault(each.tobytes(), len(known)) for each in np.split(symbol, first[1:])]
        parts = [np.frombuffer(each, np.int32) for each in known]
        return Arcs(
            source[first].astype(np.int32), target[first].astype(np.int32), np.array(group, np.int32),
            np.repeat(np.arange(len(parts), dtype=np.int32), list(map(len, parts))), np.concatenate(parts),
        )  # fmt: skip

    def accepts(self, ids: Iterable[int]) -> bool:
        """Whether the ids spell a text of the language, ends behind it or not.

        Raises InputError where ids are no whole numbers; one that the model does not have is in no text.
        """
        row = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if row.ndim != 1 or (row.size and not np.issubdtype(row.dtype, np.integer)):
            raise InputError(f"ids={shown(ids)}: must be a list of token ids")
        if row.size and not 0 <= row.min() <= row.max() < self.classes.size:
            return False
        state = self.start
        for each in self.classes[row.astype(np.int64)]:
            state = self.next[state, each]
        return bool(self.accepting[state])

    def tables(self, bucket: tuple[int, int] | None = None) -> Tables:
        """The arrays with dead states and classes behind them up to a bucket (S', C'), default its own; state: the start.

        Raises InputError for a bucket that is smaller than the grammar.
        """
        states, classes = self.bucket if bucket is None else bucket
        more = (states - self.states, classes - self.number_of_classes)
        if min(more) < 0:
            raise InputError(
                f"bucket={shown(bucket)} is smaller than the grammar, {self.next.shape}: give a larger one"
            )
        behind: Any = (0, more[0])
        return Tables(
            self.classes, np.pad(self.next, (behind, (0, more[1]))), np.pad(self.accepting, behind),
            np.pad(self.distance, behind, constant_values=FAR), np.pad(self.forced, behind, constant_values=-1),
            np.asarray(self.start, np.int32),
        )  # fmt: skip
