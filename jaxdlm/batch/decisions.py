"""Rows that ask questions: one line of the input -> a row that can be read, or its refusal; answers -> one line."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.batch import openai
from jaxdlm.batch.lines import encoded
from jaxdlm.batch.rows import PROMPTS, SHOWN, Raw, Refusal, check_duplicate, identity, parse, randomness_key, short
from jaxdlm.batch.shards import BROKEN, REFUSED, Line
from jaxdlm.batch.source import rows_of
from jaxdlm.command import NONFINITE
from jaxdlm.decisions.output import RowAnswers
from jaxdlm.decisions.questions import place_of
from jaxdlm.decisions.reader import Asked, Reader
from jaxdlm.decisions.wire import parts, read_questions
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.stops import Stops

WINDOW = 256  # rows that are read together
URLS = {"/v1/decisions": "openai", "/v1/systemone": "typesafe"}
STATES = (*PROMPTS, "state", "input")
OWN = (  # settings that a row may have of its own, a seed aside
    "read", "law", "orders", "draws", "joint", "sequential", "order", "steps",
)  # fmt: skip
LABELS = "answers"
HARMLESS = openai.HARMLESS | {"cache_salt", "prompt_cache_options", "prompt_cache_retention"}
BODIES = {
    "openai": ("input", "questions", "joint"),
    "typesafe": ("state", "questions", "joint", "instructions", "diagnostics"),
}


class Row(NamedTuple):
    """A row that can be read. tokens, max_new, stops: what a job of generations asks of its rows."""

    row: int
    line: int
    id: Any
    shape: str  # in which it is answered
    batch: bool  # whether it came as a line of OpenAI's batches
    diagnostics: bool
    reader: Reader
    asked: Asked
    tokens: tuple[int, ...] = ()
    max_new: int = 0
    stops: Stops = Stops((), frozenset())


class WireRefusal(Refusal):
    """A batch line that cannot be read: its error has their shape."""


class Readers:
    """Readers by the settings of rows. settings: of the call, which rows may override."""

    def __init__(self, lm: Any, settings: Mapping[str, Any]) -> None:
        self.lm, self.settings = lm, dict(settings)
        self.plain = Reader(lm, **settings)
        self._made: dict[str, Reader] = {}

    def of(self, own: Mapping[str, Any]) -> Reader:
        """The reader of a row with settings of its own."""
        usual = {"joint": False, "sequential": False} | self.settings
        changed = {name: value for name, value in own.items() if value is not None and value is not usual.get(name)}
        if not changed:
            return self.plain
        key = json.dumps(changed, sort_keys=True)
        if key not in self._made:
            self._made[key] = Reader(self.lm, **(self.settings | changed))
        return self._made[key]


def understand(raw: Raw, readers: Readers, duplicates: Mapping[int, int]) -> Row | Refusal:
    """A row ready to be read, or why not. duplicates: row -> line that had its id first."""
    id_: Any = raw.row
    where, kind = raw.where, Refusal
    try:
        value = parse(raw)
        kind = WireRefusal if openai.is_request(value) else Refusal
        id_ = identity(value, raw)
        check_duplicate(id_, raw, duplicates)
        return _row(value, id_, raw, readers, where)
    except InputError as error:
        message = str(error)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        message = f"the row does not read ({short(error)})"
    message = message if message.startswith(where) else f"{where}: {message}"
    return kind(raw.row, raw.line, id_, " ".join(message.split())[:SHOWN])


def _row(value: Mapping[str, Any], id_: Any, raw: Raw, readers: Readers, where: str) -> Row:
    batch, shape = openai.is_request(value), "jaxdlm"
    if batch:
        shape, value = _body(value, where)
    known = (*BODIES[shape],) if batch else ("id", "questions", LABELS, "seed", *STATES, *OWN)
    unknown = [key for key in value if key not in known and not (batch and key in HARMLESS)]
    if unknown:
        hint = did_you_mean(str(unknown[0]), known)
        raise InputError(f"{where}: unknown field {argument.shown(unknown[0])}{hint}: leave it out")
    stated = [name for name in STATES if value.get(name) is not None]
    if len(stated) != 1:
        raise InputError(f"{where} has {' and '.join(stated) or 'no prompt'}: give exactly one of {', '.join(STATES)}")
    if value.get("questions") is None:
        raise InputError(f"{where} has no questions: ask at least one")
    questions = read_questions(value["questions"], "questions")
    state = _state(value[stated[0]], stated[0], readers.lm)
    if value.get("instructions") is not None:
        state = "\n\n".join([argument.text(value["instructions"], "instructions"), _text(state)])
    reader = readers.of({name: value.get(name) for name in OWN})
    diagnostics = argument.flag(value.get("diagnostics") or False, "diagnostics")
    asked = reader.prepare(state, questions, id_, where, value.get("seed"))
    return Row(raw.row, raw.line, id_, shape, batch, diagnostics, reader, asked)


def labelled(raw: Raw, readers: Readers) -> tuple[Row, Mapping[str, Any]]:
    """A row with the right answers by the names of its questions. Raises InputError for one that has none, and for settings
    of its own."""
    row = understand(raw, readers, {})
    if isinstance(row, Refusal):
        raise InputError(row.message)
    truth = parse(raw).get(LABELS)
    if row.batch or row.reader is not readers.plain or not isinstance(truth, Mapping) or not truth:
        raise InputError(f"line {raw.line} is no labelled row: give a prompt, questions, and answers by their names")
    for name, value in truth.items():
        question = next((each for each in row.asked.questions if each.name == name), None)
        if question is None:
            raise InputError(
                f"line {raw.line}: answers has {argument.shown(name)}, which is no question of the row: rename it"
            )
        place_of(question, value, f"line {raw.line}")
    return row, truth


def _body(value: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """(shape, body) of a batch line. Raises InputError."""
    body = openai.body_of(value, where)
    url = value.get("url", "/v1/systemone" if "state" in body else "/v1/decisions")
    if url not in URLS:
        raise InputError(f"{where}: url {argument.shown(url)} asks no question: one of {', '.join(URLS)}")
    return URLS[url], body


def _state(value: Any, name: str, lm: Any) -> Any:
    """What a row is about: text, a chat, token ids, or JSON, which is shown as text."""
    if name == "tokens":
        return list(argument.items(value, "tokens", argument.whole(0)))
    if name == "prompt":
        return argument.text(value, "prompt")
    if name == "state":
        return _text(value)
    if isinstance(value, str) and name == "input":
        return value
    if not isinstance(value, list | tuple) or not value:
        argument.refuse(value, name, "a list of messages" + " or a string" * (name == "input"))
    chat = [_message(message, f"{name}[{index}]") for index, message in enumerate(value)]
    plain = lm.tokenizer is not None and lm.tokenizer.template is None and all(each["role"] == "user" for each in chat)
    return "\n\n".join(each["content"] for each in chat) if plain else chat


def _message(message: Any, where: str) -> dict[str, Any]:
    kind = argument.table(message, where).get("type", "message")
    if kind != "message":
        raise InputError(f"{where}: type {argument.shown(kind)} is not read here: give messages of text")
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = parts(content, f"{where}.content")
    role = {"developer": "system"}.get(message.get("role"), message.get("role"))
    return {"role": argument.text(role, f"{where}.role"), "content": argument.text(content, f"{where}.content")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Decided(NamedTuple):
    """How a row came out. tokens, forwards: what the progress of a job counts."""

    answers: RowAnswers
    forwards: int
    tokens: tuple[int, ...] = ()

    @property
    def every(self) -> tuple["Decided", ...]:
        """What counts, as of `engine.Result`: the row itself."""
        return (self,)


def decided(rows: Sequence[Row]) -> Iterator[tuple[Row, Decided]]:
    """The answers of rows, those of one reader read together."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(id(row.reader), []).append(row)
    for group in groups.values():
        for row, answers in zip(group, group[0].reader.answer([row.asked for row in group])):
            yield row, Decided(answers, answers.forwards)


