"""The functions that make a grammar: from an expression, a list, a schema, or nothing."""

import functools
import itertools
import json as standard
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm.argument import shown
from jaxdlm.errors import InputError
from jaxdlm.grammar import checked as checker
from jaxdlm.grammar import context_free, patterns, schemas, slotted, store, syntax
from jaxdlm.grammar.automaton import MOST_STATES, automaton
from jaxdlm.grammar.checked import Checked
from jaxdlm.grammar.grammar import BUCKETS, Grammar
from jaxdlm.grammar.slotted import Skeleton
from jaxdlm.grammar.spelling import Spelling, spelling_of
from jaxdlm.grammar.syntax import Node
from jaxdlm.grammar.tokens import FAR, MOST_ENTRIES, TokenTable, token_table

MOST_CHOICES = 2**16
MOST_LETTERS = 2**19  # of all choices together


def regex(pattern: str, lm: Any) -> Grammar:
    r"""The texts that `re.fullmatch(pattern, text, re.ASCII)` accepts.

    Python's syntax of regular expressions. `.` is any character but a newline (all with (?s)); `\d`, `\w` and `\s` are
    those of ASCII, as JSON Schema has them, and those of Unicode with (?u).

    Args:
        pattern: a regular expression: no look-around, back-references, atomic groups or possessive quantifiers; anchors
            at the ends only; flags s, x, a and u.
        lm: the model, for the letters of its tokens.

    Raises:
        InputError: an expression that does not parse, is not regular, has no text or no text of these tokens, or takes
            more than 16,384 states.

    Source: token automata of arXiv 2307.09702. Departure: no transition of the byte automaton is left out, also those
    behind an accepted prefix.

    Examples:
        >>> import jaxdlm as jd
        >>> from jaxdlm import grammar
        >>> lm = jd.load("tiny")
        >>> grammar.regex(r"[1-9]\d*", lm).accepts(lm.tokenizer.encode_inside("42"))
        True
    """
    return _made(f"regex:{argument.text(pattern, 'pattern')}", lm, lambda: patterns.parse(pattern))


def choices(texts: Iterable[str], lm: Any) -> Grammar:
    """One of these texts, letter by letter; what spells a control token in them stays letters.

    Args:
        texts: strings, none empty, none twice; up to 65,536.
        lm: the model, for the letters of its tokens.

    Raises:
        InputError: no or too many texts, an empty one, two equal ones (both are named), one that is no text, or texts of
            which tokens spell none.

    Examples:
        >>> import jaxdlm as jd
        >>> from jaxdlm import grammar
        >>> grammar.choices(["Alan", "Alan Kate"], jd.load("tiny"))
        <Grammar 'choices:["Alan", "Alan Kate"]': 4 states, 4 classes, at least 1 token>
    """
    known = _choices(texts)
    return _made(f"choices:{standard.dumps(known, ensure_ascii=False)}", lm, lambda: _spelled(known, spelling_of(lm)))


def _spelled(texts: list[str], spelling: Spelling) -> Node:
    """The tree of the texts; InputError for one that tokens do not spell, which would be no choice."""
    for index, each in enumerate(texts):
        if not spelling.spells(each.encode()):
            raise InputError(
                f"choices[{index}]={shown(each)} cannot be spelled by the tokens of this model: write it by the words that "
                f"it has, with the spaces that it puts between them"
            )
    return syntax.words(texts)


def _choices(texts: Any) -> list[str]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        argument.refuse(texts, "choices", 'a list of strings, ["yes", "no"]')
    known = list(itertools.islice(texts, MOST_CHOICES + 1))
    if not known:
        raise InputError("choices is empty: give at least one text")
    first: dict[str, int] = {}
    for index, each in enumerate(known):
        name = f"choices[{index}]"
        if not argument.text(each, name):
            raise InputError(f"{name} is empty: leave it out, or give a text for it")
        if first.setdefault(each, index) != index:
            raise InputError(f"choices[{first[each]}] and {name} are both {shown(each)}: leave one out")
        _check_text(each, name)
        if len(each) >= MOST_STATES:  # a text takes a state per letter and more
            raise InputError(f"{name} has {len(each):,} letters: give a text of less than {MOST_STATES:,}")
    if len(known) > MOST_CHOICES or sum(map(len, known)) > MOST_LETTERS:
        raise InputError(
            f"choices has more than {MOST_CHOICES:,} texts or {MOST_LETTERS:,} letters: give fewer or shorter ones"
        )
    return known


