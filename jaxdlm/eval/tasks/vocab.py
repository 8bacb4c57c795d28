"""The closed word-level vocabulary of the embedded benchmark and its text form.

One token is one semantic unit (a name, a digit, a bracket), so closed forms about items hold token by token and
decode(encode(text)) is the identity on canonical text: tokens joined by one space, no space between digits,
around a newline or after an indent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxdlm.errors import InputError
from jaxdlm.text import join as join  # one joining rule for the benchmark and the tokenizer

SIZE = 512
PAD, MASK, EOS, BOS, USER, ASST, SYS, EOT, NEWLINE, TAB, UNK = range(11)
SPECIAL = ("<pad>", "<mask>", "<eos>", "<bos>", "<user>", "<asst>", "<sys>", "<eot>")
INDENT = "    "


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    """Alan Alma Amir Anna Bela Boris Carl Cora Dana David Dora Edgar Elena Emil Erik Esther Fay Felix Fiona Frank
    Gina Grant Greta Hana Henry Hugo Ida Igor Ines Ivan Jack Jane Jessica Jonas Kate Kofi Kurt Lara Leo Lily Lucas
    Maria Max Mila Nadia Noah Nora Olga Omar Oscar Paula Peter Quinn Rita Ruth Sara Simon Tara Tom Uma Vera Victor
    Yara Zoe"""
)
LAST_NAMES = _words(
    """Abbott Adler Banks Berg Brown Burns Chen Clark Cohen Cruz Diaz Dixon Dunn Ellis Evans Farah Fox Fuchs Garcia
    Gray Hale Hill Holt Hunt Irwin Ito Jones Kaya Keller Kim King Lang Lopez Lund Marsh Mendez Moore Nash Novak Ochoa
    Olsen Park Patel Pham Quist Ramos Reed Rossi Sato Shaw Silva Stone Tan Tate Tran Usher Vance Vega Wade Walsh Webb
    Wolf Young Zhang"""
)
# noun -> plural; the animate ones can be subjects of any verb, the rest are things
PEOPLE = {
    "boy": "boys", "girl": "girls", "king": "kings", "farmer": "farmers", "teacher": "teachers", "doctor": "doctors",
    "cat": "cats", "dog": "dogs", "bird": "birds", "horse": "horses", "wolf": "wolves", "bear": "bears",
    "owl": "owls", "elephant": "elephants",
}  # fmt: skip
THINGS = {
    "apple": "apples", "orange": "oranges", "egg": "eggs", "book": "books", "coin": "coins", "pen": "pens",
    "ball": "balls", "bag": "bags", "box": "boxes", "river": "rivers", "tree": "trees", "house": "houses",
    "garden": "gardens", "road": "roads", "boat": "boats", "cup": "cups", "lamp": "lamps", "door": "doors",
    "flower": "flowers", "stone": "stones", "island": "islands", "hill": "hills", "hat": "hats", "key": "keys",
}  # fmt: skip
# verb in the third person singular -> plural
VERBS = {
    "sees": "see", "likes": "like", "finds": "find", "follows": "follow", "paints": "paint", "watches": "watch",
    "hears": "hear", "carries": "carry", "draws": "draw", "loves": "love", "knows": "know", "keeps": "keep",
    "wants": "want", "brings": "bring", "sleeps": "sleep", "sings": "sing", "runs": "run", "waits": "wait",
    "smiles": "smile", "jumps": "jump", "says": "say",
}  # fmt: skip
ADJECTIVES = _words(
    """red blue green black white old young small big tall quiet loud happy angry empty open cold warm dark bright
    round heavy clean new sweet slow fast brave kind rich"""
)
FUNCTION_WORDS = _words(
    """the a an is are of and or by with at in on under near to from for not no any anywhere all each every item items
    groups then first last name data task question pick rho copy reverse sort replace insert remove shuffle rotate
    latin square sudoku add reversed subtract write sentence he she it they He She They his her their him them The An
    This There has have had buys gives loses eats sells more many much How does do left away now so that who
    when while tea milk total another same twice half into packs price costs how makes day week"""
)
CODE_WORDS = _words(
    """def return if else lambda sorted sum len max min map filter list range f x y xs double triple negate keep even
    odd smallest largest True False None function its"""
)
PUNCTUATION = _words("[ ] ( ) , . : ? ! / | + - * % = == < > <= >= != -> #### ' \" { } ; _ // **")


def _build() -> tuple[str, ...]:
    tokens: list[str] = [*SPECIAL, "\n", INDENT, "<unk>"]
    tokens += [f"<reserved{i}>" for i in range(len(tokens), 16)]
    tokens += [str(i) for i in range(10)]
    tokens += [chr(ord("A") + i) for i in range(26)]
    words = [*PUNCTUATION, *FIRST_NAMES, *LAST_NAMES]
    for table in (PEOPLE, THINGS, VERBS):
        words += [*table.keys(), *table.values()]
    words += [*ADJECTIVES, *FUNCTION_WORDS, *CODE_WORDS]
    tokens += [word for word in dict.fromkeys(words) if word not in set(tokens)]
    tokens += [f"<reserved{i}>" for i in range(len(tokens), SIZE)]
    return tuple(tokens)


TOKENS = _build()
IDS = {token: i for i, token in enumerate(TOKENS)}


def words(text: str) -> list[str]:
    """Tokens of canonical text; newline and a 4-space indent at a line start are tokens, numbers split into digits."""
    out: list[str] = []
    for row, line in enumerate(text.split("\n")):
        if row:
            out.append("\n")
        if line.startswith(INDENT):
            out.append(INDENT)
        for word in line.split():
            if word.isdigit():
                out.extend(word)
            else:
                out.append(word)
    return out


def encode(tokens: Sequence[str]) -> list[int]:
    """Ids of tokens. Raises InputError for a word outside the vocabulary."""
    try:
        return [IDS[token] for token in tokens]
    except KeyError as error:
        raise InputError(f"word {error.args[0]!r} is not in the closed vocabulary of the embedded models") from None


def tokens_of(ids: Iterable[int]) -> list[str]:
    """Tokens of ids, up to the first end-of-text id (not included)."""
    out: list[str] = []
    for i in ids:
        if int(i) == EOS:
            break
        out.append(TOKENS[int(i)])
    return out


def decode(ids: Iterable[int]) -> str:
    """Canonical text of ids, cut at the first end-of-text id."""
    return join(tokens_of(ids))
