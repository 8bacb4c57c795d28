"""Context-free grammars as trees: a grammar of Lark, whose rules are written out to a bounded depth.

Lark's loader reads the text; nothing of a grammar is run. A rule that refers to itself at its beginning or end only is a
repetition and needs no bound, `list: list "," item | item` is `item ("," item)*`; whatever recursion is left counts.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxdlm import distribution
from jaxdlm.argument import shown
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.grammar import patterns, syntax
from jaxdlm.grammar.automaton import MOST_NODES, compact, count
from jaxdlm.grammar.syntax import Node, alt, cat, chars, repeat, text
from jaxdlm.grammar.terminals import of_pattern

DEEPEST = 32
MOST_LETTERS = 2**15  # of a grammar: what a loader written in Python reads in a second
MOST_BLANKS = 2**8  # in a row: Lark's lexer takes their square
MOST_PAIRS = 16  # of backslashes behind the last delimiter: Lark's lexer takes an exponential of them to find none
MOST_PARTS = 2**17  # of all terminals
LIBRARY = ("common", "lark", "python", "unicode")  # grammars that come with Lark: no import reads another file
NOTHING = alt()
NO_NEWLINE = syntax.without(syntax.EVERY, syntax.those("\n"))
OWN: dict[str, Node] = {  # of `common`, where the expressions look back or are lazy: the same texts without
    "ESCAPED_STRING": cat(
        text('"'),
        repeat(alt(chars(syntax.without(NO_NEWLINE, syntax.those('"\\'))), cat(text("\\"), chars(NO_NEWLINE))), 0, None),
        text('"'),
    ),
    "C_COMMENT": patterns.parse(r"/\*[^*]*\*+(?:[^/*][^*]*\*+)*/"),
}  # fmt: skip


class Use(NamedTuple):
    """The texts of a rule."""

    name: str


class Row(NamedTuple):
    """One behind the other."""

    parts: tuple[Any, ...]


class Either(NamedTuple):
    """One of them."""

    options: tuple[Any, ...]


class Times(NamedTuple):
    """From `low` to `high` times; None: without end."""

    inner: Any
    low: int
    high: int | None


def tree(grammar: str, depth: int, start: str) -> Node:
    """The texts that `start` derives with at most `depth` references back to a rule inside itself; see `jd.grammar.lark`.

    Raises InputError.
    """
    try:
        rules = _Rules(*_loaded(grammar), start)
        texts = rules.written_out(start, depth)
        if texts is NOTHING:
            raise _no_text(rules, depth, start)
        texts = cat(*rules.between, texts)
    except RecursionError:
        raise InputError(f"lark {shown(grammar)} is nested too deeply: write it flatter") from None
    if texts.size > MOST_NODES:
        remedy = "lower depth, or shorten it" if rules.back else "shorten it"
        raise InputError(
            f"lark {shown(grammar)} is too large: written out to depth={depth} it has {count(texts.size)} parts, at most "
            f"{MOST_NODES:,} are taken: {remedy}"
        )
    return texts


def _no_text(rules: "_Rules", depth: int, start: str) -> InputError:
    least = next((d for d in range(depth + 1, DEEPEST + 1) if rules.written_out(start, d) is not NOTHING), None)
    remedy = f"at depth={DEEPEST} neither: its recursion does not end" if least is None else f"give depth={least}"
    return InputError(f"lark: {start} derives no text at depth={depth}, {remedy}")


# ----------------------------------------------------------------------------------------------------- Lark's own reading


def _loaded(grammar: str) -> tuple[Any, dict[int, Node]]:
    """What Lark's loader makes of the text: definitions as trees, templates and repetitions as they are written. And the
    trees, by `id`, of imported terminals that are in `OWN`."""
    if len(grammar) > MOST_LETTERS:
        raise InputError(f"lark has {len(grammar):,} letters, at most {MOST_LETTERS:,} are taken: shorten it")
    _check_letters(grammar)
    try:
        from lark.exceptions import GrammarError, LarkError
        from lark.load_grammar import GrammarBuilder, PrepareLiterals, _parse_grammar
    except ImportError:
        raise InputError(f"a grammar of Lark is read by the package lark: {distribution.install('grammar')}") from None

    own: dict[int, Node] = {}

    class Builder(GrammarBuilder):
        def do_import(self, dotted_path: Any, base_path: Any, aliases: Any, *rest: Any) -> None:
            if base_path is not None or dotted_path[0] not in LIBRARY or len(dotted_path) > 1:
                path = ".".join(dotted_path)
                raise GrammarError(
                    f"it imports from {path!r:.60}, and only {', '.join(LIBRARY)} are read: copy the rule"
                )
            super().do_import(dotted_path, base_path, aliases, *rest)
            for name in OWN.keys() & aliases.keys() if dotted_path[0] == "common" else ():
                own[id(self._definitions[aliases[name]].tree)] = OWN[name]

    builder, literals = Builder(), PrepareLiterals()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python says of escapes in strings
            _check_terminals(_parse_grammar(grammar, "grammar").children)
            builder.load_grammar(grammar, "grammar")
            made = builder.build()
            for each in [*(tree for tree, _ in dict(made.term_defs).values()), *(rule[2] for rule in made.rule_defs)]:
                for part in () if each is None else each.iter_subtrees():
                    if part.data in ("literal", "range"):  # in its place: others refer to the same tree
                        part.data, part.children = "pattern", literals.transform(part).children
    except InputError:
        raise
    except (LarkError, OSError, AssertionError, SyntaxError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).strip().splitlines()[:1]) or "it is no grammar of Lark"
        raise InputError(f"lark {shown(grammar)} does not load ({reason:.200}): correct it") from None
    return made, own


def _check_letters(grammar: str) -> None:
    """What Lark's lexer would take long for: its expressions of blanks, strings and regular expressions go back."""
    if re.search(rf"\s{{{MOST_BLANKS}}}", grammar):
        raise InputError(f"lark has {MOST_BLANKS} or more blanks in a row: leave some out")
    behind = [line.rsplit('"', 1)[1] for line in grammar.split("\n") if '"' in line]
    behind += grammar.rsplit("/", 1)[1:]
    for each in behind:
        if sum(len(run) - 1 for run in re.findall(r"\\{2,}", each)) > MOST_PAIRS:
            raise InputError(
                f"lark has more than {MOST_PAIRS} pairs of backslashes behind the last quote of a line, or the last slash: "
                f"close the string or the expression"
            )


