"""Which language each answer shall belong to: what a caller asks for, as grammars."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.grammar.schemas import DEEPEST

FORMS = ("grammar", "choices", "regex", "json_schema", "json", "lark")
NESTING = ("json_schema", "json", "json_object", "lark")  # forms whose texts nest
Depth = int | None | Literal["usual"]  # None: no bound; "usual": that of the form's function in `jaxdlm.grammar`


@dataclasses.dataclass(frozen=True)
class Nested:
    """The value of one of `NESTING`, and how deep its texts may nest."""

    value: Any
    depth: int | None


def nested(asked: tuple[str, Any], depth: Depth) -> tuple[str, Any]:
    """What is asked for, to a depth where it nests and states none of its own."""
    form, value = asked
    if depth == "usual" or form not in NESTING or isinstance(value, Nested):
        return asked
    return form, Nested(value, depth)


def unnested(asked: tuple[str, Any]) -> tuple[str, Any]:
    """What is asked for, without a depth."""
    form, value = asked
    return form, value.value if isinstance(value, Nested) else value


def grammars_of(lm: Any, rows: int, max_new: Sequence[int], stops: Any, **asked: Any) -> list[Any] | None:
    """The grammar of each row, None for rows that are free, or None where all are. asked: by the names of `FORMS`, one
    value for all rows or a list with one for each, None where a row is free. Raises InputError."""
    stated = {name: value for name, value in asked.items() if value is not None}
    if not stated:
        return None
    if len(stated) > 1:
        raise InputError(f"{' and '.join(stated)} are given: a row's answer belongs to one language, give one of them")
    (name, value), made = next(iter(stated.items())), {}
    values = _per_row(name, value, rows)
    if all(each is None for each in values):
        return None
    grammars = []
    for row, each in enumerate(values):
        key = id(each)
        try:
            if key not in made:
                made[key] = None if each is None else grammar_of(lm, name, each)
            grammars.append(made[key] if made[key] is None else fitting(lm, made[key], name, max_new[row], stops))
        except InputError as error:
            own = key in made or any(other is not each for other in values)  # else the value is wrong for every row
            raise InputError(f"prompt {row}: {error}" if own else str(error)) from None
    return grammars


def on_skeletons(grammar: Any, canvas: Any, max_new: int, rows: int) -> tuple[Any, Any, int]:
    """(grammars, canvases, columns) where some rows fill in a skeleton (`jaxdlm.grammar.skeleton`), else what was given: then
    max_new is the columns of the longest. Raises InputError."""
    from jaxdlm.grammar import Skeleton

    values = _per_row("grammar", grammar, rows)
    made = [each for each in values if isinstance(each, Skeleton)]
    if not made:
        return grammar, canvas, max_new
    argument.unused("beside a skeleton, which is one", canvas=(canvas, None))
    if len(made) == rows:
        argument.unused("with a skeleton, whose columns it is", max_new=(max_new, 128))
        max_new = max(len(each.canvas) for each in made)
    elif (most := max(len(each.canvas) for each in made)) > max_new:
        raise InputError(f"a skeleton of grammar has {most} columns and max_new is {max_new}: raise it")
    grammars = [each.grammar if isinstance(each, Skeleton) else each for each in values]
    return grammars, [each.canvas if isinstance(each, Skeleton) else [] for each in values], max_new


def fitting(lm: Any, grammar: Any, name: str, max_new: int, stops: Any) -> Any:
    """The grammar, if its shortest text fits and no stop (`jaxdlm.stops.Stops`) cuts a text. Raises InputError."""
    if grammar.min_tokens > max_new:
        raise InputError(f"{name} needs at least {grammar.min_tokens} tokens and max_new is {max_new}: raise it")
    inside = _inside(lm, grammar, stops)
    if inside:
        raise InputError(
            f"stop={argument.shown(inside[0])} may stand inside an answer that {name} allows, and a cut answer need not "
            f"belong to it: leave that stop out, and say in {name} where answers end"
        )
    return grammar


def _inside(lm: Any, grammar: Any, stops: Any) -> list[Any]:
    """The stops that a text of the grammar may hold. A string is in none if no token of the grammar has one of its bytes."""
    from jaxdlm.grammar.spelling import spelling_of

    live = np.array(grammar.live)
    live[[end for end in lm.config.tokens.eos if end < live.size]] = False
    inside: list[Any] = sorted(each for each in stops.ids if live[each])
    if stops.strings:
        letters = set().union(*(part.bytes_of(live) for part in spelling_of(lm).contexts))
        inside += [each for each in stops.strings if letters.issuperset(each.encode("utf-8", "surrogatepass"))]
    return inside


def grammar_of(lm: Any, name: str, value: Any) -> Any:
    """The grammar that one of the `FORMS` stands for."""
    from jaxdlm import grammar

    deep: dict[str, Any] = {}
    if isinstance(value, Nested):
        if name == "json" and value.value is not True:
            raise InputError(f"json={value.value!r:.60} is a depth of its own: leave depth out, or give json=true")
        deep, value = {"depth": value.depth}, value.value
    if lm.tokenizer is None and name != "grammar":
        raise InputError(f"{name} is about text and {lm.name} has no tokenizer: {lm.advice or 'load one'}")
    if name == "grammar":
        if isinstance(value, grammar.Skeleton):
            raise InputError(
                f"grammar={value!r:.60} has a canvas of its own: a diffusion model fills it in, without infill=True"
            )
        if not isinstance(value, grammar.Grammar | grammar.Checked):
            raise InputError(f"grammar={value!r:.60} is no grammar: make one, as in jd.grammar.regex('[0-9]+', lm)")
        if value.live.size != lm.config.vocab_size:
            raise InputError(
                f"the grammar was made for {value.live.size} token ids and {lm.name} has {lm.config.vocab_size}: "
                f"make it for this model"
            )
        return value
    if name == "json":
        return grammar.json(
            lm, **deep if deep or value is True else {"depth": argument.whole(0, DEEPEST)(value, "json")}
        )
    if name == "json_object":
        return grammar.json(lm, objects=True, **deep)
    return getattr(grammar, name)(argument.text(value, name) if name == "regex" else value, lm, **deep)


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


OUTPUTS = {"json": "json_schema", "regex": "regex", "choice": "choices"}  # of `structured_outputs`: our names for them
NOT_SERVED = (
    "structural_tag",
    "whitespace_pattern",
    "disable_any_whitespace",
    "disable_additional_properties",
    "grammar",
)

NOT_OURS = {  # what else a row may call a language, which would be free without a word
    "guided_grammar": "regex, choices, json_schema, json or lark", "guided_regex": "regex", "guided_choice": "choices",
    "guided_json": "json_schema",
}  # fmt: skip


def asked_by(fields: Mapping[str, Any], where: str) -> tuple[str, Any] | None:
    """(form, value) of the language that a row of a batch asks for, in our names, as `structured_outputs` (vLLM) or as
    `response_format` (OpenAI); None for none. Raises InputError for two of them, and for what cannot be honoured."""
    strange = next((name for name in NOT_OURS if fields.get(name) is not None), None)
    if strange is not None:
        raise InputError(f"{where}: {strange} is not read here: use {NOT_OURS[strange]}")
    stated = [(name, fields[name]) for name in FORMS if name != "grammar" and fields.get(name) is not None]
    if (own := fields.get("grammar")) is not None:
        stated.append(_own(own, where))
    if (outputs := fields.get("structured_outputs")) is not None:
        stated += _structured_outputs(outputs, where)
    if (response := fields.get("response_format")) is not None:
        stated += _response_format(response, where)
    if len(stated) > 1:
        names = " and ".join(name for name, _ in stated)
        raise InputError(f"{where} asks for {names}: a row's answer belongs to one language, keep one")
    return stated[0] if stated else None


def _own(own: Any, where: str) -> tuple[str, Any]:
    """What the field `grammar` of a row asks for."""
    form = next((name for name in FORMS[1:] if name in own), None) if isinstance(own, Mapping) else None
    if form is None or own.keys() - {form, "depth"}:
        raise InputError(
            f'{where}: grammar must be an object with one of {", ".join(FORMS[1:])}, as {{"regex": "[0-9]+"}}, and may have a '
            f"depth beside what nests"
        )
    if "depth" not in own:
        return form, own[form]
    if form not in NESTING:
        raise InputError(f"{where}: grammar.depth means nothing beside {form}, whose texts do not nest: leave it out")
    return form, Nested(own[form], argument.whole(0, none=True)(own["depth"], f"{where}: grammar.depth"))


def _structured_outputs(outputs: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(outputs, Mapping):
        raise InputError(f'{where}: structured_outputs must be an object such as {{"regex": "[0-9]+"}}')
    for name, value in outputs.items():
        if name in NOT_SERVED and value not in (None, False):
            raise InputError(f"{where}: structured_outputs.{name} is not supported: use json, regex or choice")
        if name not in (*OUTPUTS, "json_object", *NOT_SERVED):
            raise InputError(f"{where}: structured_outputs has no field {name!r:.60}: use json, regex or choice")
    stated = [(OUTPUTS[name], outputs[name]) for name in OUTPUTS if outputs.get(name) is not None]
    free = outputs.get("json_object")
    wanted = free is not None and argument.flag(free, f"{where}: structured_outputs.json_object")
    return stated + ([("json_object", True)] if wanted else [])


def _response_format(response: Any, where: str) -> list[tuple[str, Any]]:
    kind = response.get("type") if isinstance(response, Mapping) else None
    if kind == "text":
        return []
    if kind == "json_object":
        return [("json_object", True)]
    schema = response.get("json_schema") if kind == "json_schema" else None
    if isinstance(schema, Mapping) and schema.get("schema") is not None:
        return [("json_schema", schema["schema"])]
    raise InputError(f"{where}: response_format is not supported: its type is text, json_object or json_schema")