def _check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} is not valid text at {error.start}: it holds half of a surrogate pair") from None


def json_schema(schema: Any, lm: Any, *, whitespace: str | None = None, depth: int | None = 2) -> Grammar | Checked:
    """The values that a JSON schema allows, written as `json.dumps(value, ensure_ascii=False)` writes them.

    One layout: `, ` and `: ` between, members in the schema's order, no other white space, no escape that a character
    does not need; control characters other than \\b \\f \\n \\r \\t cannot be written. So a text is one sentence, and
    what a model may write is as narrow as can be. Numbers may have any form that JSON has.

    An object has no members but its `properties`, whatever `additionalProperties` says beside them; one without
    properties has any, or those of `additionalProperties`. `oneOf` is `anyOf`: values that fit two of its options are
    allowed. A schema without a type has the one that its keywords belong to.

    Args:
        schema: a dict, a boolean, or the text of one. Keywords: type (a list, too), enum, const, anyOf, oneOf, allOf of
            one, $ref into the schema (no recursion), nullable; properties, required, additionalProperties; items,
            prefixItems, minItems, maxItems; minLength, maxLength, pattern or format (date, time, date-time, uuid, email);
            minimum, maximum, exclusiveMinimum, exclusiveMaximum. Annotations (title, description, default, examples, ...)
            change nothing.
        lm: the model, for the letters of its tokens.
        whitespace: a regular expression of what stands wherever JSON allows white space, in place of the layout;
            default " ?" for a tokenizer of words, which puts spaces between them and cannot write the layout.
        depth: how deep values are nested where the schema allows any; 0: no objects and lists there. None: without bound,
            schemas that recur among them, by a checker on the host (see `lark`).

    Raises:
        InputError: a keyword that is not known, by its path; a schema without values, one that recurs, or one whose
            automaton takes more than 16,384 states (maxLength costs about ten per character).

    Examples:
        >>> import jaxdlm as jd
        >>> from jaxdlm import grammar
        >>> lm = jd.load("tiny")
        >>> digits = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 3}
        >>> made = grammar.json_schema(digits, lm)
        >>> made.accepts(lm.tokenizer.encode_inside("[ 1 , 23 ]"))
        True
    """
    known = schemas.read(schema)
    if depth is None:
        argument.unused("with depth=None", whitespace=(whitespace, None))
        return _of_schema(checker.closed(known), lm, f"json_schema {shown(schema)}")
    depth, whitespace = argument.whole(0, schemas.DEEPEST)(depth, "depth"), _white_space(whitespace, lm)
    words = f"json_schema:{standard.dumps(known, ensure_ascii=False)}{_options(whitespace=whitespace, depth=depth)}"
    return _made(words, lm, lambda: schemas.schema(known, schemas.layout(whitespace), depth))


def json(lm: Any, depth: int | None = 3, *, objects: bool = False, whitespace: str | None = None) -> Grammar | Checked:
    """Any JSON value with up to `depth` objects and lists inside each other; 0: none.

    The language is not regular without a bound; within one it is a part of JSON, so that whatever is written parses.
    States grow by about 2.2 per level. The layout is that of `json_schema`.

    Args:
        lm: the model, for the letters of its tokens.
        depth: 0 to 6. None: without bound, by a checker on the host (see `lark`).
        objects: only objects at the top, as OpenAI's `json_object` has it.
        whitespace: as in `json_schema`.

    Raises:
        InputError: a depth out of range.

    Examples:
        >>> import jaxdlm as jd
        >>> from jaxdlm import grammar
        >>> lm = jd.load("tiny")
        >>> grammar.json(lm, depth=1).accepts(lm.tokenizer.encode_inside('[ " Alan " , 7 ]'))
        True
    """
    argument.flag(objects, "objects")
    if depth is None:
        argument.unused("with depth=None", whitespace=(whitespace, None))
        return _of_schema({"type": "object"} if objects else True, lm, "json")
    depth = argument.whole(int(objects), schemas.DEEPEST)(depth, "depth")
    whitespace = _white_space(whitespace, lm)
    words = f"json:{depth}{_options(whitespace=whitespace, objects=objects)}"
    return _made(words, lm, lambda: schemas.anything(depth, schemas.layout(whitespace), objects))


