"""banned: sequences of tokens that the text must not hold."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core.guide import Context, Guide, class_of, fit
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float32, Int32

MOST = 2048  # ids of all sequences together: the table has up to as many rows and columns


@struct.dataclass
class Banned(Guide):
    """See `banned`. State: where in the automaton of Aho and Corasick (1975) the text stands.

    longest: a state follows from so many last tokens.
    """

    classes: Int32[Array, "V"]  # token id -> class; 0: in no sequence
    next: Int32[Array, "S C"]
    bans: Bool[Array, "S C"]  # whether a token of the class completes a sequence
    longest: int = struct.field(pytree_node=False)

    def check(self, lm: Any, max_new: int) -> None:
        if self.classes.shape[0] != lm.config.vocab_size:
            raise InputError(
                f"banned was made for {self.classes.shape[0]} ids, {lm.name} has {lm.config.vocab_size}: make it with this "
                "model"
            )

    def init(self, context: Context) -> Int32[Array, ""]:
        def further(state: Array, column: Array) -> tuple[Array, None]:
            moved = self.advance(state, context.tokens[jnp.maximum(column, 0)])
            return jnp.where(column >= 0, moved, state), None

        last = context.length - self.longest + jnp.arange(self.longest, dtype=jnp.int32)
        return jax.lax.scan(further, jnp.int32(0), last)[0]

    def transform(self, logits: Float32[Array, "V"], state: Int32[Array, ""]) -> Float32[Array, "V"]:
        return jnp.where(fit(self.bans[state][self.classes], logits.shape[0], False), -jnp.inf, logits)

    def advance(self, state: Int32[Array, ""], token: Int32[Array, ""]) -> Int32[Array, ""]:
        return self.next[state, class_of(self.classes, token)]


def banned(words: Sequence[Any], lm: Any) -> Banned:
    """A guide that forbids every token which would complete one of these sequences in prompt and answer together.

    Args:
        words: strings and sequences of token ids. A string stands for the tokens that spell it alone and behind other
            text, a control token such as `<|im_end|>` for its id; spelled by other tokens a string gets by.
        lm: the model that decodes.

    Raises:
        InputError: no words, empty ones, ids outside the vocabulary, or more than 2048 ids in all.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> policy = jd.autoregressive(guide=jd.guides.banned(["Kate"], lm))
        >>> "Kate" in jd.decode(lm, ["reverse : [ Alan , Kate ]"], policy=policy, max_new=16).text[0]
        False
    """
    argument.model(lm)
    sequences = {ids for at, word in enumerate(_listed(words)) for ids in spelled(lm, word, f"words[{at}]")}
    total = sum(map(len, sequences))
    if total > MOST:
        raise InputError(f"words has {total} ids in all: must be at most {MOST}")
    classes, following, bans = map(jnp.asarray, automaton(sorted(sequences), lm.config.vocab_size))
    return Banned(classes, following, bans, max(map(len, sequences)))


def _listed(words: Any) -> list[Any]:
    if not isinstance(words, list | tuple) or not words:
        argument.refuse(words, "words", "a list of strings and of lists of token ids, at least one")
    return list(words)


def spelled(lm: Any, word: Any, name: str) -> list[tuple[int, ...]]:
    """The sequences of ids that a word stands for."""
    from jaxdlm.stops import control_id, spellings  # which lies above

    if isinstance(word, str):
        if lm.tokenizer is None or not word:
            why = "an empty string" if not word else f"a string, and {lm.name} has no tokenizer"
            raise InputError(f"{name} is {why}: pass text, or token ids")
        control = control_id(lm.tokenizer, word)
        ways: list[tuple[int, ...]] = spellings(lm, word) if control is None else [(control,)]
        return ways or argument.refuse(word, name, f"text that the tokenizer of {lm.name} can spell")
    return [argument.items(word, name, argument.whole(0, lm.config.vocab_size - 1)) or _empty(name)]


def _empty(name: str) -> Any:
    raise InputError(f"{name} is an empty sequence, which every text holds: leave it out")


def automaton(sequences: Sequence[tuple[int, ...]], vocab: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(classes, next, bans): a state for each beginning of a sequence, the longest with which the text ends.

    Sides are powers of two, so that other words run the same program.
    """
    known = sorted({token for ids in sequences for token in ids})
    classes = np.zeros(vocab, np.int32)
    classes[known] = 1 + np.arange(len(known))
    children: list[dict[int, int]] = [{}]
    ends = [False]
    for ids in sequences:
        state = 0
        for kind in classes[list(ids)].tolist():
            if kind not in children[state]:
                children[state][kind] = len(children)
                children.append({})
                ends.append(False)
            state = children[state][kind]
        ends[state] = True
    return classes, *_tables(children, ends, 1 + len(known))


def _tables(children: list[dict[int, int]], ends: list[bool], kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """(next, bans) of a trie, states in the order of their depth: where no child follows, the suffix's row does."""
    side = lambda n: 1 << (n - 1).bit_length()  # noqa: E731
    following = np.zeros((side(len(children)), side(kinds)), np.int32)
    full = np.zeros(following.shape[0], bool)  # a sequence ends here, or with a suffix
    suffix, waiting = [0] * len(children), deque([0])
    while waiting:
        state = waiting.popleft()
        back = following[suffix[state]].copy() if state else np.zeros(following.shape[1], np.int32)
        full[state] = ends[state] or full[suffix[state]]
        following[state] = back
        for kind, child in children[state].items():
            suffix[child] = int(back[kind])
            following[state, kind] = child
            waiting.append(child)
    return following, full[following]
