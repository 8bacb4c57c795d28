"""From a state and a question to token ids: the prompt, the slot behind it, and the ids of each option there."""

import functools
import itertools
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.decisions.questions import Number, Option, Question
from jaxdlm.errors import InputError
from jaxdlm.layout import encode, side_below

OTHER = "0"  # words of a question that is never asked
LABELLED = 255  # options that labels of one token are looked for
PARTS = re.compile(r"\{(state|instructions|options|ask)\}")


@dataclass(frozen=True)
class Template:
    """How a question is put, and what stands around its answer.

    prompt: with {state}, {instructions}, {options} and {ask}, each as often as wanted; None: the default, which leaves
    out what is empty (and options, ask where read="text"). pre, post: text of the reply before and behind the answer,
    such as '{"team": "' and '"}'.
    """

    prompt: str | None = None
    pre: str = ""
    post: str = ""


class Slot(NamedTuple):
    """A question in token ids. prompt: what stands before the answer, the text `pre` included. choices: ids of each
    option, in the order of the question. post: ids behind it. ends: those of which any ends the reply. noise: what open
    columns hold in a model with uniform noise, (draw, step, first position, columns) -> ids. pre: ids of the text `pre`. head: of
    the prompt's first ids, those that other questions about the state have too (`Read.head`)."""

    prompt: np.ndarray
    choices: tuple[tuple[int, ...], ...]
    post: tuple[int, ...]
    ends: tuple[int, ...]
    noise: Callable[[int, int, int, int], np.ndarray] | None = None
    pre: int = 0
    head: int = 0


def read_templates(value: Any) -> tuple[Template, ...]:
    """One or several templates: strings (prompts), objects with the fields of `Template`, or `Template`."""
    if value is None:
        return (Template(),)
    several = list(value) if isinstance(value, list | tuple) else [value]
    if not several:
        raise InputError("templates is empty: leave it out, or give at least one")
    return tuple(_template(each, f"templates[{index}]") for index, each in enumerate(several))


def _template(value: Any, where: str) -> Template:
    if isinstance(value, str):
        value = {"prompt": value}
    values = vars(value) if isinstance(value, Template) else argument.table(value, where)
    unknown = set(values) - {field.name for field in fields(Template)}
    if unknown:
        raise InputError(f"{where}: unknown field {argument.shown(min(unknown))}: a template has prompt, pre and post")
    made = Template(**values)
    for name in ("pre", "post"):
        argument.text(getattr(made, name), f"{where}.{name}")
    if made.prompt is not None and "{state}" not in argument.text(made.prompt, f"{where}.prompt"):
        raise InputError(f"{where}.prompt has no {{state}}: say where the text stands that is decided about")
    return made


def render(
    lm: Any, state: Any, question: Question, order: Sequence[int], template: Template, read: str, where: str
) -> Slot:
    """The slot of a question about a state; order: places of its options in the listing. Raises InputError."""
    if is_ids(state):
        return _given(lm, state, question, template, read, where)
    if lm.tokenizer is None:
        raise InputError(f"{where} is text and {lm.name} has no tokenizer: {lm.advice or 'pass token ids'}")
    bare = template == Template() and lm.tokenizer.template is None and (read == "label" or question.instructions)
    reader = Texts(lm, Template(pre="\nAnswer: ") if bare else template, where)
    labels = labels_of(reader, question, order) if read == "label" else None
    texts = [word_of(question, option) for option in question.options] if labels is None else labels
    closed = lm.tokenizer.closed  # its words are listed, and the sentences here are made of others
    ask = "" if closed else _ask(question, labels, order)
    prompt = reader.prompt(state, question, "\n".join(lines_of(lm, question, labels, order)), ask, labels is not None)
    choices = [
        tuple(option.tokens) if option.tokens is not None and labels is None else reader.inside(text)
        for option, text in zip(question.options, texts)
    ]
    _check(lm, question, choices, read, where)
    ids = encoded(lm, prompt, reader.pre, where)
    other = put(state, lambda text: f"{text}\n\n{OTHER}", where)
    head = head_of(lm, ids, lambda: encoded(lm, other, (), where))
    return Slot(ids, tuple(choices), reader.post, ends_of(lm), pre=len(reader.pre), head=head)


def head_of(lm: Any, ids: np.ndarray, other: Callable[[], np.ndarray]) -> int:
    """How many of the ids a causal model reads once for all questions: those that another question's begin with, too,
    rounded down; it follows from the state and the question alone. Other models see what stands behind."""
    if lm.config.attention != "causal":
        return 0
    least = min(len(ids), len(behind := other())) - 1
    return side_below(int(np.cumprod(ids[:least] == behind[:least]).sum()))


def encoded(lm: Any, prompt: Any, pre: Sequence[int], where: str) -> np.ndarray:
    """The ids of a prompt and of what stands between it and the answer."""
    try:
        return np.concatenate([encode(lm, prompt, 0, 1, False), np.asarray(pre, np.int32)])
    except InputError as error:
        message = str(error)
        detail = message.removeprefix("prompt 0").removeprefix(":").strip()
        raise InputError(f"{where}{' ' if message.startswith('prompt 0 ') else ': '}{detail}") from None


