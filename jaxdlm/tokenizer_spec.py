"""The contents of a tokenizer's files, as data: special tokens, our own settings, control tokens renamed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdlm.argument import COLUMNS, Kind, listed, one_of, record, text, whole
from jaxdlm.errors import InputError, did_you_mean

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
OWN: dict[str, Kind] = {  # settings of this library
    "jaxdlm_prompt_lengths": listed(whole(1, COLUMNS)), "jaxdlm_join": one_of("words"), "jaxdlm_examples": listed(text),
}  # fmt: skip
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def named_tokens(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[dict[str, Any], set[str], set[str]]:
    """(special tokens by name as templates know them, all special literals, all added ones).

    spec: tokenizer.json; settings: tokenizer_config.json. A token is special where either marks it so, or the second
    names it.
    """
    names: dict[str, Any] = {name: _content(settings[name]) for name in NAMED if settings.get(name) is not None}
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or ()
    extra = [_content(token) for token in (more.values() if isinstance(more, Mapping) else more)]
    listed = [*spec.get("added_tokens", ()), *(settings.get("added_tokens_decoder") or {}).values()]
    special = {entry["content"] for entry in listed if entry.get("special")} | {*names.values(), *extra}
    added = {entry["content"] for entry in listed}
    return names | {"additional_special_tokens": extra}, special - {""}, added - {""}


def _content(token: Any) -> str:
    """A special token is written as a string or as {"content": ...}."""
    return token["content"] if isinstance(token, Mapping) else str(token)


def is_word(literal: str) -> bool:
    """Whether a literal is a single letter or white space: no text could do without it, so it is never renamed."""
    return literal.isspace() or (len(literal) == 1 and literal.isprintable())


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of tokenizer_config.json that are this library's own; InputError for one that means nothing."""
    own = record(settings, "tokenizer_config.json", OWN, dot=": ")
    for key in settings:
        if key.startswith("jaxdlm_") and key not in OWN:
            known = f"one of {', '.join(OWN)}{did_you_mean(key, OWN)}"
            raise InputError(f"tokenizer_config.json: {key[:60]} is no setting: must be {known}")
    lengths, join, examples = (own.get(key) for key in OWN)
    return {"prompt_lengths": tuple(lengths or ()), "join_words": join == "words", "examples": tuple(examples or ())}


def stated_ids(spec: Mapping[str, Any]) -> Callable[[str], int | None]:
    """A function from a token to its id by tokenizer.json: the vocabulary's, else that of the added token, else None."""
    vocab = spec["model"].get("vocab")
    listed = {entry["content"]: entry["id"] for entry in spec.get("added_tokens", ())}
    if not isinstance(vocab, Mapping):
        vocab = {word: index for index, (word, _) in enumerate(vocab or ())}
    return lambda literal: vocab.get(literal, listed.get(literal))


def aliased(spec: Mapping[str, Any], aliases: Mapping[str, str], named: Iterable[str]) -> dict[str, Any]:
    """tokenizer.json with every control token under its alias, in the added tokens and in the model's vocabulary.

    named: special tokens by whatever file; those of the vocabulary that tokenizer.json does not list are added tokens,
    too.
    """
    model = dict(spec["model"])
    vocab = model.get("vocab")
    if isinstance(vocab, Mapping):
        model["vocab"] = {**vocab, **{alias: vocab[word] for word, alias in aliases.items() if word in vocab}}
        for word in vocab.keys() & aliases.keys():
            del model["vocab"][word]
    elif vocab:
        model["vocab"] = [[aliases.get(word, word), score] for word, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):  # a merge that spells a control token would name a word that is gone
        model["merges"] = [
            (a, b) for a, b in pairs(model["merges"]) if a not in aliases and b not in aliases and a + b not in aliases
        ]
    added = []
    for entry in spec.get("added_tokens", ()):
        if entry["content"] in aliases:
            # matched before normalisation, which could not recognise the alias
            entry = {**entry, "content": aliases[entry["content"]], "normalized": False, "special": True}
        added.append(entry)
    listed = {entry["content"] for entry in added}
    if isinstance(vocab, Mapping):
        unlisted = {aliases.get(literal, literal): vocab[literal] for literal in sorted(named) if literal in vocab}
        added += [{"id": index, "content": word, **PLAIN} for word, index in unlisted.items() if word not in listed]
    return {**spec, "model": model, "added_tokens": added, "padding": None, "truncation": None}


def pairs(merges: Any) -> list[tuple[str, str]]:
    """Merges of a byte-pair encoding as pairs, which files write as "a b" each, or as ["a", "b"] each."""
    kinds = set(map(type, merges))
    if not isinstance(merges, list) or not (kinds <= {str} or kinds <= {list, tuple}):
        raise ValueError("model.merges must be a list of strings or of pairs")
    if kinds == {str}:
        return [tuple(merge.split(" ")) for merge in merges if not merge.startswith("#version")]
    return merges if kinds == {tuple} else list(map(tuple, merges))


def glued(before: str, word: str) -> bool:
    """Whether no space stands between two words: between digits, around a newline or after an indent."""
    return before.isspace() or word == "\n" or (before.isdigit() and word.isdigit())