def lark(text: str, lm: Any, *, depth: int | None = 3, start: str = "start") -> Grammar | Checked:
    """The sentences of a context-free grammar, written in the language of Lark, with bounded recursion.

    L_D = the sentences with a derivation in which at most D references, one inside the other, lead back to a rule that is
    being written out: L_0 ⊆ L_1 ⊆ ... ⊆ L, never more than L. Brackets in brackets count, `list: list "," item | item`
    does not: where a rule refers to itself at its beginning only, or at its end only, it is a repetition. A grammar
    without other recursion is exact and needs no bound.

    A terminal has the texts that its expression matches as a whole, in Unicode; how a lexer would choose among several is
    not part of the language, which is that of Lark's Earley parser with `lexer="dynamic_complete"`. That one takes the
    first option of an expression that fits: write the longer before the shorter, as in `/1[.]5|1/`. What `%ignore` names
    may stand before, between and behind terminals. Names, aliases, `?`, `!` and priorities change no text.

    Args:
        text: rules and terminals: sequences, alternatives, groups, `?`, `*`, `+`, `~n..m`, `[...]`, strings (i, too), ranges,
            regular expressions (those of `regex` without anchors and lazy quantifiers), `%ignore`, `%override`, `%extend`,
            and `%import` of what comes with Lark, as in `common.ESCAPED_STRING`. No templates.
        lm: the model, for the letters of its tokens.
        depth: D, 0 to 32. States grow about as D, or by a factor per level where there are several kinds of brackets
            (JSON: 2.1). None: L itself, by a checker on the host instead of an automaton on the device, as llguidance reads
            the text: its lexer takes the longest terminal, and `start` is the rule of that name. Every answer still belongs
            and ends in time; a diffusion model writes what agrees with a text that is kept beside it (a witness), which
            may take more forwards, and an autoregressive one asks for a mask per token. For byte-level tokenizers.
        start: the rule that is a whole answer.

    Raises:
        InputError: the package lark is missing (the extra `grammar`); text that Lark does not load or that uses what is
            not supported, by name; a rule that `start` does not use; a depth at which there is no sentence (with one at
            which there is), or at which the automaton is too large.

    Source: bounded-depth under-approximation by finite automata; left recursion after Arden's rule. Language of grammars:
    Lark 1.3.

    Examples:
        >>> import jaxdlm as jd
        >>> from jaxdlm import grammar
        >>> lm = jd.load("tiny")
        >>> text = '''start: "[" (start | "Alan")* "]"
        ... %ignore " " '''
        >>> grammar.lark(text, lm, depth=1).accepts(lm.tokenizer.encode_inside("[ Alan [ Alan ] ]"))
        True
    """
    argument.text(start, "start")
    if depth is None:
        argument.unused("with depth=None", start=(start, "start"))
        return _checked(f"lark:{argument.text(text, 'lark')}", lm, lambda matcher: matcher.grammar_from_lark(text))
    depth = argument.whole(0, context_free.DEEPEST)(depth, "depth")
    words = f"lark:depth={depth} {start} {argument.text(text, 'lark')}"
    return _made(words, lm, lambda: context_free.tree(text, depth, start))