def body_of(row: Row, outcome: Decided) -> dict[str, Any]:
    """What was decided, in the shape in which the row asked."""
    body = outcome.answers.to_row(row.shape)
    if row.diagnostics:
        body["diagnostics"] = {
            name: {"label_mass": each.label_mass, "argmax_is_label": each.top_is_label}
            for name, each in outcome.answers.items()
        }
    return body


class Lines:
    """Writes rows. model: its name in bodies."""

    def __init__(self, reader: str) -> None:
        self.reader = reader

    def answer(self, row: Row, outcome: Decided) -> Line:
        """The row of what was decided; BROKEN where a question has no answer."""
        error = BROKEN if outcome.answers.status == "nonfinite" else 0
        body = body_of(row, outcome)
        if not row.batch:
            return Line(encoded(body), error)
        return Line(encoded(openai.answered(row.id, f"{randomness_key(row.id):08x}", body)), error)

    def refusal(self, refused: Refusal) -> Line:
        """The row of what cannot be read."""
        if isinstance(refused, WireRefusal):
            return Line(encoded(openai.failure(refused.id, f"row_{refused.row}", refused.message)), REFUSED)
        fields = {"id": refused.id, "answers": None, "status": "error", "reader": self.reader, "error": refused.message}
        return Line(encoded(fields), REFUSED)


def stream(raws: Iterable[Raw], readers: Readers, write: Any, duplicates: Mapping[int, int]) -> tuple[int, int]:
    """Answers rows in their order, window by window; (rows refused, rows without a whole answer)."""
    writer = Lines(readers.plain.named())
    refused = broken = 0
    window: list[Row | Refusal] = []

    def flush() -> None:
        nonlocal refused, broken
        told = {
            row.row: writer.answer(row, outcome) for row, outcome in decided([x for x in window if isinstance(x, Row)])
        }
        for each in window:
            line = told[each.row] if isinstance(each, Row) else writer.refusal(each)
            refused, broken = refused + (line.error == REFUSED), broken + (line.error == BROKEN)
            write(line.data)
        window.clear()

    for raw in raws:
        window.append(understand(raw, readers, duplicates))
        if len(window) == WINDOW:
            flush()
    flush()
    return refused, broken


def stdin_rows() -> Iterator[Raw]:
    """The lines of stdin; blank ones are no rows."""
    return rows_of(sys.stdin.buffer)


def told(refused: int, broken: int) -> None:
    """Says on stderr what has no answer."""
    if refused:
        print(f"jaxdlm: {refused} of the rows could not be read; each has its error in its place", file=sys.stderr)
    if broken:
        print(f"jaxdlm: {broken} of the rows have no whole answer: {NONFINITE}", file=sys.stderr)
