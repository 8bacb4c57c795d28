"""banned: sequences of tokens that the text must not hold."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import argument, struct
from jaxdlm.core.carry import Row
from jaxdlm.core.guide import Context, Guide, class_of, fit
from jaxdlm.errors import InputError
from jaxdlm.registry import guide
from jaxdlm.typing import Array, Bool, Float32, Int32

MOST = 2048  # ids of all sequences together: the table has up to as many rows and columns


@struct.dataclass
class Banned(Guide):
    """See `banned`. State: where in the automaton of Aho and Corasick (1975) the text stands.

    longest: a state follows from so many last tokens.
    """

    classes: Int32[Array, "V"]  # token id -> class; 0: in no sequence
    next: Int32[Array, "S C"]
    completes: Int32[Array, "S C"]  # tokens of the longest sequence that a token of the class completes; 0: none
    longest: int = struct.field(pytree_node=False)

    @property
    def any_order(self) -> bool:
        return True

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
        return jnp.where(fit(self.completes[state][self.classes] > 0, logits.shape[0], False), -jnp.inf, logits)

    def advance(self, state: Int32[Array, ""], token: Int32[Array, ""]) -> Int32[Array, ""]:
        return self.next[state, class_of(self.classes, token)]

    def bend(self, logits: Float32[Array, "W V"], row: Row) -> Float32[Array, "W V"]:
        """-inf for what would complete a sequence with the known text on both sides of its column."""
        kinds, known = self.around(row)
        width, state = logits.shape[0], self.before(kinds, known, logits.shape[0])

        def further(place: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            """One more column to the right: a sequence that it completes reaches back to ours where it is long enough."""
            following, whole, bad = carry
            kind, there = (jax.lax.dynamic_slice_in_dim(each, self.longest + place, width) for each in (kinds, known))
            whole = whole & there
            reaches = self.completes[following, kind[:, None]] > place
            return self.next[following, kind[:, None]], whole, bad | (whole[:, None] & reaches)

        first = self.next[state], jnp.ones(width, bool), self.completes[state] > 0
        bad = jax.lax.fori_loop(1, self.longest, further, first)[2]
        wide = jax.vmap(lambda each: fit(each, logits.shape[1], False))(bad[:, self.classes])
        return jnp.where(wide, -jnp.inf, logits)

    def agree(
        self, commit: Bool[Array, "W"], token: Int32[Array, "W"], score: Float32[Array, "W"], row: Row
    ) -> Bool[Array, "W"]:
        """Those that complete no sequence together; the surest alone where none is left, or where what stays of the text
        would now complete one."""
        rest = commit & ~self.completed(commit, token, row)
        sound = jnp.any(rest) & ~jnp.any(self.completed(rest, token, row))
        surest = jnp.argmax(jnp.where(commit, jnp.maximum(score, -1e30), -jnp.inf))
        return jnp.where(sound, rest, commit & (jnp.arange(commit.shape[0]) == surest))

    def completed(self, commit: Bool[Array, "W"], token: Int32[Array, "W"], row: Row) -> Bool[Array, "W"]:
        """Which of these columns, once written, stand in a sequence that is complete then."""
        (kinds, known), reach = self.around(row), commit.shape[0] + self.longest
        window = slice(self.longest, reach)
        kinds = kinds.at[window].set(jnp.where(commit, class_of(self.classes, token), kinds[window]))
        known = known.at[window].set(known[window] | commit)
        state = self.before(kinds, known, reach)
        length = jnp.where(known[self.longest :], self.completes[state, kinds[self.longest :]], 0)

        def covered(place: Array, seen: Array) -> Array:
            return seen | (jax.lax.dynamic_slice_in_dim(length, place, commit.shape[0]) > place)

        return commit & jax.lax.fori_loop(0, self.longest, covered, jnp.zeros_like(commit))

    def around(self, row: Row) -> tuple[Int32[Array, "W+2n"], Bool[Array, "W+2n"]]:
        """(classes, whether known) of the window's columns and of as many on each side as a sequence is long."""
        text, size = row.text, row.tokens.shape[0] + 2 * self.longest

        def cut(each: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(jnp.pad(each, self.longest), row.position[0], size)

        return cut(class_of(self.classes, text.tokens)), cut(text.known)

    def before(self, kinds: Array, known: Array, count: int) -> Int32[Array, "count"]:
        """The states in front of so many columns, the first of which has `longest` columns before it."""

        def further(place: Array, state: Array) -> Array:
            kind, there = (jax.lax.dynamic_slice_in_dim(each, place, count) for each in (kinds, known))
            return jnp.where(there, self.next[state, kind], 0)

        return jax.lax.fori_loop(0, self.longest, further, jnp.zeros(count, jnp.int32))


def _example(lm: Any) -> Banned:
    """Half of the vocabulary."""
    return banned([[token] for token in range(lm.config.vocab_size // 2)], lm)


@guide(_example)
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
    classes, following, completes = map(jnp.asarray, automaton(sorted(sequences), lm.config.vocab_size))
    return Banned(classes, following, completes, max(map(len, sequences)))


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
    """(classes, next, completes): a state for each beginning of a sequence, the longest with which the text ends.

    Sides are powers of two, so that other words run the same program.
    """
    known = sorted({token for ids in sequences for token in ids})
    classes = np.zeros(vocab, np.int32)
    classes[known] = 1 + np.arange(len(known))
    children: list[dict[int, int]] = [{}]
    ends = [0]  # tokens of the sequence that ends in a state; 0: none does
    for ids in sequences:
        state = 0
        for kind in classes[list(ids)].tolist():
            if kind not in children[state]:
                children[state][kind] = len(children)
                children.append({})
                ends.append(0)
            state = children[state][kind]
        ends[state] = len(ids)
    return classes, *_tables(children, ends, 1 + len(known))


def _tables(children: list[dict[int, int]], ends: list[int], kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """(next, completes) of a trie, states in the order of their depth: where no child follows, the suffix's row does."""
    side = lambda n: 1 << (n - 1).bit_length()  # noqa: E731
    following = np.zeros((side(len(children)), side(kinds)), np.int32)
    full = np.zeros(following.shape[0], np.int32)  # of the longest sequence that ends here, with this state or a suffix
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
