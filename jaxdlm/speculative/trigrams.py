"""Which token follows two: a table counted over a corpus, kept with the words of its tokenizer.

key (a, b) -> the likeliest c, with P(c | a, b) = count(a, b, c) / count(a, b, ·)
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.speculative import counted
from jaxdlm.typing import Array, Float32, Int32
from jaxdlm.vocabulary import vocabulary_hash

MOST = 12  # successors of a key that are kept (the released code's)
SHAPES = {"first": np.int32, "second": np.int32, "start": np.int32, "token": np.int32, "weight": np.float32}


class Trigrams(NamedTuple):
    """H keys and N successors. Keys (a, ·) are `first[a] .. first[a + 1]`, by their second token; the successors of key h
    `start[h] .. start[h + 1]`, the likeliest first (the lowest id on a tie)."""

    first: Int32[Array, "V_1"]
    second: Int32[Array, "H"]
    start: Int32[Array, "H_1"]
    token: Int32[Array, "N"]
    weight: Float32[Array, "N"]

    def after(self, a: Int32[Array, ""], b: Int32[Array, ""]) -> tuple[Int32[Array, "K"], Float32[Array, "K"]]:
        """(successors of the key (a, b), their weights: 0 where there is none)."""
        low, high = self.first[a], self.first[a + 1]
        end = high
        for _ in range(self.second.shape[0].bit_length()):  # halvings, until low is the first with second >= b
            middle = (low + high) // 2
            right = (low < high) & (self.second.at[middle].get(mode="clip") < b)
            low, high = jnp.where(right, middle + 1, low), jnp.where(right | (low >= high), high, middle)
        known = (low < end) & (self.second.at[low].get(mode="clip") == b)
        key = jnp.where(known, low, 0)
        place = self.start[key] + jnp.arange(MOST, dtype=jnp.int32)
        inside = known & (place < self.start[key + 1])
        weight = jnp.where(inside, self.weight.at[place].get(mode="clip"), 0)
        return self.token.at[place].get(mode="clip"), weight


class Table(NamedTuple):
    """A table with what it was counted for: `save` it, and `aded(table=...)`."""

    grams: Trigrams
    vocab_size: int
    vocabulary: int  # hash of the tokenizer's words with their ids; 0 without a tokenizer
    name: str = "the n-gram table"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as safetensors, which `read_trigrams` and `aded(table=path)` read."""
        counted.write(path, KIND, self.grams._asdict(), self.vocab_size, self.vocabulary)


KIND = "jaxdlm trigrams"


def count_trigrams(lm: Any, texts: Iterable[Any]) -> Table:
    """The table of a corpus, counted in one pass.

    Args:
        lm: from `jaxdlm.load`; strings are read by its tokenizer.
        texts: strings, or lists of token ids. A text ends where it ends: no key reaches into the next.

    Raises:
        InputError: for a model without a tokenizer and strings, ids that it has not, or no text of three tokens.

    Examples:
        >>> import jaxdlm as jd
        >>> table = jd.speculative.count_trigrams(jd.load("tiny-ar"), ["copy : [ Alan , Kate , Omar ]"])
        >>> int(table.grams.second.shape[0])
        7
    """
    size = argument.model(lm).config.vocab_size
    parts = [_windows(counted.ids_of(lm, text, number), size) for number, text in enumerate(texts)]
    every = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if not every.size:
        raise InputError("no text has three tokens: an n-gram table needs a corpus")
    return Table(_ranked(*np.unique(every, return_counts=True), size), size, vocabulary_hash(lm))


def _windows(ids: np.ndarray, size: int) -> np.ndarray:
    """Each three tokens in a row as one number."""
    return (ids[:-2] * size + ids[1:-1]) * size + ids[2:]


def _ranked(grams: np.ndarray, count: np.ndarray, size: int) -> Trigrams:
    """The MOST likeliest successors of each key, as shares of all of the key."""
    key, token = grams // size, grams % size
    keys, group = np.unique(key, return_inverse=True)
    total = np.bincount(group, weights=count)
    order = np.lexsort((token, -count, group))
    rank = np.arange(group.size) - np.searchsorted(group[order], group[order])
    order = order[rank < MOST]
    first = np.searchsorted(keys // size, np.arange(size + 1))
    start = np.searchsorted(group[order], np.arange(keys.size + 1))
    arrays = (first, keys % size, start, token[order], (count / total[group])[order])
    return Trigrams(*(jnp.asarray(array.astype(kind)) for array, kind in zip(arrays, SHAPES.values(), strict=True)))


def read_trigrams(path: str | os.PathLike[str]) -> Table:
    """The table of a file that `Table.save` wrote. Raises InputError where it is missing, damaged, or something else."""
    stored = counted.read(path, KIND, SHAPES, _fault)
    return Table(Trigrams(**{name: jax.device_put(stored.arrays[name]) for name in SHAPES}), *stored[1:])


def _fault(stored: Mapping[str, np.ndarray], size: int) -> str:
    """What is wrong with the parts of a file, or nothing: every index that `after` follows must lead somewhere."""
    first, second, start, token, weight = (stored[name] for name in SHAPES)
    if first.size != size + 1 or start.size != second.size + 1 or token.size != weight.size or not second.size:
        return "its parts do not fit each other"
    ranges = ((first, second.size), (start, token.size))
    if any(x[0] != 0 or x[-1] != end or (np.diff(x) < 0).any() for x, end in ranges):
        return "its keys are not in order"
    if not all(((ids >= 0) & (ids < size)).all() for ids in (second, token)):
        return f"it names tokens outside 0 .. {size - 1}"
    return "" if ((weight > 0) & (weight <= 1)).all() else "its weights are no shares"
