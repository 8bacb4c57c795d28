"""Languages that no automaton holds: a checker on the host says which tokens may follow a text (llguidance).

What is needed beside a mask is an end: a text that is begun must be closed within the columns that are left. So every place
in a text has a `closing`, found by search and remembered by what may follow.
"""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdlm import distribution
from jaxdlm.argument import shown
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.grammar import schemas
from jaxdlm.grammar.spelling import Spelling

PLACES = 4096  # texts whose place is remembered
LEVEL, ALIKE = 96, 6  # places of a level of the search for an end; of these, with the same tokens behind them
MOST_PLACES = 20_000  # of a search
LONGEST = 512  # tokens of the shortest text that is looked for
CONTEXTS, NONE = 512, np.iinfo(np.int32).max  # places whose tokens are remembered; no end was found
FEW = 64  # tokens that may follow, up to which each is tried for an end
SPARE = 16  # tokens beyond what an end needs, from which on many tokens are not tried


class Matcher(Protocol):
    """A place in a text, as llguidance has it."""

    def deep_copy(self) -> "Matcher": ...
    def is_accepting(self) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def try_consume_tokens(self, tokens: list[int]) -> int: ...
    def validate_tokens(self, tokens: list[int]) -> int: ...
    def compute_ff_tokens(self) -> list[int]: ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Checked:
    """A set of texts that may be nested without bound, as a checker over the ids of one tokenizer. Made by `jaxdlm.grammar`
    with depth=None.

    Whatever tokens spell a text belong to it; where a text can go on in one way only, `mask` has one spelling of it, the
    longest tokens. Behind a text come any number of tokens that end one. Equal are those with the same words for the same
    tokenizer.

    Attributes:
        words: what it was made of, "json:depth=None".
        fingerprint: of the tokenizer's letters, its ends and the number of its ids.
        number: what programs know it by, in this process.
        live: bool[V], tokens that some text may hold.
        ends: ids that end a text.
        shortest: the ids of a short text, without an end.
    """

    words: str
    fingerprint: str
    number: int
    live: np.ndarray
    ends: tuple[int, ...]
    shortest: tuple[int, ...]
    closer: "Closer"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Checked):
            return NotImplemented
        return (self.words, self.fingerprint) == (other.words, other.fingerprint)

    def __hash__(self) -> int:
        return hash((self.words, self.fingerprint))

    def __repr__(self) -> str:
        """One line."""
        return f"<Checked {shown(self.words)}: a text has {self.min_tokens} tokens>"

    @property
    def drafts(self) -> bool:
        """What is forced comes by the mask alone."""
        return False

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest text that is known."""
        return len(self.shortest)

    def accepts(self, ids: Iterable[int]) -> bool:
        """Whether the tokens are a text and any number of ends behind it."""
        text = tuple(itertools.takewhile(lambda each: each not in self.ends, tokens := [int(each) for each in ids]))
        place = self.place(text)
        return place is not None and place.is_accepting() and all(each in self.ends for each in tokens[len(text) :])

    def place(self, text: tuple[int, ...]) -> Matcher | None:
        """The place behind some tokens; None where no text begins with them."""
        return self.closer.place(text)

    def closing(self, place: Matcher, room: int) -> list[int] | None:
        """At most `room` tokens that make a text of what is written; None: none were found."""
        return self.closer.closing(place, room)

    def allowed(self, text: tuple[int, ...], room: int) -> np.ndarray:
        """bool[V]: the tokens that may follow when so many may still be written, ends among them; none behind a wrong text.

        A token is left out where no end within the room is known behind it. All are tried where few may follow, or the
        room is nearly used up; of many then those behind which the known end still is one.
        """
        place, mask = self.place(text), np.zeros(self.live.size, bool)
        if place is None or room < 1:
            return mask
        if place.is_accepting():
            mask[list(self.ends)] = True
        own = self.closer.mask(place)
        tokens = np.flatnonzero(own)
        end = self.closing(place, room)
        if end is None:
            return mask
        if tokens.size > FEW and room > len(end) + SPARE + 2 * self.min_tokens:
            return mask | own
        mask[end[:1]] = True
        if tokens.size <= FEW:
            mask[tokens[self.closer.lengths(place, tokens, end, room) < room]] = True
        elif room > len(end):
            mask[self.closer.before(place, tokens, (*end, self.ends[0]))] = True
        return mask


class Closer:
    """Places of texts, and how each is ended best."""

    def __init__(self, start: Matcher, spelling: Spelling, words: Callable[[Matcher], np.ndarray]) -> None:
        self._words, self._live = words, spelling.live
        self._ends = np.array(spelling.ends)
        self._places: collections.OrderedDict[tuple[int, ...], Matcher] = collections.OrderedDict({(): start})
        self._start, self._lock = start, threading.RLock()
        self._hints: dict[bytes, int] = {}
        self._known: collections.OrderedDict[Any, np.ndarray] = collections.OrderedDict()
        pieces = spelling.contexts[0]
        tokens = np.flatnonzero(spelling.live & (pieces.lengths > 0))
        tokens = tokens[np.argsort(pieces.lengths[tokens], kind="stable")]
        first, index = np.unique(pieces.data[pieces.start[tokens]], return_index=True)
        self._letters, self._ascii = tokens[index], first < 128

    def letters(self, mask: np.ndarray) -> np.ndarray:
        """The shortest tokens of each first letter that a mask allows; parts of letters beyond ASCII where there is no other."""
        own = self._letters[mask[self._letters] & self._ascii]
        return own if own.size else self._letters[mask[self._letters]]

    def place(self, text: tuple[int, ...]) -> Matcher | None:
        with self._lock:
            cut = len(text)
            while cut and text[:cut] not in self._places:
                cut -= 1
            if cut == len(text):
                self._places.move_to_end(text) if text else None
                return self._places[text] if text else self._start
            place = (self._places[text[:cut]] if cut else self._start).deep_copy()
            rest = list(text[cut:])
            if not self._live[rest].all() or place.try_consume_tokens(rest) < len(rest):
                return None
            self._places[text] = place
            while len(self._places) > PLACES:
                self._places.popitem(last=False)
            return place

    def mask(self, place: Matcher) -> np.ndarray:
        """bool[V]: the tokens that may follow, without ends."""
        bits = np.unpackbits(self._words(place).view(np.uint8), bitorder="little")[: self._live.size].astype(bool)
        bits[self._ends] = False
        return bits & self._live

    def lengths(self, place: Matcher, tokens: np.ndarray, end: Sequence[int], room: int) -> np.ndarray:
        """int[N]: of each of the tokens that may follow, those of an end behind it; NONE where none was found."""
        most = max(room, LONGEST)

        def length(token: int) -> int:
            after = place.deep_copy()
            text = self.closing(after, most) if after.try_consume_tokens([token]) == 1 else None
            return NONE if text is None else len(text)

        return self._once(
            (self.name(place), tuple(end), most), lambda: np.array([length(each) for each in tokens.tolist()])
        )

    def before(self, place: Matcher, tokens: np.ndarray, end: tuple[int, ...]) -> np.ndarray:
        """Those of the tokens that may follow behind which the end still is one."""

        def stays(token: int) -> bool:
            return place.validate_tokens([token, *end]) > len(end)

        return self._once(
            (self.name(place), end), lambda: np.array([each for each in tokens.tolist() if stays(each)], int)
        )

    def _once(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What is made by trying every token, kept: places with the same tokens behind them and the same end are alike (the
        letters of a string are many such places, and to try all tokens at each takes half a second)."""
        with self._lock:
            if key not in self._known:
                self._known[key] = make()
            self._known.move_to_end(key)
            while len(self._known) > CONTEXTS:
                self._known.popitem(last=False)
            return self._known[key]

    def closing(self, place: Matcher, room: int) -> list[int] | None:
        """By what has led to an end before, else by search."""
        at, text = place.deep_copy(), list[int]()
        while len(text) <= max(room, LONGEST):
            if at.is_accepting():
                return text if len(text) <= room else None
            more = at.compute_ff_tokens()
            if not more:
                hint = self._hints.get(self.name(at))
                if hint is None:
                    break
                more = [hint]
            if at.try_consume_tokens(more) < len(more):
                break
            text += more
        with self._lock:
            return self._search(place, room)

    def name(self, place: Matcher) -> bytes:
        return self._words(place).tobytes()

    def _search(self, place: Matcher, room: int) -> list[int] | None:
        """Level by level; of places with the same tokens behind them, few. At least to LONGEST tokens, so that it is known
        from then on, however little room there is."""
        level: list[tuple[Matcher, list[int]]] = [(place, [])]
        spent = 0
        while level and spent < MOST_PLACES:
            ended = next((text for at, text in level if at.is_accepting()), None)
            if ended is not None:
                self._remember(place, ended)
                return ended if len(ended) <= room else None
            level = self._next_level(level, max(room, LONGEST))
            spent += len(level)
        return None

    def _next_level(self, level: Sequence[tuple[Matcher, list[int]]], room: int) -> list[tuple[Matcher, list[int]]]:
        behind: list[tuple[Matcher, list[int]]] = []
        alike: collections.Counter[bytes] = collections.Counter()
        for at, text in _from_both_ends(level):
            own: set[bytes] = set()  # one of the letters of a string is as good as another
            forced = at.compute_ff_tokens()
            for more in [forced] if forced else self.letters(self.mask(at))[:, None].tolist():
                after = at.deep_copy()
                if len(text) + len(more) > room or after.try_consume_tokens(more) < len(more):
                    continue
                name = self.name(after)
                if name in own or alike[name] >= ALIKE:
                    continue
                own.add(name)
                alike[name] += 1
                behind.append((after, [*text, *more]))
        return _from_both_ends(sorted(behind, key=lambda each: len(each[1])))[:LEVEL]

    def _remember(self, place: Matcher, text: Sequence[int]) -> None:
        at = place.deep_copy()
        for token in text:
            self._hints.setdefault(self.name(at), token)
            at.try_consume_tokens([token])