def skeleton(schema: Any, lm: Any, *, columns: int | Mapping[str, int] = 8, depth: int = 2) -> Skeleton:
    """A canvas on which the keys and marks of an object stand already, for diffusion models to write the values into.

    Every value has so many columns of its own, and what it leaves of them is spaces, which JSON allows there: no forward is
    spent on what is certain, and all values can be written at once, each seeing the keys on both sides. Pass it to `decode`
    as its grammar; max_new is then the columns of the canvas.

    Args:
        schema: of an object, whose properties are all written; objects in it have their keys written, too. Other values have
            the keywords of `json_schema`.
        lm: a diffusion model whose tokenizer can write a single space.
        columns: of every value, or per value by its path, {"name": 6, "address.city": 4}.
        depth: as in `json_schema`.

    Raises:
        InputError: as `json_schema`; a schema without properties; a model without masks; keys that the tokenizer spells
            otherwise; columns of no value, or too few for the shortest one, by name.

    Examples:
        >>> import jaxdlm as jd
        >>> person = {"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
        >>> jd.grammar.skeleton(person, jd.load("tiny"), columns={"name": 8, "age": 3})
        Traceback (most recent call last):
            ...
        jaxdlm.errors.InputError: a skeleton fills up with spaces, and this tokenizer has no token for one: give json_schema=
    """
    known, spelling = schemas.read(schema), spelling_of(lm)
    if lm.config.tokens.mask is None:
        raise InputError(
            "a skeleton is filled in by a diffusion model, and this model has no mask: give it json_schema="
        )
    if b" " not in spelling.tokens[-1]:
        raise InputError("a skeleton fills up with spaces, and this tokenizer has no token for one: give json_schema=")
    depth = argument.whole(0, schemas.DEEPEST)(depth, "depth")
    parts = slotted.joined(slotted.pieces(known))
    slots = [part for part in parts if isinstance(part, slotted.Slot)]
    width = slotted.widths(columns, slots)
    words = f"{standard.dumps(known, ensure_ascii=False)}{_options(depth=depth)}"
    for slot in slots:
        make = functools.partial(slotted.tree, [slot], known, depth)
        own = _made(f"skeleton:{slot.name} of {words}", lm, make)
        if own.min_tokens > width[slot.name]:
            raise InputError(
                f"columns[{shown(slot.name)}] is {width[slot.name]}, and its shortest value takes {own.min_tokens}: give more"
            )
    made = _made(f"skeleton:{words}", lm, lambda: slotted.tree(parts, known, depth))
    canvas, places = slotted.laid_out(parts, width, lm)
    text = "".join(part for part in parts if isinstance(part, str))
    if lm.tokenizer.decode(canvas[canvas != lm.config.tokens.mask].tolist()) != text:
        raise InputError("a skeleton needs a tokenizer that spells keys as they are: give json_schema=")
    return Skeleton(made, canvas, places)


def _of_schema(schema: Any, lm: Any, what: str) -> Checked:
    words = standard.dumps({} if schema is True else schema, ensure_ascii=False)
    make = lambda matcher: matcher.grammar_from_json_schema(words, overrides=checker.LAYOUT)  # noqa: E731
    return _checked(f"json_schema:{words}", lm, make, what)


def _checked(words: str, lm: Any, grammar: Callable[[Any], str], what: str | None = None) -> Checked:
    kind, _, rest = words.partition(":")
    _check_text(rest, kind)
    return checker.checked(f"{kind}:depth=None {rest}", spelling_of(lm), grammar, what or f"{kind} {shown(rest)}")


def _white_space(stated: str | None, lm: Any) -> str | None:
    """What may stand where JSON allows white space; None: the layout of `json.dumps`."""
    tokenizer = argument.model(lm).tokenizer
    return " ?" if stated is None and tokenizer is not None and tokenizer.join_words else stated


def _options(**options: Any) -> str:
    """The options that are set, as a part of the words."""
    return "".join(f" {name}={value!r}" for name, value in options.items() if value is not None and value is not False)


def unconstrained(lm: Any) -> Grammar:
    """Every token that decoding may write: neither the mask nor an id beyond the tokenizer. One live state, one class.

    For rows without a grammar beside rows with one: whatever a rule or a guide makes of it, they decode as if it were
    not there. Needs no tokenizer.
    """
    tokens, size = argument.model(lm).config.tokens, lm.config.vocab_size
    known = size if tokens.tokenizer_size is None else min(tokens.tokenizer_size, size)
    live = (np.arange(size) < known) & (np.arange(size) != (-1 if tokens.mask is None else tokens.mask))
    table = np.array([[0, 0], [0, 1]], np.int32)
    return Grammar(
        "unconstrained", f"{known}/{size} but {tokens.mask}", live.astype(np.int32), table, 1, np.array([False, True]),
        np.array([FAR, 0], np.int32), np.array([-1, -1], np.int32),
    )  # fmt: skip


def _made(words: str, lm: Any, tree: Callable[[], Node]) -> Grammar:
    spelling = spelling_of(lm)
    kind, _, rest = words.partition(":")
    _check_text(rest, kind)
    return store.kept(words, spelling.fingerprint, lambda: _table(tree(), spelling, f"{kind} {shown(rest)}"))


def _table(tree: Node, spelling: Spelling, what: str) -> TokenTable:
    table = token_table(automaton(tree, what), spelling, what)
    states, classes = table.next.shape
    padded = [next((size for size in BUCKETS if size >= each), MOST_ENTRIES) for each in table.next.shape]
    if padded[0] * padded[1] > MOST_ENTRIES:
        raise InputError(
            f"{what} is too large for this vocabulary: {states:,} states and {classes:,} classes of tokens make a table of "
            f"more than {MOST_ENTRIES:,} entries: lower its repetitions and lengths, or give fewer choices"
        )
    return table
