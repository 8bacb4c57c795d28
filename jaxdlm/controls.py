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
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdlm.errors import InputError

FIRST = 0x100000  # first private character; no text contains one
LAST = 0x10FFFF
PRIVATE = re.compile(f"[{chr(FIRST)}-{chr(LAST)}]")
ROLES = (
    "system",
    "developer",
    "user",
    "human",
    "assistant",
    "model",
    "bot",
    "tool",
    "function",
    "observation",
    "ipython",
)
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


@dataclasses.dataclass(frozen=True, eq=False)
class Controls:
    """Control literals of one tokenizer. aliases: literal -> private character."""

    aliases: Mapping[str, str]

    def __post_init__(self) -> None:
        if FIRST + len(self.aliases) + len(self._pieces) > LAST:
            raise InputError(f"the tokenizer has {len(self.aliases)} control tokens, more than can be told from text")

    def own(self, text: str) -> str:
        """Text of the checkpoint: its control literals, and pieces of one at its ends, as private characters."""
        text = self._literals.sub(lambda found: self.aliases[found.group()], text)
        for _, piece, mark in (found for found in self._pieces if found[0] == "before"):
            if text.endswith(piece):
                text = text.removesuffix(piece) + mark
                break
        for _, piece, mark in (found for found in self._pieces if found[0] == "after"):
            if text.startswith(piece):
                return mark + text.removeprefix(piece)
        return text

    def name(self, text: str) -> str:
        """A special token of the checkpoint, as templates see it."""
        return Own(text, {text: self.own(text)})

    def role(self, word: str) -> str:
        """A role, as templates see it: a known one may complete a literal that the template puts around it."""
        return Own(word, self._roles) if word in ROLES and self._roles else word

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
        text = self._joined.sub(lambda found: self.aliases[self._joints[found.group()]], rendered)
        for found in self._around.finditer(text):
            literal = self.spell(found.group())
            if literal in self.aliases:
                raise InputError(
                    f"the chat template makes the control token {literal:.60} of {found.group(1)!r:.60}, which is no "
                    f"role that is known ({', '.join(ROLES)}): write another one, or pass raw=True"
                )
        return self._marks.sub(lambda found: self._spelled[found.group()], text)

    def spell(self, text: str) -> str:
        """Text with private characters as the letters that they stand for, for messages."""
        return PRIVATE.sub(lambda found: self._spelled.get(found.group(), ""), text)

    @functools.cached_property
    def _literals(self) -> re.Pattern[str]:
        """Any control literal, the longest first, as the tokenizer itself would match."""
        return re.compile("|".join(map(re.escape, sorted(self.aliases, key=len, reverse=True))) or r"(?!)")

    @functools.cached_property
    def _triples(self) -> list[tuple[str, str, str, str]]:
        """(literal, what stands before a role in it, the role, what stands after it)."""
        words = sorted({form for role in ROLES for form in (role, role.upper(), role.capitalize())})
        roles = re.compile("|".join(words))
        likely = [literal for literal in sorted(self.aliases) if roles.search(literal)]
        return [(x, x[:at], word, x[at + len(word) :]) for x in likely for word in words if (at := x.find(word)) >= 0]

    @functools.cached_property
    def _pieces(self) -> list[tuple[str, str, str]]:
        """(kind, piece of a literal, private character), the longest first; kinds are before, role and after."""
        named = {piece for _, *three in self._triples for piece in zip(("before", "role", "after"), three) if piece[1]}
        order = sorted(named, key=lambda piece: (-len(piece[1]), piece))
        return [(*piece, chr(FIRST + len(self.aliases) + index)) for index, piece in enumerate(order)]

    @functools.cached_property
    def _roles(self) -> dict[str, str]:
        return {piece: mark for kind, piece, mark in self._pieces if kind == "role"}

    @functools.cached_property
    def _spelled(self) -> dict[str, str]:
        """Private character -> letters."""
        return {mark: piece for _, piece, mark in self._pieces} | {a: literal for literal, a in self.aliases.items()}

    @functools.cached_property
    def _joints(self) -> dict[str, str]:
        """The marks of a literal's pieces in a row -> the literal."""
        mark = {(kind, piece): mark for kind, piece, mark in self._pieces} | {("before", ""): "", ("after", ""): ""}
        return {mark["before", a] + mark["role", b] + mark["after", c]: literal for literal, a, b, c in self._triples}

    @functools.cached_property
    def _joined(self) -> re.Pattern[str]:
        return re.compile("|".join(sorted(self._joints, key=len, reverse=True)))

    @functools.cached_property
    def _marks(self) -> re.Pattern[str]:
        return re.compile("|".join(mark for _, _, mark in self._pieces))

    @functools.cached_property
    def _around(self) -> re.Pattern[str]:
        """Words between two pieces of a template."""
        before, after = ("".join(mark for kind, _, mark in self._pieces if kind == end) for end in ("before", "after"))
        longest = max(map(len, self.aliases))
        return re.compile(
            f"[{before}]([^{chr(FIRST)}-{chr(LAST)}]{{1,{longest}}})[{after}]" if before and after else "(?!)"
        )


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
