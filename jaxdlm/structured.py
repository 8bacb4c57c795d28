"""Which language each answer shall belong to: what a caller asks for, as grammars."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.errors import InputError

FORMS = ("grammar", "choices", "regex", "json_schema", "json")


def grammars_of(lm: Any, rows: int, max_new: Sequence[int], **asked: Any) -> list[Any] | None:
    """The grammar of each row, None for rows that are free, or None where all are. asked: by the names of `FORMS`, one
    value for all rows or a list with one for each, None where a row is free. Raises InputError."""
    stated = {name: value for name, value in asked.items() if value is not None}
    if not stated:
        return None
    if len(stated) > 1:
        raise InputError(f"{' and '.join(stated)} are given: a row's answer belongs to one language, give one of them")
    (name, value), made = next(iter(stated.items())), {}
    values = _per_row(name, value, rows)
    grammars = []
    for row, each in enumerate(values):
        key = id(each)
        if key not in made:
            made[key] = None if each is None else grammar_of(lm, name, each)
        grammar = made[key]
        if grammar is not None and grammar.min_tokens > max_new[row]:
            raise InputError(
                f"prompt {row}: {name} needs at least {grammar.min_tokens} tokens and max_new is {max_new[row]}: raise it"
            )
        grammars.append(grammar)
    return None if all(each is None for each in grammars) else grammars


def grammar_of(lm: Any, name: str, value: Any) -> Any:
    """The grammar that one of the `FORMS` stands for."""
    from jaxdlm import grammar

    if lm.tokenizer is None and name != "grammar":
        raise InputError(f"{name} is about text and {lm.name} has no tokenizer: {lm.advice or 'load one'}")
    if name == "grammar":
        if not isinstance(value, grammar.Grammar):
            raise InputError(f"grammar={value!r:.60} is no grammar: make one, as in jd.grammar.regex('[0-9]+', lm)")
        if len(value.classes) != lm.config.vocab_size:
            raise InputError(
                f"the grammar was made for {len(value.classes)} token ids and {lm.name} has {lm.config.vocab_size}: "
                f"make it for this model"
            )
        return value
    if name == "json":
        return grammar.json(lm) if value is True else grammar.json(lm, value)
    return getattr(grammar, name)(value, lm)


def _per_row(name: str, value: Any, rows: int) -> list[Any]:
    """One value for each row."""
    many = isinstance(value, list | tuple)
    if name == "choices" and many:
        many = any(isinstance(each, list | tuple) or each is None for each in value)
        if not many:
            value = list(value)
    if not many:
        return [value] * rows
    if len(value) != rows:
        raise InputError(f"{name} has {len(value)} entries for {rows} prompts: give one for all, or one per prompt")
    return list(value)


def asked_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a mapping that state a language."""
    return {name: fields[name] for name in FORMS if fields.get(name) is not None}
