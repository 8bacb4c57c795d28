"""Sentences of a small unambiguous grammar (number agreement, a/an, possessives, quotes) with exact probabilities.

S -> C . (0.85) | Name says , " C . " (0.15); C -> NP(n) VP(n), n singular or plural; VP -> verb object (0.7) | verb
(0.3), then `with probability 0.3` a place. Nouns, verbs and adjectives are uniform.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdlm.eval.tasks.base import Draw, Family, Score, choice_of
from jaxdlm.eval.tasks.vocab import ADJECTIVES, FIRST_NAMES, PEOPLE, THINGS, VERBS
from jaxdlm.registry import task

INTRANSITIVE = ("sleeps", "sings", "runs", "waits", "smiles", "jumps")
TRANSITIVE = tuple(verb for verb in VERBS if verb not in (*INTRANSITIVE, "says"))
NOUNS = PEOPLE | THINGS
PREPOSITIONS = ("near", "under", "with")
POSSESSIVE = {"boy": "his", "king": "his", "girl": "her", "cat": "its", "dog": "its", "bird": "its", "horse": "its"}
QUOTED, OBJECT, PLACE, ADJECTIVE, DEFINITE, OWNED = 0.15, 0.7, 0.3, 0.5, 0.5, 0.2


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _possessive(subject: str, plural: bool) -> str:
    return "their" if plural else POSSESSIVE.get(subject, "their")


def _phrase(rng: random.Random, nouns: Mapping[str, str], plural: bool, owner: str | None) -> tuple[list[str], str]:
    noun = rng.choice(list(nouns))
    rest = [rng.choice(ADJECTIVES)] if rng.random() < ADJECTIVE else []
    rest.append(nouns[noun] if plural else noun)
    if owner is not None and rng.random() < OWNED:
        return [owner, *rest], noun
    definite = plural or rng.random() < DEFINITE
    return ["the" if definite else _article(rest[0]), *rest], noun


def sentence(rng: random.Random) -> list[str]:
    """A sentence drawn from the grammar."""
    plural = rng.random() < 0.5
    out, subject = _phrase(rng, PEOPLE, plural, None)
    if rng.random() < OBJECT:
        verb = rng.choice(TRANSITIVE)
        out.append(VERBS[verb] if plural else verb)
        out += _phrase(rng, NOUNS, rng.random() < 0.5, _possessive(subject, plural))[0]
    else:
        verb = rng.choice(INTRANSITIVE)
        out.append(VERBS[verb] if plural else verb)
    if rng.random() < PLACE:
        out += [rng.choice(PREPOSITIONS), *_place(rng)]
    out.append(".")
    if rng.random() < QUOTED:
        return [rng.choice(FIRST_NAMES), "says", ",", '"', *out, '"']
    return out


def _place(rng: random.Random) -> list[str]:
    adjective = [rng.choice(ADJECTIVES)] if rng.random() < ADJECTIVE else []
    return ["the", *adjective, rng.choice(list(THINGS))]


class _Reader:
    """Reads a sentence from the left; adds up log-probabilities; `fail` ends it."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens, self.at, self.log_p = list(tokens), 0, 0.0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, allowed: Sequence[str] | Mapping[str, str], p: float = 1.0) -> str:
        word = self.peek()
        if word not in allowed:
            raise ValueError(f"{word!r} at {self.at}")
        self.at += 1
        self.log_p += math.log(p)
        return word

    def adjective(self) -> str | None:
        if self.peek() in ADJECTIVES:
            return self.take(ADJECTIVES, ADJECTIVE / len(ADJECTIVES))
        self.log_p += math.log(1 - ADJECTIVE)
        return None

    def phrase(self, nouns: Mapping[str, str], owner: str | None) -> tuple[str, bool]:
        """A noun phrase; returns (singular of the noun, plural)."""
        determiner = self.peek()
        self.at += 1
        free = 0.0 if owner is None else math.log(1 - OWNED)
        start = self.adjective()
        single = self.peek() in nouns
        plurals = {plural: noun for noun, plural in nouns.items()}
        word = self.take(nouns if single else plurals, 0.5 / len(nouns))
        if owner is not None and determiner == owner:
            self.log_p += math.log(OWNED)
        elif determiner == "the":
            self.log_p += free + (math.log(DEFINITE) if single else 0.0)
        elif single and determiner == _article(start or word):
            self.log_p += free + math.log(1 - DEFINITE)
        else:
            raise ValueError(f"determiner {determiner!r}")
        return (word, False) if single else (plurals[word], True)

    def clause(self) -> None:
        subject, plural = self.phrase(PEOPLE, None)
        form = {VERBS[verb] if plural else verb: verb for verb in VERBS}
        verb = form.get(self.peek(), "")
        if verb in TRANSITIVE:
            self.take(form, OBJECT / len(TRANSITIVE))
            self.phrase(NOUNS, _possessive(subject, plural))
        elif verb in INTRANSITIVE:
            self.take(form, (1 - OBJECT) / len(INTRANSITIVE))
        else:
            raise ValueError(f"verb {self.peek()!r}")
        if self.peek() in PREPOSITIONS:
            self.take(PREPOSITIONS, PLACE / len(PREPOSITIONS))
            self.take(("the",))
            self.adjective()
            self.take(THINGS, 1 / len(THINGS))
        else:
            self.log_p += math.log(1 - PLACE)
        self.take((".",))


def log_probability(tokens: Sequence[str]) -> float:
    """Exact ln p of a sentence under the grammar; -inf where it is none of its sentences."""
    reader = _Reader(tokens)
    try:
        if reader.peek() in FIRST_NAMES:
            reader.take(FIRST_NAMES, QUOTED / len(FIRST_NAMES))
            for mark in ("says", ",", '"'):
                reader.take((mark,))
            reader.clause()
            reader.take(('"',))
        else:
            reader.log_p += math.log(1 - QUOTED)
            reader.clause()
    except ValueError:
        return -math.inf
    return reader.log_p if reader.at == len(reader.tokens) else -math.inf


def draw(rng: random.Random, m: int | None = None) -> Draw:
    """A sentence that holds m given words (0-4 by default; fewer words leave more entropy)."""
    m = choice_of(rng, m, (0, 1, 2, 3, 4))
    content = {*NOUNS, *NOUNS.values(), *ADJECTIVES, *VERBS, *VERBS.values()} - {"says", "say"}
    while True:
        answer = sentence(rng)
        words = list(dict.fromkeys(word for word in answer if word in content))
        if len(words) >= m:
            break
    asked = rng.sample(words, m)
    listed = [token for i, word in enumerate(asked) for token in ((",", word) if i else ("with", word))]
    question = ("write", "a", "sentence", *listed, ".")
    # no given words: one problem only, so its sentences themselves are split
    key = sorted(asked) if asked else ["free", *answer]
    return Draw({"m": m}, (question,), tuple(answer), {"words": asked}, key)


def check(payload: Mapping[str, Any], tokens: list[str]) -> Score:
    """A sentence of the grammar that contains the given words."""
    legal = math.isfinite(log_probability(tokens))
    correct = legal and set(payload["words"]).issubset(tokens)
    return Score(correct, correct, legal)


TASK = task(Family("text", draw, check, canvas=32, group="text", gate=0.7, order=150))
