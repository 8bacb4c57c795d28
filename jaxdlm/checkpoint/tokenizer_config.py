"""The files of a tokenizer besides tokenizer.json: their schemas, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdlm.argument import Kind, flag, items, record, refuse, table, text
from jaxdlm.checkpoint.files import read_text
from jaxdlm.checkpoint.strict_json import read_object
from jaxdlm.models.config import WORDS
from jaxdlm.tokenizer_spec import NAMED, OWN

# Pre-tokenisation of the byte-level vocabularies that ship vocab.json and merges.txt alone (Qwen2 and its descendants)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def token(value: Any, name: str) -> Any:
    """A token: a string, or an object that has it as its content."""
    return text(value, name) if isinstance(value, str) else record(value, name, {"content": text}, required=True)


def tokens(value: Any, name: str) -> Any:
    """A list of tokens, or an object of them."""
    if isinstance(value, Mapping):
        return {key: token(item, f"{name}.{key}") for key, item in value.items()}
    return list(items(value, name, token))


FLAGS: dict[str, Kind] = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), flag)


def added(value: Any, name: str) -> dict[str, Any]:
    """Id, in digits -> added token."""
    for key in table(value, name):
        if not (key.isascii() and key.isdigit() and len(key) < 8 and int(key) < WORDS):
            refuse(key, f"{name}: a key", f"an id from 0 to {WORDS - 1}")
    tokens = {key: record(item, f"{name}.{key}", {"content": text}, required=True) for key, item in value.items()}
    return {key: record(item, f"{name}.{key}", FLAGS) for key, item in tokens.items()}


def template(value: Any, name: str) -> Any:
    """A template, or a list of named ones."""
    if isinstance(value, str):
        return value
    both: dict[str, Kind] = {"name": text, "template": text}
    return list(items(value, name, lambda item, where: record(item, where, both, required=True)))


NAMES: dict[str, Kind] = dict.fromkeys(NAMED, token) | {"additional_special_tokens": tokens}  # special_tokens_map.json
SETTINGS: dict[str, Kind] = NAMES | OWN | {
    "extra_special_tokens": tokens, "added_tokens_decoder": added, "chat_template": template,
}  # fmt: skip


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none. Raises InputError that names a field of another kind.

    Special tokens by name are those of special_tokens_map.json, too, in folders of the days when they had that file.
    """
    settings = _read(folder, "tokenizer_config.json", SETTINGS)
    if "added_tokens_decoder" not in settings:
        settings = _read(folder, "special_tokens_map.json", NAMES) | settings
    return settings


def read_template(folder: Path) -> Any:
    """The template of chat_template.json, or the named ones; None where there is none."""
    return _read(folder, "chat_template.json", {"chat_template": template}).get("chat_template")


def _read(folder: Path, name: str, schema: dict[str, Kind]) -> dict[str, Any]:
    path = folder / name
    return record(read_object(path, folder), name, schema, dot=": ") if path.exists() else {}


def template_of(folder: Path, settings: Mapping[str, Any], most: int) -> str | None:
    """chat_template.jinja, else chat_template.json, else the entry of tokenizer_config.json (the default one); of at most so
    many bytes where it is a file."""
    if (folder / "chat_template.jinja").exists():
        return read_text(folder / "chat_template.jinja", folder, most=most)
    template = read_template(folder) or settings.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def byte_level_spec(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json's contents for a folder with vocab.json and merges.txt alone, as Qwen2 and Dream ship them."""
    lines = read_text(folder / "merges.txt", folder).splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **entry}
        | {"id": int(index)}
        for index, entry in settings.get("added_tokens_decoder", {}).items()
    ]
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    model = {"type": "BPE", "vocab": read_object(folder / "vocab.json", folder), "merges": merges}
    unset = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    return {
        "version": "1.0",
        "added_tokens": sorted(added, key=lambda entry: entry["id"]),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model | dict.fromkeys(unset) | {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
    }