def _from_both_ends(level: Sequence[Any]) -> list[Any]:
    """First, last, second, last but one, ...: of places by their length, short texts may be near an end, and long ones have
    most of what is forced behind them; neither shall crowd out the other."""
    half = -(-len(level) // 2)
    pairs = itertools.zip_longest(level[:half], level[: half - 1 : -1])
    return [each for pair in pairs for each in pair if each is not None]


_made: dict[tuple[str, str], Checked] = {}
_tokenizers: dict[str, Any] = {}
_lock = threading.Lock()


def checked(words: str, spelling: Spelling, grammar: Callable[[Any], str], what: str) -> Checked:
    """The language of a grammar that `grammar(LLMatcher)` states, kept by its words and the tokenizer.

    Raises InputError where the package is missing, what it refuses, and where no text is found.
    """
    with _lock:
        key = (words, spelling.fingerprint)
        if key not in _made:
            start, words_of = _matcher(spelling, grammar, what)
            closer = Closer(start, spelling, words_of)
            shortest = closer.closing(start, LONGEST)
            if shortest is None:
                raise InputError(f"{what} has no text of {LONGEST} tokens or fewer that could be found: correct it")
            _made[key] = Checked(
                words, spelling.fingerprint, len(_made), spelling.live, spelling.ends, tuple(shortest), closer
            )
        return _made[key]


def by_number(number: int) -> Checked:
    """The language that a program knows by this number."""
    return next(itertools.islice(_made.values(), number, None))


def _matcher(
    spelling: Spelling, grammar: Callable[[Any], str], what: str
) -> tuple[Matcher, Callable[[Matcher], np.ndarray]]:
    """(the place before the first token, what reads the mask of a place)."""
    try:
        import llguidance
        import llguidance.numpy
    except ImportError:
        raise InputError(
            f"{what}: a language without a bound is checked by the package llguidance: {distribution.install('grammar')}, "
            f"or give depth="
        ) from None
    if len(spelling.contexts) > 1:
        raise InputError(
            f"{what}: a language without a bound needs tokens that spell the same wherever they stand, as byte-level "
            f"tokenizers have, and this one puts spaces between words: give depth="
        )
    if spelling.fingerprint not in _tokenizers:
        _tokenizers[spelling.fingerprint] = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Letters(spelling)), n_vocab=spelling.live.size, eos_token=list(spelling.ends)
        )
    place = llguidance.LLMatcher(_tokenizers[spelling.fingerprint], grammar(llguidance.LLMatcher), log_level=0)
    if place.is_error():
        reason = " ".join(place.get_error().split())
        raise InputError(f"{what} is refused by llguidance ({reason:.200}): correct it")

    def words(place: Any) -> np.ndarray:
        bits = llguidance.numpy.allocate_token_bitmask(1, spelling.live.size)
        llguidance.numpy.fill_next_token_bitmask(place, bits, 0)
        return np.asarray(bits[0])

    return place, words


