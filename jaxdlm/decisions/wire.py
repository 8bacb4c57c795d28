"""Questions as they come over the wire: the list of OpenAI's /v1/decisions, the map of TypeSafe's /v1/systemone."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdlm import argument
from jaxdlm.decisions.questions import KINDS, Choice, Number, Option, Predicate, Question, Score
from jaxdlm.decisions.stages import stages_of
from jaxdlm.errors import InputError, did_you_mean

LISTED = 255  # choices of the list form
NUMBER = ("minimum", "maximum", "step", "decimals")
WAITS = ("depends_on", "ask_if")  # ours, in both forms


class Place(str):
    """The name of a question that has none: its place in the list."""

    def __new__(cls, index: int) -> "Place":
        return super().__new__(cls, str(index))


def read_questions(value: Any, where: str = "questions") -> tuple[Question, ...]:
    """The questions of one row: a list (each an object of OpenAI's form, or one of ours), a map from names to objects of
    TypeSafe's form, or one question. Raises InputError for none, two of one name, or what is not understood."""
    if isinstance(value, KINDS):
        value = [value]
    if isinstance(value, Mapping) and isinstance(value.get("instructions"), str):
        raise InputError(f"{where} is a question and no map of questions: give it a type and put it into a list")
    if isinstance(value, Mapping):
        read = [_of_map(name, question, f"{where}.{argument.shown(name)}") for name, question in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        read = [_of_list(question, index, f"{where}[{index}]") for index, question in enumerate(value)]
    else:
        argument.refuse(value, where, "a list of questions, or an object from names to questions")
    if not read:
        raise InputError(f"{where} is empty: ask at least one question")
    names = [question.name for question in read]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InputError(f"{where}: two questions have the name {argument.shown(twice)}: rename one")
    stages_of(read, where)
    return tuple(read)


def one_set(value: Any) -> bool:
    """Whether this is one set of questions for all rows, and no list with a set for each."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return True
    return all(isinstance(x, KINDS) or (isinstance(x, Mapping) and isinstance(x.get("type"), str)) for x in value)


def _of_list(question: Any, index: int, where: str) -> Question:
    if isinstance(question, KINDS):
        return question
    kinds: dict[str, Callable[..., Question]] = {
        "predicate": _predicate, "choice": _choice, "score": _score, "number": _number,
    }  # fmt: skip
    kind = _kind(question, kinds, where)
    name = question.get("name", Place(index))
    if not isinstance(name, str) or not name:
        argument.refuse(name, f"{where}.name", "a string; leave it out for none")
    return kinds[kind](question, name, where)


def _kind(question: Any, kinds: Mapping[str, Any], where: str) -> str:
    argument.table(question, where)
    kind = question.get("type")
    if kind == "box":
        raise InputError(f"{where}: a box is a place in an image, and this model reads text: leave the question out")
    if not isinstance(kind, str) or kind not in kinds:
        hint = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        argument.refuse(kind, f"{where}.type", f"one of {', '.join(kinds)}{hint}")
    return kind


def _waits(question: Mapping[str, Any]) -> dict[str, Any]:
    return {name: question[name] for name in WAITS if question.get(name) is not None}


def _only(fields: Mapping[str, Any], where: str, *known: str) -> None:
    unknown = [key for key in fields if key not in known]
    if unknown:
        hint = did_you_mean(str(unknown[0]), known)
        raise InputError(f"{where}: unknown field {argument.shown(unknown[0])}{hint}: leave it out")


def _predicate(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", *WAITS)
    return Predicate(name, _asked(question, where), **_waits(question))


def _choice(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", "choices", *WAITS)
    choices = _entries(question, "choices", "value", where)
    if not 2 <= len(choices) <= LISTED:
        raise InputError(f"{where} has {len(choices)} choices: a list takes 2 to {LISTED}")
    for index, choice in enumerate(choices):
        if not isinstance(choice.value, str | bool):
            argument.refuse(choice.value, f"{where}.choices[{index}].value", "a string or a truth value")
    return Choice(name, choices, _asked(question, where), **_waits(question))


def _score(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", "levels", *WAITS)
    levels = _entries(question, "levels", "label", where)
    for index, level in enumerate(levels):
        argument.text(level.value, f"{where}.levels[{index}].label")
    if len(levels) < 2:
        raise InputError(f"{where} has {len(levels)} level: a list takes at least 2")
    return Score(name, levels, _asked(question, where), **_waits(question))


def _number(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", *NUMBER, *WAITS)
    for bound in ("minimum", "maximum"):
        if question.get(bound) is None:
            raise InputError(f"{where} has no {bound}: add it")
    values: dict[str, Any] = {key: question.get(key) for key in NUMBER}
    return Number(name, **values, instructions=question.get("instructions") or "", **_waits(question))


def _entries(question: Mapping[str, Any], field: str, key: str, where: str) -> list[Option]:
    entries = question.get(field)
    if not isinstance(entries, list | tuple):
        argument.refuse(entries, f"{where}.{field}", f'a list of {{"{key}": ..., "description": ...}}')
    made = []
    for index, entry in enumerate(entries):
        place = f"{where}.{field}[{index}]"
        argument.table(entry, place)
        _only(entry, place, key, "description")
        if entry.get(key) is None:
            raise InputError(f"{place} has no {key}: add it")
        description = entry.get("description")
        made.append(Option(entry[key], None if description is None else argument.text(description, place)))
    return made


def _asked(question: Mapping[str, Any], where: str) -> str:
    """Instructions of the list form: text, or parts of text and JSON."""
    instructions = question.get("instructions")
    if isinstance(instructions, str) and instructions.strip():
        return instructions
    if isinstance(instructions, list | tuple) and instructions:
        return parts(instructions, f"{where}.instructions")
    raise InputError(f"{where} has no instructions: say what is asked")


def parts(listed: Sequence[Any], where: str) -> str:
    """Parts of text and JSON as one text. Raises InputError for images and anything else."""
    made = []
    for index, part in enumerate(listed):
        place = f"{where}[{index}]"
        kind = argument.table(part, place).get("type")
        if kind in ("input_image", "image_url", "image"):
            raise InputError(f"{place} is an image, and this model reads text: leave it out")
        if kind in ("input_text", "text", "output_text"):
            made.append(argument.text(part.get("text"), f"{place}.text"))
        elif kind == "input_json":
            made.append(json.dumps(part.get("data"), ensure_ascii=False))
        else:
            argument.refuse(kind, f"{place}.type", "input_text or input_json")
    return "\n".join(made)


def _of_map(name: Any, question: Any, where: str) -> Question:
    if not isinstance(name, str) or not name:
        argument.refuse(name, f"{where}: name", "a string that is not empty")
    if isinstance(question, KINDS):
        if question.name != name:
            raise InputError(f"{where} holds the question {argument.shown(question.name)}: use one name")
        return question
    kinds: dict[str, Callable[..., Question]] = {
        "noul": _noul, "choice": _named_choice, "score": _rubric, "number": _number,
    }  # fmt: skip
    kind = _kind(question, kinds, where)
    if "name" in question:
        raise InputError(f"{where}: unknown field 'name': the key is the name")
    return kinds[kind](question, name, where)


def _noul(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", "criteria", *WAITS)
    criteria = {} if question.get("criteria") is None else argument.table(question["criteria"], f"{where}.criteria")
    _only(criteria, f"{where}.criteria", "true", "false")
    asked = question.get("instructions")
    if asked is None and not any(criteria.get(side) is not None for side in ("true", "false")):
        raise InputError(f"{where} has neither instructions nor criteria: say what is asked")
    return Predicate(name, asked or "", criteria.get("true"), criteria.get("false"), **_waits(question))


def _named_choice(question: Mapping[str, Any], name: str, where: str) -> Question:
    _only(question, where, "type", "name", "instructions", "criteria", *WAITS)
    criteria = argument.table(question.get("criteria"), f"{where}.criteria")
    return Choice(name, dict(criteria), question.get("instructions") or "", **_waits(question))


def _rubric(question: Mapping[str, Any], name: str, where: str) -> Question:
    """Levels without names: they are known by their numbers, and the criteria are descriptions."""
    _only(question, where, "type", "name", "instructions", "criteria", *WAITS)
    criteria = question.get("criteria")
    if not isinstance(criteria, list | tuple):
        argument.refuse(criteria, f"{where}.criteria", "a list, the least level first")
    levels = [Option(level, each) for level, each in enumerate(criteria)]
    return Score(name, levels, question.get("instructions") or "", **_waits(question))
