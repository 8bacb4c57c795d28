"""How often tokens follow others: all n-grams of a corpus as one tree, kept with the words of its tokenizer."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.errors import InputError
from jaxdlm.speculative import counted
from jaxdlm.typing import Array, Float32, Int32
from jaxdlm.vocabulary import vocabulary_hash

KIND = "jaxdlm n-grams"
SHAPES = {"first": np.int32, "token": np.int32, "count": np.int32, "total": np.int32, "longest": np.int32}
LONGEST = 16  # tokens of an n-gram


@struct.dataclass
class NGrams:
    """N sequences of tokens, a node each. Node t < V is the token t alone; those that lengthen node p by a token are nodes
    `first[p] .. first[p + 1]`, by that token. -1 is a sequence that the corpus has not.

    count: times that it stands in the corpus. total: times that anything follows it. longest: tokens of the longest ones.
    halvings: searches of the most followers of a node.
    """

    first: Int32[Array, "N_1"]
    token: Int32[Array, "N"]
    count: Int32[Array, "N"]
    total: Int32[Array, "N"]
    longest: int = struct.field(pytree_node=False)
    halvings: int = struct.field(pytree_node=False)

    def longer(self, node: Int32[Array, "..."], token: Int32[Array, "..."]) -> Int32[Array, "..."]:
        """The nodes with a token more."""
        at = jnp.maximum(node, 0)
        low, end = self.first[at], self.first[at + 1]
        high = end
        for _ in range(self.halvings):  # until low is the first with a token that is not lower
            middle = (low + high) // 2
            right = (low < high) & (self.token.at[middle].get(mode="clip") < token)
            low, high = jnp.where(right, middle + 1, low), jnp.where(right | (low >= high), high, middle)
        known = (node >= 0) & (low < end) & (self.token.at[low].get(mode="clip") == token)
        return jnp.where(known, low, -1)

    def suffixes(self, text: Int32[Array, "L"], length: Int32[Array, ""], orders: int) -> Int32[Array, "O"]:
        """The nodes of the last 1, 2, .. `orders` tokens of a text; -1 also where it is shorter."""
        nodes = jnp.full(orders, -1, jnp.int32)
        for back in range(orders, 0, -1):
            token = text[jnp.maximum(length - back, 0)]
            nodes = jnp.where(length >= back, self.after(nodes, token), nodes)
        return nodes

    def after(self, suffixes: Int32[Array, "O"], token: Int32[Array, ""]) -> Int32[Array, "O"]:
        """The nodes of the last tokens, once this one follows."""
        return jnp.concatenate([token[None], self.longer(suffixes[:-1], token)])

    def share(self, suffixes: Int32[Array, "O"], token: Int32[Array, "M"]) -> Float32[Array, "O M"]:
        """count(suffix, token) / count(suffix, anything): of each suffix the share of its followers that is this token; 0
        where the corpus has not the suffix."""
        both = self.longer(suffixes[:, None], token[None, :])
        total = self.total[jnp.maximum(suffixes, 0)]
        return jnp.where(both >= 0, self.count[jnp.maximum(both, 0)] / jnp.maximum(total, 1)[:, None], 0.0)


class NGramTable(NamedTuple):
    """A table with what it was counted for: `save` it, and `superposed(table=...)`."""

    grams: NGrams
    vocab_size: int
    vocabulary: int  # hash of the tokenizer's words with their ids; 0 without a tokenizer
    name: str = "the n-gram table"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as safetensors, which `read_ngrams` and `superposed(table=path)` read."""
        grams = self.grams
        parts = (grams.first, grams.token, grams.count, grams.total, np.array([grams.longest], np.int32))
        counted.write(path, KIND, dict(zip(SHAPES, parts, strict=True)), self.vocab_size, self.vocabulary)


