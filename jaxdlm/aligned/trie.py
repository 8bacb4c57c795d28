"""What samples of one prompt have told: for each text that was read, how likely its continuation ends in the language."""

import json
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.whole import whole_file

FORMAT, VERSION = "jaxdlm-asap", 1
MOST_NODES = 2**20  # of a trie; a full one learns no more, which keeps it sound
NONE = -1


class Facts(NamedTuple):
    """What a trie's numbers hold for. model, prompt, grammar: fingerprints."""

    model: str
    prompt: str
    grammar: str
    temperature: float
    max_new: int


KINDS: dict[str, argument.Kind] = {
    "model": argument.text, "prompt": argument.text, "grammar": argument.text, "temperature": argument.real(above=0),
    "max_new": argument.whole(1),
}  # fmt: skip


class Sampled(NamedTuple):
    """An answer as the trie learns from it; of its n tokens the last leads to no text that is read.

    logp: log P(token) behind what stands before it. unseen: log of the mass of all tokens there that the grammar allows
    and that lead to no node, those of its own batch counted.
    """

    tokens: Sequence[int]
    logp: Sequence[float]
    unseen: Sequence[float]


class AsapTrie:
    """The texts that were read of one prompt, each with c(x) >= P(the continuation of x belongs to the language).

    c(x) = u(x) + Σ_t p(t | x) c(x t), u the mass of allowed tokens behind which nothing was read yet and t the others:
    the over-approximation of arXiv 2405.21047 without a row of the vocabulary per node. Logarithms in float64. Made by
    `jaxdlm.asap`; the numbers belong to one model, prompt, grammar, temperature and max_new, and `asap` refuses a trie of
    others.

    Attributes:
        facts: what it belongs to.
        drawn: answers that were drawn, rejected ones among them; the next call goes on with the noise of the next number.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts, self.drawn = facts, 0
        self._parent: list[int] = []
        self._token: list[int] = []
        self._logp: list[float] = []  # of the token that leads here
        self._unseen: list[float] = []
        self._value: list[float] = []
        self._children: list[dict[int, int]] = []

    def __repr__(self) -> str:
        """One line."""
        return f"<AsapTrie of {len(self)} texts, {self.drawn} drawn, mass {self.mass:.4g}>"

    def __len__(self) -> int:
        """Texts that were read, the empty one among them."""
        return len(self._parent)

    @property
    def mass(self) -> float:
        """c of the empty text: an upper bound of P(the answer belongs to the language), to which it falls; 1 at first."""
        return math.exp(self._value[0]) if self._value else 1.0

    @property
    def widest(self) -> int:
        """The most texts that continue one by a token."""
        return max(map(len, self._children), default=0)

    def value(self, tokens: Iterable[int]) -> float | None:
        """c of the text; None where it was not read."""
        node = 0 if self._parent else None
        for token in tokens:
            node = None if node is None else self._children[node].get(token)
        return None if node is None else math.exp(self._value[node])

    def copy(self) -> "AsapTrie":
        """A trie that learns apart from this one."""
        made = AsapTrie(self.facts)
        made.drawn = self.drawn
        for name in ("_parent", "_token", "_logp", "_unseen", "_value"):
            setattr(made, name, list(getattr(self, name)))
        made._children = [dict(each) for each in self._children]
        return made

    def learn(self, answers: Sequence[Sampled]) -> None:
        """Takes in answers that were drawn together, and brings every c above them up to date."""
        if len(self) + sum(len(each.tokens) for each in answers) > MOST_NODES:
            return
        touched: set[int] = set()
        for answer in answers:
            node = NONE
            for place in range(len(answer.tokens)):
                before = () if place == 0 else (answer.tokens[place - 1], answer.logp[place - 1])
                node = self._at(node, *before)
                self._unseen[node] = answer.unseen[place]
                touched.add(node)
        for node in sorted(touched, reverse=True):  # a child has a higher number than its parent
            self._value[node] = self._sum(node)

    def _at(self, parent: int, token: int = NONE, logp: float = 0.0) -> int:
        """The node behind a token, made where it is new."""
        known = self._children[parent] if parent != NONE else ({NONE: 0} if self._parent else {})
        if token in known:
            return known[token]
        node = len(self._parent)
        known[token] = node
        self._parent.append(parent)
        self._token.append(token)
        self._logp.append(logp)
        self._unseen.append(0.0)
        self._value.append(0.0)
        self._children.append({})
        return node

    def _sum(self, node: int) -> float:
        """log c of a node: sums in float64, and no difference anywhere, so that nothing cancels."""
        terms = [self._unseen[node], *(self._logp[each] + self._value[each] for each in self._children[node].values())]
        top = max(terms)
        return top if top == -math.inf else min(0.0, top + math.log(math.fsum(math.exp(each - top) for each in terms)))

    def edges(self) -> tuple[np.ndarray, ...]:
        """(first, token, child, log c of the child): the edges by their parents; those of node n begin at first[n]."""
        parent = np.asarray(self._parent[1:], np.int64)
        order = np.argsort(parent, kind="stable")
        first = np.searchsorted(parent[order], np.arange(len(self) + 1))
        token, value = np.asarray(self._token[1:], np.int32), np.asarray(self._value[1:], np.float32)
        return first.astype(np.int32), token[order], (1 + order).astype(np.int32), value[order]

    def save(self, path: Any) -> None:
        """Writes an npz file, whole or not at all; the path gets no ending of its own."""
        target = argument.path(path, "trie")
        head = {"format": FORMAT, "version": VERSION, "drawn": self.drawn, "facts": self.facts._asdict()}
        try:
            with whole_file(target) as out:
                np.savez(
                    out, head=np.frombuffer(json.dumps(head).encode(), np.uint8), parent=np.array(self._parent, np.int32),
                    token=np.array(self._token, np.int32), logp=np.array(self._logp), unseen=np.array(self._unseen),
                )  # fmt: skip
        except OSError as error:
            raise InputError(f"trie {target} cannot be written ({error.strerror}): check the path") from None

    @classmethod
    def load(cls, path: Any) -> "AsapTrie":
        """The trie in a file that `save` has written. Raises InputError for any other."""
        source = argument.path(path, "trie")
        try:
            with pathlib.Path(source).open("rb") as data, np.load(data, allow_pickle=False) as arrays:
                head = json.loads(bytes(arrays["head"]))
                columns = [arrays[name] for name in ("parent", "token", "logp", "unseen")]
            return cls._made(head, columns)
        except OSError as error:
            raise InputError(f"trie {source} cannot be read ({error.strerror}): check the path") from None
        except (ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error):
            raise InputError(f"trie {source} is damaged, or no trie that asap has saved: draw a new one") from None

    @classmethod
    def _made(cls, head: Any, columns: Sequence[np.ndarray]) -> "AsapTrie":
        """From a file's contents; ValueError where they are no trie. c follows from the rest, to the bit."""
        if (head["format"], head["version"]) != (FORMAT, VERSION):
            raise ValueError("format")
        made = cls(Facts(**{name: kind(head["facts"][name], name) for name, kind in KINDS.items()}))
        made.drawn = argument.whole(0)(head["drawn"], "drawn")
        parent, token, logp, unseen = columns
        kinds = [(parent, np.int32), (token, np.int32), (logp, np.float64), (unseen, np.float64)]
        if any(x.dtype != kind or x.shape != parent.shape or x.ndim != 1 for x, kind in kinds):
            raise ValueError("columns")
        before = np.arange(parent.size)
        sound = (parent < before) & (parent >= (before > 0) - 1) & ((token >= 0) | (before == 0))
        if parent.size > MOST_NODES or not sound.all() or not ((logp < 0.1) & (unseen < 0.1)).all():
            raise ValueError("numbers")
        for each in zip(parent.tolist(), token.tolist(), logp.tolist(), strict=True):
            made._at(*each)
        if len(made) != parent.size:
            raise ValueError("a text twice")
        made._unseen = unseen.tolist()
        for node in reversed(range(len(made))):
            made._value[node] = made._sum(node)
        return made

    def check(self, wanted: Facts, where: str) -> None:
        """Raises InputError where it belongs to another model, prompt, grammar, temperature or max_new."""
        for name, own, asked in zip(Facts._fields, self.facts, wanted, strict=True):
            if own != asked:
                told = f" ({own}, not {asked})" if name in ("temperature", "max_new") else ""
                raise InputError(f"{where}: the trie was drawn with another {name}{told}: use the same, or a new trie")