def _check_terminals(statements: Sequence[Any]) -> None:
    """Terminals refer to each other, and Lark's loader takes as long as they are when they are written out: no cycle, and
    a bounded size of all."""
    bodies: dict[str, list[Any]] = {}
    for each in statements:
        made = each.children[0] if each.data in ("override", "extend") else each
        if made.data in ("term", "ignore"):
            name = str(made.children[0]) if made.data == "term" else "%ignore"
            bodies.setdefault(name, []).append(made.children[-1])
    known: dict[str, int] = {}

    def cost(name: str) -> int:
        if name not in known:
            known[name] = 0  # while it is being counted
            parts = [each for body in bodies[name] for each in body.iter_subtrees()]
            inner = [str(leaf.name) for part in parts for leaf in part.children if hasattr(leaf, "is_term")]
            known[name] = len(parts) + sum(cost(each) if each in bodies else len(parts) for each in inner)
        elif not known[name]:
            raise InputError(f"lark: terminal {name} refers to itself, which only rules can: make it a rule")
        return known[name]

    total = sum(map(cost, bodies))
    if total > MOST_PARTS:
        raise InputError(
            f"lark: its terminals, written out, have {count(total)} parts, at most {MOST_PARTS:,} are taken: shorten them"
        )


class _Rules:
    """The rules of a grammar, with their terminals already made, and which references among them lead back.

    back: (rule, rule that it refers to) where the second is being written out when the first is met, in the order of the
    text from the start on. Every recursion passes one.
    """

    def __init__(self, grammar: Any, own: dict[int, Node], start: str) -> None:
        self._terminals = {name: tree for name, (tree, _) in grammar.term_defs}
        self._nodes = own  # of a definition that others refer to, once
        self._empty: dict[Node, bool] = {}
        self._known: dict[tuple[str, int], Node] = {}
        spaces = [self._terminal(self._terminals.get(name), name) for name in dict.fromkeys(grammar.ignore)]
        self.between = [repeat(alt(*spaces), 0, None)] if spaces else []
        bodies = {name: (params, body) for name, params, body, _ in grammar.rule_defs}
        if start not in bodies:
            raise InputError(
                f"lark has no rule {start!r:.60}{did_you_mean(start, map(str, bodies))}: add it, or name yours in start="
            )
        self._rules = {
            name: _repeating(name, self._read(body, name)) for name, (params, body) in bodies.items() if not params
        }
        self.back: set[tuple[str, str]] = set()
        reached = self._follow(start)
        unused = [name for name in bodies if name not in reached and "__" not in name]
        if unused:
            raise InputError(f"lark: {unused[0]} is not used by {start}: refer to it, or leave it out")

    def _follow(self, start: str) -> set[str]:
        """The rules that the start leads to; fills `back`."""
        done: set[str] = set()
        waiting: list[tuple[str, Iterator[str]]] = [(start, iter(_uses(self._rules[start])))]
        above = {start}
        while waiting:
            name, rest = waiting[-1]
            to = next(rest, None)
            if to is None:
                waiting.pop()
                above.discard(name)
                done.add(name)
            elif to in above:
                self.back.add((name, to))
            elif to not in done:
                above.add(to)
                waiting.append((to, iter(_uses(self._rules[to]))))
        return done

    def written_out(self, name: str, depth: int) -> Node:
        """The texts of a rule with so many references back inside each other; NOTHING where there are none."""
        if (name, depth) not in self._known:
            self._known[name, depth] = compact(
                self._node(self._rules[name], name, depth), f"lark at depth={depth}: {name}"
            )
        return self._known[name, depth]

    def _node(self, part: Any, inside: str, depth: int) -> Node:
        match part:
            case Use(name=name):
                left = depth - ((inside, name) in self.back)
                return NOTHING if left < 0 else self.written_out(name, left)
            case Row(parts=parts):
                nodes = [self._node(each, inside, depth) for each in parts]
                return NOTHING if any(each is NOTHING for each in nodes) else cat(*nodes)
            case Either(options=options):
                return _one_of([self._node(each, inside, depth) for each in options])
            case Times(inner=inner, low=low, high=high):
                node = self._node(inner, inside, depth)
                return repeat(node, low, high) if node is not NOTHING else NOTHING if low else cat()
        assert isinstance(part, Node)
        return part

    # ------------------------------------------------------------------------------------------------ reading Lark's trees

    def _read(self, tree: Any, rule: str) -> Any:
        """A definition of a rule. Text that is ignored may stand behind each of its terminals."""
        match tree.data if hasattr(tree, "data") else "symbol":
            case "expansions":
                return Either(tuple(self._read(each, rule) for each in tree.children))
            case "expansion":
                return Row(tuple(self._read(each, rule) for each in tree.children))
            case "alias":
                return self._read(tree.children[0], rule)
            case "maybe":
                return Times(self._read(tree.children[0], rule), 0, 1)
            case "expr":
                return Times(self._read(tree.children[0], rule), *_bounds(tree.children[1:], rule))
            case "value":
                return self._read(tree.children[0], rule)
            case "symbol" if not tree.is_term:
                return Use(tree.name)
            case "symbol":
                node = self._terminal(self._terminals[tree.name], tree.name)
            case "pattern":
                node = self._terminal(tree, f"of {rule}")
            case other:
                raise InputError(
                    f"lark: {rule} uses a {str(other).split('_')[0]}, which is not supported: write the rule out"
                )
        return cat(node, *self.between)

    def _terminal(self, tree: Any, name: str) -> Node:
        """The texts of a terminal."""
        node = self._part(tree, name)
        if self._may_be_empty(node):
            raise InputError(
                f"lark: terminal {name} may be empty, as no terminal can: let its rule leave it out instead"
            )
        return node

    def _part(self, tree: Any, name: str) -> Node:
        if tree is None:
            raise InputError(f"lark: terminal {name} is declared and has no texts: define it")
        if id(tree) not in self._nodes:
            self._nodes[id(tree)] = self._made(tree, name)
        return self._nodes[id(tree)]

    def _made(self, tree: Any, name: str) -> Node:
        match tree.data:
            case "expansions":
                return alt(*(self._part(each, name) for each in tree.children))
            case "expansion":
                return cat(*(self._part(each, name) for each in tree.children))
            case "maybe":
                return repeat(self._part(tree.children[0], name), 0, 1)
            case "expr":
                return repeat(self._part(tree.children[0], name), *_bounds(tree.children[1:], name))
            case "value":
                return self._part(tree.children[0], name)
            case "pattern":
                return of_pattern(tree.children[0], name)
        raise InputError(f"lark: terminal {name} has a {tree.data}, which no terminal can: leave it out")

    def _may_be_empty(self, node: Node) -> bool:
        if node not in self._empty:
            match node:
                case syntax.Text(data=data):
                    empty = not data
                case syntax.Cat(parts=parts):
                    empty = all(map(self._may_be_empty, parts))
                case syntax.Alt(options=options):
                    empty = any(map(self._may_be_empty, options))
                case syntax.Repeat(inner=inner, low=low):
                    empty = low == 0 or self._may_be_empty(inner)
                case _:
                    empty = False
            self._empty[node] = empty
        return self._empty[node]