def count_ngrams(lm: Any, texts: Iterable[Any], longest: int = 6, ends: bool = True) -> NGramTable:
    """The table of a corpus: how often each token follows each sequence of 1 to longest - 1 tokens, counted in one pass.

    Args:
        lm: from `jaxdlm.load`; strings are read by its tokenizer.
        texts: strings, or lists of token ids. No n-gram reaches from one into the next.
        longest: tokens of an n-gram, 2 to 16 (6; the paper's).
        ends: the model's end of text follows each text. The released code counts none, so that no text ends where the
            table knows how it goes on.

    Raises:
        InputError: for a model without a tokenizer and strings, ids that it has not, or no text of two tokens.

    Examples:
        >>> import jaxdlm as jd
        >>> table = jd.speculative.count_ngrams(jd.load("tiny-ar"), ["copy : [ Alan , Kate , Omar ]"])
        >>> table.grams.longest
        6
    """
    config = argument.model(lm).config
    longest = argument.whole(2, LONGEST)(longest, "longest")
    tail = config.tokens.eos[:1] if argument.flag(ends, "ends") else ()
    parts = [np.append(counted.ids_of(lm, text, number), tail).astype(np.int64) for number, text in enumerate(texts)]
    if not any(part.size > 1 for part in parts):
        raise InputError("no text has two tokens: an n-gram table needs a corpus")
    return NGramTable(_grown(parts, config.vocab_size, longest), config.vocab_size, vocabulary_hash(lm))


def _grown(parts: Sequence[np.ndarray], size: int, longest: int) -> NGrams:
    """The tree, length by length: nodes of one length stand behind those of the length before, in the order of these."""
    ids = np.concatenate(parts)
    left = np.concatenate([np.arange(part.size, 0, -1) for part in parts])  # tokens up to the end of the text
    node = ids  # of the n-gram that begins at each place
    parents: list[np.ndarray] = []
    tokens, counts = [np.arange(size)], [np.bincount(ids, minlength=size)]
    nodes = size
    for length in range(2, longest + 1):
        place = np.flatnonzero(left >= length)
        if not place.size:
            break
        keys, which, count = np.unique(
            node[place] * size + ids[place + length - 1], return_inverse=True, return_counts=True
        )
        parents, tokens, counts = [*parents, keys // size], [*tokens, keys % size], [*counts, count]
        node = np.full(ids.size, -1, np.int64)
        node[place] = nodes + which
        nodes += keys.size
    parent, count = np.concatenate(parents), np.concatenate(counts)
    if nodes > argument.INT32:
        raise InputError(f"{nodes} n-grams are more than a table holds: count shorter ones, or fewer texts")
    first = size + np.searchsorted(parent, np.arange(nodes + 1))
    total = np.bincount(parent, weights=count[size:], minlength=nodes)
    return _on_device((first, np.concatenate(tokens), count, total), longest)


def _on_device(arrays: Sequence[np.ndarray], longest: int) -> NGrams:
    """The table of first, token, count, total."""
    first, token, count, total = (jax.device_put(array.astype(np.int32)) for array in arrays)
    return NGrams(first, token, count, total, longest, int(np.diff(arrays[0]).max()).bit_length())


def read_ngrams(path: str | os.PathLike[str]) -> NGramTable:
    """The table of a file that `NGramTable.save` wrote. Raises InputError where it is missing, damaged, or something else."""
    stored = counted.read(path, KIND, SHAPES, _fault)
    *parts, longest = (stored.arrays[name] for name in SHAPES)
    return NGramTable(_on_device(parts, int(longest[0])), *stored[1:])


def _fault(stored: Mapping[str, np.ndarray], size: int) -> str:
    """What is wrong with the parts of a file, or nothing: every index that is followed must lead somewhere."""
    first, token, count, total, longest = (stored[name] for name in SHAPES)
    if not first.size - 1 == token.size == count.size == total.size >= size or longest.size != 1:
        return "its parts do not fit each other"
    if first[0] != size or first[-1] != token.size or (np.diff(first) < 0).any():
        return "its nodes are not in order"
    if ((token < 0) | (token >= size)).any():
        return f"it names tokens outside 0 .. {size - 1}"
    followed = np.diff(np.append(0, np.cumsum(count, dtype=np.int64))[first])
    if (count < 0).any() or (followed != total).any():
        return "its counts do not add up"
    return "" if 2 <= longest[0] <= LONGEST else f"it holds n-grams of {longest[0]} tokens"