class _Letters:
    """A tokenizer as llguidance reads it: the bytes of every id, and a way to spell text, the longest token first."""

    def __init__(self, spelling: Spelling) -> None:
        pieces = spelling.contexts[0]
        data, start = pieces.data.tobytes(), pieces.start.tolist()
        dead = ~(spelling.live & (pieces.lengths > 0))
        self.tokens = [
            b"\xff[%d]" % token if dead[token] else data[start[token] : start[token + 1]] for token in range(dead.size)
        ]
        self.special_token_ids = np.flatnonzero(dead).tolist()
        self.eos_token_id, self.bos_token_id = spelling.ends[0], None
        self._known, self._longest = spelling.tokens[0], spelling.longest[0]

    def __call__(self, text: bytes) -> list[int]:
        ids, at = list[int](), 0
        while at < len(text):
            size = next((n for n in range(self._longest, 0, -1) if text[at : at + n] in self._known), 0)
            if not size:
                return ids
            ids.append(self._known[text[at : at + min(size, len(text) - at)]][0])
            at += size
        return ids


def closed(schema: Any, path: str = "#") -> Any:
    """The schema as `schemas` reads it: an object has no members but its properties, and a schema without a type has those
    that its keywords belong to. Raises InputError for a keyword that is not known."""
    if not isinstance(schema, dict):
        return schema
    inner: dict[str, Any] = {}
    for key, value in schema.items():
        where = f"{path}/{key}"
        if key not in schemas.KNOWN:
            raise InputError(f"json_schema {where} is not supported{did_you_mean(key, schemas.KNOWN)}: leave it out")
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            inner[key] = {name: closed(each, f"{where}/{name}") for name, each in value.items()}
        elif key in ("prefixItems", "anyOf", "oneOf", "allOf") and isinstance(value, list):
            inner[key] = [closed(each, f"{where}/{index}") for index, each in enumerate(value)]
        else:
            inner[key] = closed(value, where) if key in ("items", "additionalProperties") else value
    if "type" not in inner and not set(schemas.ALONE) & inner.keys():
        own = [kind for kind, keys in schemas.KEYWORDS.items() if kind != "integer" and set(keys) & inner.keys()]
        inner |= {"type": own} if own else {}
    return inner | ({"additionalProperties": False} if inner.get("properties") else {})


LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}
