"""Questions that wait for the answers to others: when each is asked, whether at all, and what is put before it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm import argument
from jaxdlm.decisions.questions import Question, place_of
from jaxdlm.decisions.render import is_ids, put, spelled, word_of, words
from jaxdlm.errors import InputError

Values = Mapping[str, Any]  # answers so far, by the names of their questions; None: there is none


def stages_of(questions: Sequence[Question], where: str) -> tuple[tuple[int, ...], ...]:
    """Places of the questions that can be asked together, stage by stage: each as early as its own ones are answered.

    Raises InputError for a name that no question has, a value that is no option, and questions that wait for each other.
    """
    by_name = {question.name: question for question in questions}
    for question in questions:
        _check(question, by_name, f"{where}: question {argument.shown(question.name)}")
    stages: list[tuple[int, ...]] = []
    asked: set[str] = set()
    while len(asked) < len(questions):
        free = [k for k, q in enumerate(questions) if q.name not in asked and waits_for(q) <= asked]
        if not free:
            stuck = [q.name for q in questions if q.name not in asked]
            raise InputError(
                f"{where}: {argument.shown(stuck[0])} waits for an answer that waits for its own: break the circle"
            )
        stages.append(tuple(free))
        asked.update(questions[k].name for k in free)
    return tuple(stages)


def waits_for(question: Question) -> set[str]:
    return {*question.depends_on, *dict(question.ask_if)}


def _check(question: Question, by_name: Mapping[str, Question], where: str) -> None:
    for name in waits_for(question):
        if name not in by_name:
            raise InputError(f"{where} waits for {argument.shown(name)}, which is no question of this row: add it")
    for name, values in question.ask_if:
        for value in values:
            place_of(by_name[name], value, f"{where}: ask_if")


def asked(question: Question, questions: Sequence[Question], values: Values) -> bool:
    """Whether a question is asked, given the answers before it: all that it depends on are there, and as it wants them."""
    by_name = {each.name: each for each in questions}
    if any(values[name] is None for name in waits_for(question)):
        return False
    place = lambda name, value: place_of(by_name[name], value, "here")  # noqa: E731
    return all(
        place(name, values[name]) in [place(name, value) for value in wanted] for name, wanted in question.ask_if
    )


def behind(lm: Any, state: Any, question: Question, questions: Sequence[Question], values: Values, where: str) -> Any:
    """The state with the answers that a question depends on. Raises InputError for token ids."""
    if not question.depends_on:
        return state
    if is_ids(state):
        raise InputError(f"{where} is token ids, which are taken as they are: leave depends_on out")
    by_name = {each.name: each for each in questions}
    lines = [_line(lm, by_name[name], values[name]) for name in question.depends_on]
    return put(state, lambda text: "\n\n".join(filter(None, [text, "\n".join(lines)])), where)


def longest(lm: Any, questions: Sequence[Question], where: str) -> Values:
    """Of each question the answer with the most tokens: what can be asked behind these can be asked behind all."""
    return {question.name: _longest(lm, question, where) for question in questions}


def _longest(lm: Any, question: Question, where: str) -> Any:
    values = [place if question.kind == "score" else option.value for place, option in enumerate(question.options)]
    if lm.tokenizer is None:
        return values[0]
    return max(values, key=lambda value: len(spelled(lm, _line(lm, question, value), where)))


def _line(lm: Any, question: Question, value: Any) -> str:
    """What was asked, and the answer."""
    option = question.options[place_of(question, value, "here")]
    text = word_of(question, option)
    if question.kind == "score" and not isinstance(option.value, str):
        text = ": ".join(filter(None, [text, words(option.description)]))
    head = words(question.instructions) or ("" if lm.tokenizer.closed else f"{question.name}:")
    return " ".join(filter(None, [head, text]))
