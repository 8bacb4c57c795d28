"""The bytes of every token id: what `Tokenizer.decode` makes of an answer, token by token.

What a token adds to the text may depend on the one before it: the first token of an answer loses a space in some
vocabularies, and words are joined by spaces. So there are contexts, the first of them that of the first token; a token
has its bytes in each, and leads to the context of the next one.
"""

import dataclasses
import functools
import hashlib
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.tokenizer_checks import is_text
from jaxdlm.tokenizer_spec import glued

BEFORE = ("\n", "0", "a")  # words of each kind that matters to `glued`: white space, digits, others
BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
CHECKED = 512  # tokens that are decoded to see that this module is right about the tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
    """Bytes of V tokens, one behind the other: token t has data[start[t] : start[t + 1]]; none: it is dead, or adds
    nothing."""

    data: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> "Pieces":
        """From a string of bytes per token."""
        start = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum([len(token) for token in tokens], out=start[1:])
        return cls(np.frombuffer(b"".join(tokens), np.uint8), start)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.start)

    @property
    def first(self) -> np.ndarray:
        """uint8[V]: the first byte of each token; of those without any it means nothing."""
        return self.data[np.minimum(self.start[:-1], self.data.size - 1)]

    def bytes_of(self, tokens: np.ndarray) -> set[int]:
        """The bytes that stand in some of the tokens, bool[V]."""
        return set(np.unique(self.data[np.repeat(tokens, self.lengths)]).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Spelling:
    """contexts: a `Pieces` each; live: bool[V]; leads: int64[V], the context behind a token; ends: ids that end a text."""

    contexts: tuple[Pieces, ...]
    live: np.ndarray
    leads: np.ndarray
    ends: tuple[int, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 letters for all that this holds: two tokenizers with the same one have the same grammars."""
        digest = hashlib.sha256(repr(self.ends).encode())
        for array in (self.live, self.leads, *(part for each in self.contexts for part in (each.data, each.start))):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _by_letters(self) -> list[dict[bytes, set[int]]]:
        """Per context, the bytes of its tokens, and the contexts that tokens with these bytes lead to."""
        tables: list[dict[bytes, set[int]]] = []
        for pieces in self.contexts:
            data, start = pieces.data.tobytes(), pieces.start.tolist()
            table: dict[bytes, set[int]] = {}
            for token in np.flatnonzero(self.live).tolist():
                table.setdefault(data[start[token] : start[token + 1]], set()).add(int(self.leads[token]))
            tables.append(table)
        return tables

    @functools.cached_property
    def tokens(self) -> tuple[dict[bytes, tuple[int, ...]], ...]:
        """Per context, the bytes of its live tokens and the ids that have them, ascending."""
        tables: list[dict[bytes, tuple[int, ...]]] = []
        for pieces in self.contexts:
            data, start = pieces.data.tobytes(), pieces.start.tolist()
            table: dict[bytes, tuple[int, ...]] = {}
            for token in np.flatnonzero(self.live & (pieces.lengths > 0)).tolist():
                own = data[start[token] : start[token + 1]]
                table[own] = (*table.get(own, ()), token)
            tables.append(table)
        return tuple(tables)

    @functools.cached_property
    def bare(self) -> np.ndarray:
        """int32[V]: the token with the same letters but for a space in front; itself where there is none."""
        pieces, known = self.contexts[-1], self.tokens[-1]
        data, start = pieces.data.tobytes(), pieces.start.tolist()
        own = np.arange(self.live.size, dtype=np.int32)
        spaced = np.flatnonzero(self.live & (pieces.lengths > 1) & (pieces.first == ord(" ")))
        for token in spaced.tolist():
            own[token] = known.get(data[start[token] + 1 : start[token + 1]], (token,))[0]
        return own

    @functools.cached_property
    def word(self) -> np.ndarray:
        """bool[V]: tokens that begin with a letter or a digit of ASCII, or with other letters, a space in front or not."""
        pieces = self.contexts[-1]
        spaced = (pieces.lengths > 1) & (pieces.first == ord(" "))
        letter = np.where(spaced, pieces.data[np.minimum(pieces.start[:-1] + 1, pieces.data.size - 1)], pieces.first)
        words = np.isin(np.arange(256), [byte for byte in range(256) if byte > 127 or chr(byte).isalnum()])
        return self.live & (pieces.lengths > 0) & words[letter]

    @functools.cached_property
    def longest(self) -> tuple[int, ...]:
        """Per context, the bytes of its longest token."""
        return tuple(int(each.lengths.max()) for each in self.contexts)

    def spells(self, data: bytes) -> bool:
        """Whether some sequence of tokens has these bytes."""
        tables, longest = self._by_letters, max(self.longest)
        seen = {(0, 0)}
        for at, context in (waiting := [(0, 0)]):
            if at == len(data):
                return True
            for end in range(at, min(at + longest, len(data)) + 1):
                for then in tables[context].get(data[at:end], ()):
                    if (end, then) not in seen:
                        seen.add((end, then))
                        waiting.append((end, then))
        return False


_known: "weakref.WeakKeyDictionary[Any, dict[tuple, Spelling]]" = weakref.WeakKeyDictionary()


def spelling_of(lm: Any) -> Spelling:
    """The spelling of a model's tokenizer, as wide as its logits; made once.

    Dead are the mask, control tokens that do not end a text, and ids that the tokenizer does not have.

    Raises InputError where there is no tokenizer, no token that ends a text, or a tokenizer whose texts are not the sum
    of what its tokens add.
    """
    if argument.model(lm).tokenizer is None:
        raise InputError(
            "a grammar needs the letters of the tokens, and this model has no tokenizer: load one that has"
        )
    tokens, size = lm.config.tokens, lm.config.vocab_size
    ends = tuple(end for end in tokens.eos if 0 <= end < size)
    if not ends:
        raise InputError("a grammar needs a token that ends a text, and this model's files name none: add eos_token_id")
    made = _known.setdefault(lm.tokenizer, {})
    key = (size, ends, tokens.mask)
    if key not in made:
        made[key] = _spelling(lm.tokenizer, size, ends, tokens.mask)
    return made[key]


def _spelling(tokenizer: Any, size: int, ends: tuple[int, ...], mask: int | None) -> Spelling:
    dead = {*tokenizer.control, *ends, mask}
    letters = [""] * size
    for word, index in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        if index < size and index not in dead:
            letters[index] = word
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        if index < size and index not in dead:
            letters[index] = added.content
    live = np.array([word != "" for word in letters])
    if tokenizer.join_words:
        tables, leads = _joined(letters)
    else:
        tables = _decoded(letters, _parts(tokenizer.backend.decoder))
        leads = np.full(size, len(tables) - 1, np.int64)
    contexts = tuple(map(Pieces.of, tables))
    live &= np.any([each.lengths > 0 for each in contexts], axis=0)
    spelling = Spelling(contexts, live, leads, ends)
    _check(tokenizer, tables, leads, np.flatnonzero(live))
    return spelling


def _joined(letters: Sequence[str]) -> tuple[list[list[bytes]], np.ndarray]:
    """Words with the spaces that `jaxdlm.text.join` puts between them."""
    tables = [[(word if glued(before, word) else " " + word).encode() for word in letters] for before in BEFORE]
    leads = np.array([0 if word.isspace() else 1 if word.isdigit() else 2 for word in letters])
    return [[word if text else b"" for word, text in zip(table, letters)] for table in tables], leads


def _parts(decoder: Any) -> list[Mapping[str, Any]]:
    """The decoder's parts, those inside sequences in their order."""
    waiting, parts = [json.loads(decoder.__getstate__())] if decoder is not None else [], []
    while waiting:
        part = waiting.pop(0)
        if part["type"] == "Sequence":
            waiting = [*part["decoders"], *waiting]
        else:
            parts.append(part)
    return parts


def _decoded(letters: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> list[list[bytes]]:
    """The bytes of each token, a list per context: one where the first token is as any other, else two."""
    if not parts:  # tokens are joined by spaces
        return [[_encoded(word) for word in letters], [_encoded(" " + word) if word else b"" for word in letters]]
    words, fused, strips, starts = list(letters), False, 0, None
    for part in parts:
        kind = part["type"]
        if kind == "ByteLevel" and len(parts) == 1:
            return [[_byte_level(word) for word in words]]
        if kind == "Replace" and "String" in part["pattern"] and not fused:
            words = [word.replace(part["pattern"]["String"], part["content"]) for word in words]
        elif kind == "Metaspace" and not fused and starts is None:
            mark, drops = part["replacement"], part["prepend_scheme"] != "never"
            starts = [word.replace(mark, "") for word in words] if drops else None
            words = [word.replace(mark, " ") for word in words]
        elif kind == "Strip" and fused and part["content"] == " " and part["start"] in (0, 1) and not part["stop"]:
            strips = max(strips, part["start"])
        elif kind == "Fuse":
            fused = True
        elif kind != "ByteFallback" or fused or starts is not None:
            raise InputError(
                f"a grammar needs what each token adds to the text, and the decoder {kind} of this tokenizer (in "
                f"{' '.join(each['type'] for each in parts)}) hides it: byte-level and SentencePiece tokenizers work"
            )
    falls_back = any(part["type"] == "ByteFallback" for part in parts)
    later = [_encoded(word, falls_back) for word in words]
    first = later if starts is None else [_encoded(word, falls_back) for word in starts]
    if strips:
        first = [word.removeprefix(b" ") for word in first]
    return [later] if first == later else [first, later]


def _encoded(word: str, falls_back: bool = False) -> bytes:
    return bytes([int(word[3:5], 16)]) if falls_back and BYTE.fullmatch(word) else word.encode("utf-8", "surrogatepass")


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for those from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _byte_level(word: str) -> bytes:
    """The bytes that the letters stand for; a word with any other letter (an added token) stands for itself."""
    bytes_of = _alphabet()
    try:
        return bytes(map(bytes_of.__getitem__, word))
    except KeyError:
        return word.encode("utf-8", "surrogatepass")


def _check(tokenizer: Any, tables: Sequence[Sequence[bytes]], leads: np.ndarray, live: np.ndarray) -> None:
    """Raises InputError where the tokenizer decodes some tokens, alone and behind another, otherwise than stated here."""
    for token in live[:: max(1, live.size // CHECKED)].tolist():
        before = int(live[token % live.size])
        for ids, data in (
            ([token], tables[0][token]),
            ([before, token], tables[0][before] + tables[leads[before]][token]),
        ):
            if tokenizer.decode(ids) != data.decode("utf-8", "replace") and is_text(data):
                raise InputError(
                    f"a grammar needs what each token adds to the text, and this tokenizer decodes {ids} as "
                    f"{tokenizer.decode(ids)!r:.60}, not as {data.decode()!r:.60}: such a decoder is not supported"
                )
