"""What two models must agree on to speak of the same tokens."""

import zlib
from typing import Any


def vocabulary_hash(lm: Any) -> int:
    """A hash of the tokenizer's words with their ids; 0 without a tokenizer."""
    if lm.tokenizer is None:
        return 0
    known = sorted(lm.tokenizer.words.items())
    return zlib.crc32(repr(known).encode()) or 1


def differ(one: int, size: int, other: int, other_size: int) -> bool:
    """Whether two vocabularies, by hash and number of ids, are not the same; without both hashes the numbers decide."""
    return one != other if one and other else size != other_size
