"""The ids in a tokenizer's files, read as data: no tokenizer is built."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import HeaderInvalid
from jaxdlm.checkpoint.tokenizer_config import read_settings


@dataclass(frozen=True)
class Vocabulary:
    """size: largest id + 1, None without a tokenizer; added: content -> id of the added tokens."""

    size: int | None = None
    added: Mapping[str, int] = field(default_factory=dict)


def read_table(folder: Path) -> Mapping[str, Any]:
    """tokenizer.json as data, empty where there is none; some have 30 MB, so that a loader reads it once for all who ask."""
    path = folder / "tokenizer.json"
    return strict_json.read_object(path, folder) if path.is_file() else {}


def read_vocabulary(folder: Path, table: Mapping[str, Any] | None = None) -> Vocabulary:
    """Ids from tokenizer.json, and added tokens from tokenizer_config.json; files that are absent add nothing.

    table: what `read_table` gave, where it was read already.
    """
    added: dict[str, int] = {}
    for number, token in (read_settings(folder).get("added_tokens_decoder") or {}).items():
        added[token["content"]] = int(number)
    vocabulary = vocabulary_of(read_table(folder) if table is None else table, folder / "tokenizer.json")
    added |= vocabulary.added
    return Vocabulary(
        None if vocabulary.size is None else max(vocabulary.size, 1 + max(added.values(), default=-1)), added
    )


def vocabulary_of(table: Mapping[str, Any], path: Path) -> Vocabulary:
    """The same from what tokenizer.json holds; path: for messages."""
    ids = _model_ids(table.get("model"), path)
    added: dict[str, int] = {}
    for token in table.get("added_tokens") or ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            added[str(token.get("content"))] = token["id"]
    if not ids:
        return Vocabulary(None, added)
    return Vocabulary(1 + max([*ids, *added.values()]), added)


def _model_ids(model: Any, path: Path) -> list[int]:
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        ids = list(vocab.values())
        if not set(map(type, ids)) <= {int} or min(ids, default=0) < 0:
            raise HeaderInvalid("vocab must map tokens to ids", file=path, hint="download the tokenizer again")
        return ids
    return list(range(len(vocab))) if isinstance(vocab, list) else []


SENTENCEPIECE = (
    "tokenizer.model is SentencePiece's, and the text of prompts and answers needs tokenizer.json: write it with `python -c "
    '"import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])" FOLDER` '
    "(pip install transformers sentencepiece)"
)


def without_table(folder: Path) -> str | None:
    """What to do about a folder whose tokenizer is SentencePiece's alone; None for any other."""
    names = ("tokenizer.json", "vocab.json")
    alone = (folder / "tokenizer.model").is_file() and not any((folder / name).is_file() for name in names)
    return SENTENCEPIECE.replace("FOLDER", shlex.quote(str(folder))) if alone else None


def beyond(vocabulary: Vocabulary, rows: int) -> list[str]:
    """A note where a tokenizer has ids for which the embedding has no row: prompts that use one are refused."""
    if vocabulary.size is None or vocabulary.size <= rows:
        return []
    return [
        f"the tokenizer has ids up to {vocabulary.size - 1}, the embedding {rows} rows: prompts with others are refused"
    ]