def is_ids(state: Any) -> bool:
    if isinstance(state, np.ndarray):
        return True
    return isinstance(state, list | tuple) and len(state) > 0 and isinstance(state[0], int | np.integer)


def _is_chat(state: Any) -> bool:
    return (
        isinstance(state, list | tuple)
        and len(state) > 0
        and all(isinstance(x, Mapping) and "role" in x for x in state)
    )


def _given(lm: Any, state: Any, question: Question, template: Template, read: str, where: str) -> Slot:
    """Token ids as they are: the question is in them already."""
    if question.instructions or template.prompt is not None:
        raise InputError(f"{where} is token ids, which are taken as they are: leave instructions and templates out")
    options = question.options
    pre: tuple[int, ...] = ()
    post: tuple[int, ...] = ()
    if all(option.tokens is not None for option in options):
        choices = [tuple(option.tokens or ()) for option in options]
        if template.pre or template.post:
            raise InputError(f"{where}: options are given as tokens, so that pre and post are no text: leave them out")
    elif lm.tokenizer is None:
        raise InputError(f"{where}: {lm.name} has no tokenizer: give Option(value, tokens=[...]) for each choice")
    else:
        reader = Texts(lm, template, where)
        pre, post = reader.pre, reader.post
        choices = [tuple(option.tokens or reader.inside(word_of(question, option))) for option in options]
    _check(lm, question, choices, read, where)
    ids = encoded(lm, state, pre, where)
    return Slot(ids, tuple(choices), post, ends_of(lm), pre=len(pre), head=head_of(lm, ids, lambda: ids))


def ends_of(lm: Any) -> tuple[int, ...]:
    """What ends a reply: the turn's end first, where the model has one."""
    tokens = lm.config.tokens
    first = [] if tokens.turn_end is None else [tokens.turn_end]
    return tuple(dict.fromkeys([*first, *tokens.eos]))


class Texts:
    """Text of a reply to ids, by encoding it whole: what stands before a word decides how it is spelled."""

    def __init__(self, lm: Any, template: Template, where: str) -> None:
        self.lm, self.template, self.where = lm, template, where
        before = template.pre.rstrip(" ")
        self.spaces = template.pre[len(before) :]
        self.before = before
        self.pre = tuple(self._ids(before)) if before.strip() else ()
        self.post = tuple(self._ids(template.post)) if template.post.strip() else ()
        if before and not self.pre:
            raise InputError(f"{where}: pre {before!r:.60} is white space: leave it out")

    def _ids(self, text: str) -> list[int]:
        return spelled(self.lm, text, self.where)

    def inside(self, text: str) -> tuple[int, ...]:
        """The ids of an option between pre and post. Raises InputError where it is not spelled apart from them."""
        whole = self._ids(self.before + self.spaces + text + self.template.post)
        begin, end = len(self.pre), len(whole) - len(self.post)
        if tuple(whole[:begin]) != self.pre or tuple(whole[end:]) != self.post:
            raise InputError(
                f"{self.where}: the tokenizer joins {text!r:.60} with pre {self.template.pre!r:.40} or post "
                f"{self.template.post!r:.40}: end pre, and begin post, with a mark such as a quote"
            )
        if end <= begin:
            raise InputError(f"{self.where}: {text!r:.60} has no token: choose a word that the tokenizer spells")
        return tuple(whole[begin:end])

    def prompt(self, state: Any, question: Question, listing: str, ask: str, listed: bool) -> Any:
        """The text, or the chat, that stands before the reply."""
        blanks = {"instructions": words(question.instructions), "options": listing, "ask": ask}
        if self.template.prompt is None:
            shown = blanks.values() if listed else [blanks["instructions"], ask if isinstance(question, Number) else ""]
            block = "\n".join(filter(None, shown))
            fill = lambda text: "\n\n".join(filter(None, [text, block]))  # noqa: E731
        else:
            fill = lambda text: PARTS.sub(lambda m: (blanks | {"state": text})[m[1]], self.template.prompt or "")  # noqa: E731
        return put(state, fill, self.where)


def spelled(lm: Any, text: str, where: str) -> list[int]:
    """The ids of a part of a reply."""
    try:
        return list(_inside(lm.tokenizer, text))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=1 << 14)
def _inside(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode_inside(text))


def put(state: Any, fill: Callable[[str], str], where: str) -> Any:
    """The text, or a chat whose last words of the user are followed by the question. Raises InputError for neither."""
    if isinstance(state, str | Mapping):
        return fill(words(state))
    if not _is_chat(state):
        raise InputError(f"{where} is neither text nor a chat, nor token ids: {argument.shown(state)}")
    chat = [dict(message) for message in state]
    if chat[-1]["role"] != "user":
        return [*chat, {"role": "user", "content": fill("")}]
    content = chat[-1].get("content")
    if isinstance(content, list):
        content = "".join(
            part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str):
        raise InputError(f"{where}: the last message has no text: write a string")
    return [*chat[:-1], chat[-1] | {"content": fill(content)}]


