"""The ends of an answer: the model's own end-of-text ids, and ids or strings that a caller adds."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdlm.core import compose
from jaxdlm.core.rule import Rule
from jaxdlm.errors import InputError

MOST = 64  # stops of one row


class Stops(NamedTuple):
    """Where rows end while they are decoded, and where their text is cut afterwards.

    sequences: ids that end a row once they stand there and nothing before them is open; () for none.
    ids: single ids before the first of which the text is cut. strings: the same for the text itself, however its
    letters were spelled by tokens.
    """

    sequences: tuple[tuple[int, ...], ...]
    ids: frozenset[int]
    strings: tuple[str, ...] = ()

    def text(self, tokenizer: Any, tokens: Iterable[int]) -> str:
        """The text of generated ids up to the first end, not included."""
        text = tokenizer.decode(self.before(tokens))
        return text[: min((at for at in map(text.find, self.strings) if at >= 0), default=len(text))]

    def before(self, tokens: Iterable[int]) -> list[int]:
        """Generated ids up to the first id that ends the text, not included."""
        text_ids: list[int] = []
        for token in map(int, tokens):
            if token in self.ids:
                break
            text_ids.append(token)
        return text_ids

    def ended(self, tokenizer: Any, tokens: Sequence[int]) -> bool:
        """Whether the text ends before the canvas does."""
        text_ids = self.before(tokens)
        if len(text_ids) < len(tokens) or not self.strings:
            return len(text_ids) < len(tokens)
        text = tokenizer.decode(text_ids)
        return any(word in text for word in self.strings)


def read_stops(lm: Any, stop: Any) -> Stops:
    """The ends that `stop=` means for a model: True, its own ends; False, none; strings and ids, these and its own.

    A string that is a control token (`<|im_end|>`) is its id. Any other string ends a row where it is written by the
    tokens that spell it alone or after other text; spelled otherwise, it only cuts the text. Raises InputError.
    """
    if isinstance(stop, Stops):
        return stop
    ends = lm.config.tokens.eos
    if stop is False:
        return Stops((), frozenset(ends))
    more = [] if stop is True or stop is None else [stop] if isinstance(stop, str | int | np.integer) else stop
    if not isinstance(more, Sequence | np.ndarray | set | frozenset) or len(more) > MOST:
        raise InputError(f"stop={stop!r:.80}: must be True, False, or at most {MOST} strings and token ids")
    ids, strings, sequences = list(ends), [], []
    for item in more:
        if isinstance(item, str):
            one = control_id(lm.tokenizer, item)
            if one is None:
                strings.append(item)
                sequences += spellings(lm, item)
            else:
                ids.append(one)
        else:
            ids.append(_id(lm, item))
    every = dict.fromkeys([(number,) for number in ids] + sequences)
    return Stops(tuple(every), frozenset(ids), tuple(strings))


def ends_wanted(policy: Any, stop: Any) -> Any:
    """`stop=` of a decode; a rule made with official=True runs on as published unless strings or ids are asked for.

    Policies of drafts and targets are no rules, and never official in this sense.
    """
    return False if stop is True and isinstance(policy, Rule) and compose.official(policy) else stop


def control_id(tokenizer: Any, text: str) -> int | None:
    """The id of a control token by its literal; None for any other text."""
    if tokenizer is None or text not in tokenizer.aliases:
        return None
    return tokenizer.backend.token_to_id(tokenizer.aliases[text])


def _id(lm: Any, item: Any) -> int:
    whole = isinstance(item, int | np.integer) and not isinstance(item, bool)
    if not whole or not 0 <= item < lm.config.vocab_size:
        raise InputError(f"stop holds {item!r:.40}: neither a string nor a token id of 0..{lm.config.vocab_size - 1}")
    return int(item)


def spellings(lm: Any, text: str) -> list[tuple[int, ...]]:
    """The ids of a text alone and after other text, as far as the tokenizer spells it apart."""
    if lm.tokenizer is None:
        raise InputError(
            f"stop={text!r:.40} is a string and {lm.name} has no tokenizer: {lm.advice or 'pass token ids'}"
        )
    if not text:
        raise InputError("stop holds an empty string, which every text begins with: leave it out")
    return list(_spellings(lm.tokenizer, text))


@functools.lru_cache(maxsize=256)
def _spellings(tokenizer: Any, text: str) -> tuple[tuple[int, ...], ...]:
    encode = lambda words: tuple(tokenizer.backend.encode(words, add_special_tokens=False).ids)  # noqa: E731
    before, both = encode(BEFORE), encode(BEFORE + text)
    after = both[len(before) :] if both[: len(before)] == before else ()
    known = None if tokenizer.backend.model is None else getattr(tokenizer.backend.model, "unk_token", None)
    unknown = None if known is None else tokenizer.backend.token_to_id(known)
    return tuple(dict.fromkeys(ids for ids in (encode(text), after) if ids and unknown not in ids))


BEFORE = "x"
