"""What tokenizer.json could do to the process that reads it, checked before the tokenizers library sees it.

The library is compiled: a part that makes a million letters of one takes all memory and aborts, a damaged table panics past
every `except Exception`. `check` refuses such parts by name; `Backend` makes one clear error of whatever is left.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.tokenizer_spec import pairs

Part = Mapping[str, Any]
NESTED = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors",
          "decoder": "decoders"}  # fmt: skip
PARTS = 64  # of one kind; released tokenizers have up to seven
# How many bytes may come of one. UTF-8 by Unicode's annex 15, bytes that become letters, spaces around characters; tables
# by their longest entry, which is 33 in those of sentencepiece. XLNet's normaliser multiplies to 1,452, XLM-R's to 132.
GROWS = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "Lowercase": 2, "ByteLevel": 2, "BertNormalizer": 6}
MOST_GROWTH, MOST_REPLACED, MOST_ADDED = 4096, 64, 256
REPEATS = re.compile(r"\{(?:\d*,)?(\d+)\}")  # of a regular expression, their largest number
BPE_SETTINGS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                "ignore_merges")  # fmt: skip
ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
MOST_REPEATS = 10_000  # of all of them together, were they nested


def check(spec: Part) -> None:
    """Raises InputError, one line, for a part of tokenizer.json that could take the process with it."""
    for section, key in NESTED.items():
        parts = list(_flat(spec.get(section), section, key))
        for where, part in parts:
            CHECKS.get((section, part.get("type")), _nothing)(part, where)
            _check_pattern(part.get("pattern"), where)
        replaced = math.prod(_replaced(part, where) for where, part in parts if part.get("type") == "Replace")
        grown = math.prod(GROWS.get(str(part.get("type")), 1) for _, part in parts) if section == "normalizer" else 1
        tables = math.prod(_longest(part, where) for where, part in parts if part.get("type") == "Precompiled")
        if replaced > MOST_REPLACED or replaced * grown * tables > MOST_GROWTH:
            raise _wrong(section, "makes up to", replaced * grown * tables, "letters of one")
    added = spec.get("added_tokens") or []
    if not (isinstance(added, list) and all(isinstance(token, Mapping) for token in added)):
        raise _wrong("added_tokens", "must be a list of objects")
    for number, token in enumerate(added):
        if not isinstance(token.get("content"), str) or type(token.get("id")) is not int or token["id"] < 0:
            raise _wrong(f"added_tokens[{number}]", "must have a content, which is a string, and an id")


def _flat(part: Any, section: str, key: str) -> Iterator[tuple[str, Part]]:
    """(where, part) of a section, its sequences taken apart."""
    waiting, seen = [(section, part)], 0
    while waiting:
        where, part = waiting.pop()
        seen += 1
        if seen > PARTS:
            raise _wrong(section, f"has more than {PARTS} parts")
        if not isinstance(part, Mapping):
            if part is not None:
                raise _wrong(where, "must be an object")
        elif part.get("type") == "Sequence" and isinstance(part.get(key), list):
            waiting += [(f"{where}.{key}[{index}]", each) for index, each in reversed(list(enumerate(part[key])))]
        else:
            yield where, part


def _nothing(part: Part, where: str) -> None:
    pass


def _check_pattern(pattern: Any, where: str) -> None:
    text = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if isinstance(text, str) and math.prod(max(1, int(most[:9])) for most in REPEATS.findall(text)) > MOST_REPEATS:
        raise _wrong(where, "repeats a pattern more than", MOST_REPEATS, "times")


def _replaced(part: Part, where: str) -> int:
    """Bytes that may come of one by a Replace: its pattern's own, or any number where it is a regular expression."""
    pattern, content = part.get("pattern"), part.get("content")
    if not isinstance(pattern, Mapping) or not isinstance(content, str):
        return 1  # the library says so
    size, text = len(content.encode("utf-8", "replace")), pattern.get("String")
    if text == "":
        raise _wrong(where, "replaces nothing by something")
    return max(1, -(-size // len(text.encode("utf-8", "replace")))) if isinstance(text, str) else 1 + size


def _longest(part: Part, where: str) -> int:
    """The longest entry of a Precompiled table, once every step through the table stays inside it.

    The table is 4 bytes of length, units of a double array (darts-clone) and entries that end with a zero byte. A unit
    leads to any place of a block of 256; a leaf holds where its entry begins.
    """
    try:
        data = base64.b64decode(str(part.get("precompiled_charsmap")), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(where, "has a table that is not base64") from None
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 1024 or not 0 < size <= len(data) - 4:
        raise _wrong(where, "has a damaged table")
    units, entries = np.frombuffer(data[4 : 4 + size], "<u4").astype(np.int64), data[4 + size :]
    leaf, has_leaf = units >> 31 == 1, units >> 8 & 1 == 1
    target = np.arange(units.size) ^ (units >> 10 << ((units & 1 << 9) >> 6))
    begins = units[leaf] & 0x7FFFFFFF
    sound = (target < units.size)[~leaf].all() and leaf[target[~leaf & has_leaf]].all() and not leaf[0]
    sound = sound and bool((begins < len(entries)).all()) and is_text(entries)
    if not sound or (np.frombuffer(entries, np.uint8)[begins] & 0xC0 == 0x80).any():
        raise _wrong(where, "has a damaged table")
    return max(map(len, entries.split(b"\0")), default=1) or 1


def is_text(data: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_prepend(part: Part, where: str) -> None:
    if len(str(part.get("prepend", ""))) > MOST_ADDED:
        raise _wrong(where, "adds more than", MOST_ADDED, "letters")


def _check_strip(part: Part, where: str) -> None:
    """From the end of a token the library takes letters that may not be there."""
    if part.get("stop") != 0:
        raise _wrong(where, "strips letters from the end of tokens, which fails where there are none")


def _check_fixed(part: Part, where: str) -> None:
    if part.get("length") == 0:
        raise _wrong(where, "cuts texts into pieces without a letter")


def _check_template(part: Part, where: str) -> None:
    """A text stands in its template once, and everything else is known and short."""
    single, known = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or not isinstance(known, Mapping):
        return
    texts, added = 0, 0
    for piece in single:
        (kind, value), *_ = piece.items() if isinstance(piece, Mapping) and piece else [("", None)]
        name = value.get("id") if isinstance(value, Mapping) else None
        texts += kind == "Sequence"
        if kind == "SpecialToken":
            ids = known[name].get("ids") if isinstance(known.get(name), Mapping) else None
            if not isinstance(ids, list):
                raise _wrong(where, f"adds the token {name!r:.60}, which special_tokens lacks")
            added += len(ids)
    if texts != 1:
        raise _wrong(where, f"holds a text {texts} times instead of once")
    if added > MOST_ADDED:
        raise _wrong(where, "adds more than", MOST_ADDED, "tokens")


CHECKS: dict[tuple[str, Any], Callable[[Part, str], None]] = {
    ("normalizer", "Prepend"): _check_prepend, ("decoder", "Strip"): _check_strip,
    ("pre_tokenizer", "FixedLength"): _check_fixed, ("post_processor", "TemplateProcessing"): _check_template,
}  # fmt: skip


def _wrong(where: str, *problem: Any) -> InputError:
    return InputError(f"tokenizer.json: {where} {' '.join(map(str, problem))}: fetch it again")


def parsing() -> "_One":
    """Makes one InputError of whatever a tokenizer.json raises that is not what it should be."""
    return _One("tokenizer.json does not parse", "fetch it again")


class Backend:
    """`tokenizers.Tokenizer` of what `check` lets through, whose failures are an InputError each.

    It neither pads nor cuts, whatever the file says: one file pads every text to 10^8 ids.
    """

    def __init__(self, library: Any, spec: Part) -> None:
        check(spec)
        with parsing():
            whole = {**spec, "padding": None, "truncation": None}
            bpe = isinstance(spec.get("model"), Mapping) and spec["model"].get("type") == "BPE"
            self._inner = _with_bpe(library, whole) if bpe else library.from_str(json.dumps(whole))

    def encode(self, text: str, **settings: Any) -> Any:
        with _One("the tokenizer fails on this text", "write it otherwise, or fetch tokenizer.json again"):
            return self._inner.encode(text, **settings)

    def decode(self, ids: Any, **settings: Any) -> str:
        with _One("the tokenizer fails on these ids", "fetch tokenizer.json again"):
            return self._inner.decode(ids, **settings)

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not yet built, or being copied
            raise AttributeError(name)
        return getattr(self._inner, name)


def _with_bpe(library: Any, spec: Part) -> Any:
    """`library.from_str` of a spec whose vocabulary and merges are handed over as they are: a third of the time of JSON."""
    from tokenizers import AddedToken
    from tokenizers.models import BPE

    model, added = spec["model"], spec.get("added_tokens") or ()
    settings = {key: model[key] for key in BPE_SETTINGS if model.get(key) is not None}
    inner = library.from_str(json.dumps({**spec, "model": {**model, "vocab": {}, "merges": []}, "added_tokens": []}))
    inner.model = BPE(vocab=model["vocab"], merges=pairs(model["merges"]), **settings)
    inner.add_tokens([AddedToken(**{key: token[key] for key in ADDED}) for token in added])
    return inner


class _One:
    """Makes one InputError of what the library raises: bare Exceptions, and panics, which are none."""

    def __init__(self, problem: str, fix: str) -> None:
        self._problem, self._fix = problem, fix

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if kind is not None and (issubclass(kind, Exception) or kind.__name__ == "PanicException"):
            line = " ".join(str(error).split()) or kind.__name__
            raise InputError(f"{self._problem} ({line[:200]}): {self._fix}") from None
