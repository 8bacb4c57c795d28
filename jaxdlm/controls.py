"""Control tokens of a chat (mask, end of text, turn markers): written by its template, never by the words of a message.

Inside the tokenizer every control token goes by one private character. The literals in a template's own source are
exchanged for these characters before it is compiled, and the words of messages hold none of them. So whatever a
template does to words (turns them around, joins, splits, lowers, wraps or replaces them, prints keys as values), they
stay letters: no string method makes a private character.

Some templates put a literal together around a role, `<|{{ message.role }}|>`. The pieces in their source become private
characters, too, and so does a known role when it is printed; only the three together are the control token.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdlm.errors import InputError

FIRST = 0x100000  # first private character; no text contains one
LAST = 0x10FFFF
MOST = 60_000  # control tokens; the other private characters are for pieces of their literals
MARK = chr(LAST)  # stands for no token: where the words of a message end
PRIVATE = re.compile(f"[{chr(FIRST)}-{chr(LAST)}]")
ROLES = tuple("system developer user human assistant model bot tool function observation ipython".split())
SEARCHES = frozenset(  # methods whose arguments are compared with text, and never become a part of it
    "startswith endswith split rsplit partition rpartition strip lstrip rstrip removeprefix removesuffix find rfind "
    "index rindex count get".split()
)
SIEVES = frozenset("trim select reject selectattr rejectattr groupby sort unique attr".split())  # the same of filters


def checked(text: str) -> str:
    """The text, if it can be encoded; InputError where it holds a private character or half of a surrogate pair."""
    private = PRIVATE.search(text)
    if private:
        raise InputError(
            f"the prompt holds the private character U+{ord(private.group()):X} at {private.start()}: remove it, it is "
            f"no text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not valid text at {error.start}: it holds half of a surrogate pair") from None
    return text


class Own(str):
    """A string that is the checkpoint's own: compares by its letters, prints as its private character."""

    shown: Mapping[str, str]

    def __new__(cls, text: str = "", shown: Mapping[str, str] | None = None) -> "Own":
        made = super().__new__(cls, text)
        made.shown = shown or {}
        return made

    def __str__(self) -> str:
        return self.shown.get(self, str.__str__(self))

    def __format__(self, form: str) -> str:
        return format(str(self), form)

    def __add__(self, after: str) -> str:
        return str(self) + after

    def __radd__(self, before: str) -> str:
        return before + str(self)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (str.__str__(self), self.shown)

    def _changed(self, text: str) -> "Own":
        return Own(text, self.shown)

    def lower(self) -> "Own":
        return self._changed(super().lower())

    def upper(self) -> "Own":
        return self._changed(super().upper())

    def capitalize(self) -> "Own":
        return self._changed(super().capitalize())

    def strip(self, letters: str | None = None) -> "Own":
        return self._changed(super().strip(letters))


def aliases_of(literals: Sequence[str]) -> dict[str, str]:
    """literal -> private character. Raises InputError for more than there are."""
    if len(literals) > MOST:
        raise InputError(
            f"the tokenizer has {len(literals)} control tokens, more than the {MOST} that can be kept apart"
        )
    return {literal: chr(FIRST + index) for index, literal in enumerate(literals)}