def words(value: Any) -> str:
    """Text as it is, JSON as one line, nothing as nothing."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def word_of(question: Question, option: Option) -> str:
    if question.kind == "predicate":
        return "Yes" if option.value else "No"
    return question.written(option) if isinstance(question, Number) else option.text


def labels_of(reader: Texts, question: Question, order: Sequence[int]) -> list[str]:
    """A label for each option, one token each and all different: Yes and No, the number of a level, or letters by place."""
    count = len(question.options)
    if count > LABELLED:
        raise InputError(f"{reader.where} has {count} options, and labels reach to {LABELLED}: use read='text'")
    for own in _names(question):
        ids = [reader.inside(label) for label in own]
        if len(set(ids)) == count and all(len(each) == 1 for each in ids):
            return own
    single: list[str] = []
    seen: set[int] = set()
    for label in _candidates():
        with_ids = reader.inside(label)
        if len(with_ids) == 1 and with_ids[0] not in seen:
            single.append(label)
            seen.add(with_ids[0])
        if len(single) == count:
            break
    if len(single) < count:
        raise InputError(
            f"{reader.where} has {count} options, and this tokenizer has labels of one token for {len(single)}: use read='text'"
        )
    labels = [""] * count
    for label, index in zip(single, order):
        labels[index] = label
    return labels


def _names(question: Question) -> list[list[str]]:
    """Labels that say more than a letter, where each is one token."""
    if question.kind == "predicate":
        return [["Yes", "No"], ["yes", "no"]]
    return [[str(level) for level in range(len(question.options))]] if question.kind == "score" else []


def _candidates() -> Iterable[str]:
    yield from string.ascii_uppercase
    yield from map("".join, itertools.product(string.ascii_uppercase, repeat=2))
    yield from string.ascii_lowercase
    yield from map("".join, itertools.product(string.ascii_lowercase, repeat=2))


def lines_of(lm: Any, question: Question, labels: Sequence[str] | None, order: Sequence[int]) -> list[str]:
    """The listing of a question: its options under labels, or as they are."""
    texts = [word_of(question, option) for option in question.options] if labels is None else labels
    lines = [_line(question.options[at], texts[at], question, labels is not None, lm.tokenizer.closed) for at in order]
    return [line for line in lines if line]


def _line(option: Option, label: str, question: Question, labelled: bool, apart: bool) -> str:
    """A line of the listing; nothing for a yes or a no that says it all. apart: marks are words of their own."""
    about, shown = words(option.description), question.kind == "choice" or isinstance(option.value, str)
    if not labelled:
        return ": ".join(filter(None, [f"- {label}", about]))
    if question.kind == "predicate":
        if label.lower() in ("yes", "no"):
            return f"{label}: {about}" if about else ""
        shown = True
    text = ": ".join(filter(None, [word_of(question, option) if shown else "", about]))
    return f"{label}{' ' if apart else ''}) {text}".rstrip()


def _ask(question: Question, labels: list[str] | None, order: Sequence[int]) -> str:
    """The last sentence of the prompt: what an answer looks like."""
    if isinstance(question, Number):
        first, last = question.written(question.options[0]), question.written(question.options[-1])
        return f"Reply with one number between {first} and {last}, and nothing else."
    if labels is None:
        return "Reply with one of these, and nothing else."
    if labels[0].lower() == "yes":
        return "Reply with {} or {}, and nothing else.".format(*(labels[index] for index in order))
    kind = "number" if labels[0] == "0" else "letter" if len(labels) <= 26 else "label"
    return f"Reply with the {kind} in front of your choice, and nothing else."


def _check(lm: Any, question: Question, choices: Sequence[tuple[int, ...]], read: str, where: str) -> None:
    """Ids of options are words of the model, and all different."""
    banned = {*(() if lm.tokenizer is None else lm.tokenizer.control), *lm.config.tokens.eos}
    banned |= set() if lm.config.tokens.mask is None else {lm.config.tokens.mask}
    shown = [argument.shown(option.value) for option in question.options]
    seen: dict[tuple[int, ...], int] = {}
    for index, ids in enumerate(choices):
        wrong = [token for token in ids if token in banned or not 0 <= token < lm.config.vocab_size]
        if wrong:
            raise InputError(
                f"{where}: {shown[index]} holds token id {wrong[0]}, which is no word: choose another word"
            )
        if ids in seen:
            raise InputError(
                f"{where}: {shown[seen[ids]]} and {shown[index]} are spelled by the same tokens: rename one"
            )
        if read == "label" and len(ids) != 1:
            raise InputError(
                f"{where}: the label of {shown[index]} has {len(ids)} tokens instead of one: use read='text'"
            )
        seen[ids] = index
