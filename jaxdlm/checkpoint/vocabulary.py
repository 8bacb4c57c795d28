"""What a tokenizer's files say about ids, read as data: no tokenizer is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdlm.checkpoint import strict_json
from jaxdlm.checkpoint.errors import HeaderInvalid


@dataclass(frozen=True)
class Vocabulary:
    """size: largest id + 1, None without a tokenizer; added: content -> id of the added tokens."""

    size: int | None = None
    added: Mapping[str, int] = field(default_factory=dict)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Ids from tokenizer.json, and added tokens from tokenizer_config.json; files that are absent add nothing."""
    ids: list[int] = []
    added: dict[str, int] = {}
    config = folder / "tokenizer_config.json"
    if config.is_file():
        decoder = strict_json.read_object(config, folder).get("added_tokens_decoder") or {}
        for number, token in decoder.items() if isinstance(decoder, dict) else ():
            if str(number).isdigit() and isinstance(token, dict):
                added[str(token.get("content"))] = int(number)
    path = folder / "tokenizer.json"
    if path.is_file():
        table = strict_json.read_object(path, folder)
        ids += _model_ids(table.get("model"), path)
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
        if not all(isinstance(number, int) and number >= 0 for number in ids):
            raise HeaderInvalid("vocab must map tokens to ids", file=path, hint="download the tokenizer again")
        return ids
    return list(range(len(vocab))) if isinstance(vocab, list) else []


def beyond(found: Vocabulary, rows: int) -> list[str]:
    """A note where a tokenizer has ids for which the embedding has no row: prompts that use one are refused."""
    if found.size is None or found.size <= rows:
        return []
    return [f"the tokenizer has ids up to {found.size - 1}, the embedding {rows} rows: prompts with others are refused"]