def _one_of(nodes: Sequence[Node]) -> Node:
    live = [each for each in nodes if each is not NOTHING]
    return alt(*live) if live else NOTHING


def _uses(part: Any) -> list[str]:
    """The rules that a definition refers to, in its order."""
    match part:
        case Use(name=name):
            return [name]
        case Row(parts=parts) | Either(options=parts):
            return [name for each in parts for name in _uses(each)]
        case Times(inner=inner):
            return _uses(inner)
    return []


def _repeating(name: str, body: Any) -> Any:
    """The same rule without its own name where that is all that an option begins with, or else ends with.

    A: A x | y is y x*, and A: x A | y is x* y, whatever x and y are.
    """
    options = _options(body)
    for at, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
        around = [each[rest] for each in options if each and each[at] == Use(name)]
        if around:
            other = Either(tuple(Row(each) for each in options if not each or each[at] != Use(name)))
            loop = Times(Either(tuple(Row(each) for each in around if each)), 0, None)
            if not any(around):  # A: A | x
                return _repeating(name, other)
            return Row((other, loop) if at == 0 else (loop, other))
    return body


def _options(body: Any) -> list[tuple[Any, ...]]:
    """The rows that a definition has to choose from."""
    match body:
        case Either(options=options):
            return [row for each in options for row in _options(each)]
        case Row(parts=(Either() | Row() as only,)):
            return _options(only)
        case Row(parts=parts):
            return [parts]
    return [(body,)]


def _bounds(words: Sequence[Any], name: str) -> tuple[int, int | None]:
    """How often an operator of Lark repeats."""
    operator, *numbers = map(str, words)
    if operator != "~":
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[operator]
    if max(map(len, numbers)) > 9:
        raise InputError(f"lark: {name} repeats something more than 10^9 times: lower that")
    low, high = int(numbers[0]), int(numbers[-1])
    if not 0 <= low <= high:
        raise InputError(f"lark: {name} repeats something {low}..{high} times: the numbers go up from 0")
    return low, high