@dataclasses.dataclass(frozen=True, eq=False)
class Controls:
    """Control literals of one tokenizer. aliases: literal -> private character."""

    aliases: Mapping[str, str]

    def own(self, text: str) -> str:
        """Text of the checkpoint: its control literals, and pieces of one at its ends, as private characters."""
        there = [literal for literal in self._longest_first if literal in text]
        if there:  # the longest first, as the tokenizer itself would match
            text = re.sub("|".join(map(re.escape, there)), lambda match: self.aliases[match.group()], text)
        before, _, after = self._pieces
        opening = next((piece for piece in before if piece and text.endswith(piece)), "")
        text = text.removesuffix(opening) + before.get(opening, "")
        closing = next((piece for piece in after if piece and text.startswith(piece)), "")
        return after.get(closing, "") + text.removeprefix(closing)

    def mark(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of a template, with the checkpoint's special tokens and the known roles of messages as
        `Own`."""
        roles = self._pieces[1]
        messages = [
            message | {"role": Own(message["role"], roles)} if message["role"] in ROLES else message
            for message in names["messages"]
        ]
        return {name: self._special(value) for name, value in names.items()} | {"messages": messages}

    def _special(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._special(each) for each in value]
        return Own(value, {value: self.own(value)}) if isinstance(value, str) else value

    def exchange(self, node: Any, own: bool = True) -> Any:
        """The tree of a parsed template (Jinja's nodes) with its literals exchanged in place, where they are printed.

        What a template compares words with, or looks for in them, stays letters: so do the words.
        """
        from jinja2 import nodes

        if own and isinstance(node, nodes.TemplateData):
            node.data = self.own(node.data)
        elif own and isinstance(node, nodes.Const) and isinstance(node.value, str):
            node.value = self.own(node.value)
        compared = {id(child) for child in _compared(node)}
        for child in node.iter_child_nodes():
            self.exchange(child, own and id(child) not in compared)
        return node

    def close(self, rendered: str) -> str:
        """Rendered text in which every control token is its alias, and all else is letters.

        Raises InputError where a template puts a control literal around words that are no known role: which token it
        is would be for the words to say.
        """
        if not self._joints:
            return rendered
        text = self._joined.sub(lambda match: self.aliases[self._joints[match.group()]], rendered)
        for match in self._around.finditer(text):
            literal = self.spell(match.group())
            if literal in self.aliases:
                raise InputError(
                    f"the chat template makes the control token {literal:.60} of {match.group(1)!r:.60}, which is no "
                    f"role that is known ({', '.join(ROLES)}): write another one, or pass raw=True"
                )
        return PRIVATE.sub(lambda match: self._letters.get(match.group(), match.group()), text)

    def spell(self, text: str) -> str:
        """Text with private characters as the letters that they stand for, for messages."""
        every = self._letters | {alias: literal for literal, alias in self.aliases.items()}
        return PRIVATE.sub(lambda match: every.get(match.group(), ""), text)

    @functools.cached_property
    def _longest_first(self) -> list[str]:
        return sorted(self.aliases, key=len, reverse=True)

    @functools.cached_property
    def _triples(self) -> list[tuple[str, tuple[str, str, str]]]:
        """(literal, (what stands before a role in it, the role, what stands after it))."""
        words = sorted({form for role in ROLES for form in (role, role.upper(), role.capitalize())})
        roles = re.compile("|".join(words))
        likely = [literal for literal in sorted(self.aliases) if roles.search(literal)]
        return [(x, (x[:at], word, x[at + len(word) :])) for x in likely for word in words if (at := x.find(word)) >= 0]

    @functools.cached_property
    def _pieces(self) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """What stands before a role, roles, and what stands after one -> private characters; the longest first."""
        free = map(chr, range(FIRST + len(self.aliases), LAST))
        columns = zip(*(three for _, three in self._triples)) if self._triples else ((), (), ())
        before, role, after = (
            {piece: next(free) if piece else "" for piece in sorted({*column}, key=lambda x: (-len(x), x))}
            for column in columns
        )
        return before, role, after

    @functools.cached_property
    def _letters(self) -> dict[str, str]:
        """Private character -> the piece that it stands for."""
        return {mark: piece for pieces in self._pieces for piece, mark in pieces.items() if mark}

    @functools.cached_property
    def _joints(self) -> dict[str, str]:
        """The marks of a literal's pieces in a row -> the literal."""
        before, role, after = self._pieces
        return {before[a] + role[b] + after[c]: literal for literal, (a, b, c) in self._triples}

    @functools.cached_property
    def _joined(self) -> re.Pattern[str]:
        return re.compile("|".join(sorted(self._joints, key=len, reverse=True)))

    @functools.cached_property
    def _around(self) -> re.Pattern[str]:
        """Words between two pieces of a template."""
        before, _, after = ("".join(pieces.values()) for pieces in self._pieces)
        longest = max(map(len, self.aliases))
        words = f"([^{chr(FIRST)}-{chr(LAST)}]{{1,{longest}}})"
        return re.compile(f"[{before}]{words}[{after}]" if before and after else r"(?!)(.)")


def _compared(node: Any) -> Iterator[Any]:
    """Children of a node that are compared with text or looked up, and not printed."""
    from jinja2 import nodes

    if isinstance(node, nodes.Compare | nodes.Test):
        yield from node.iter_child_nodes()
    elif isinstance(node, nodes.Getitem):
        yield node.arg
    elif isinstance(node, nodes.Pair):
        yield node.key
    elif isinstance(node, nodes.Filter):
        yield from _arguments(node, node.name, SIEVES)
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        yield from _arguments(node, node.node.attr, SEARCHES)


def _arguments(node: Any, name: str, searches: frozenset[str]) -> Iterator[Any]:
    if name in searches:
        yield from (*node.args, *node.kwargs)
    elif name == "replace":
        yield from node.args[:1]
