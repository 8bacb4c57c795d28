"""Drafts of what a grammar leaves no choice of, keys and marks of JSON, and of what the prompt goes on with."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.grammar.spelling import spelling_of
from jaxdlm.registry import drafter
from jaxdlm.sharding import on_cpu
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.drafters._free import Free
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.guiding import nodes_of
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.state import Proposal, Rows
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import Array, Bool, Int32, Key, PyTree

PIECES, MOST = 4, 2  # of a word; of all words of a prompt, on average
ON_CPU = (
    2  # tokens of a draft there: its time is that of the columns, of which some rows use few; elsewhere of the forwards
)


class Words(NamedTuple):
    """The tokens of a vocabulary as parts of words.

    bare: tokens with the same letters but for a space in front have the same number. pieces: how a token is spelled without
    that space, -1 behind. word: tokens that begin with a letter or a digit, a space in front or not.
    """

    bare: Int32[Array, "V"]
    pieces: Int32[Array, "V K"]
    word: Bool[Array, "V"]


class Read(NamedTuple):
    """The prompts of the rows in pieces, and the token that follows each."""

    piece: Int32[Array, "B M"]
    following: Int32[Array, "B M"]


@drafter(lambda target, draft, sampling: Forced(sampling, depth=3))
@struct.dataclass
class Forced(Free):
    """Up to `depth` tokens that every text of the guide's language goes on with, spelled by the longest tokens.

    The guide allows other spellings of the same letters, so the target decides as over any draft. A round in which no
    row has such tokens reads one token per row (`loop.read_sparse`). Without a guide nothing is drafted.

    words: then values that stand in the prompt are drafted, too, where the language has a choice: what follows there the
    last tokens, of the longest match of up to `ngram` pieces the earliest; where that is no word, what leads towards the
    end of the text, such as a closing quote. None: they are not.
    """

    warp: Warp
    words: Words | None = None
    depth: int = struct.field(pytree_node=False, default=5)
    ngram: int = struct.field(pytree_node=False, default=3)

    def init(self, rows: Rows, prompt: int) -> PyTree:
        if self.words is None:
            return ()
        return jax.vmap(functools.partial(_read, words=self.words, columns=prompt))(rows.tokens, rows.start)

    def propose(self, state: PyTree, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, PyTree]:
        if self.warp.guide is None:
            none = jnp.zeros((rows.done.shape[0], self.depth), jnp.int32)
            return Proposal(none, none.astype(bool), None, self.tree), state
        nodes = nodes_of(self.warp.guide, rows.guide)
        states, drafted = nodes.root(), list[Array]()
        back = jnp.arange(self.ngram, dtype=jnp.int32)[None, :]
        last = store.take(rows.tokens, jnp.maximum(rows.length[:, None] - 1 - back, 0))
        for _ in range(self.depth):
            token = nodes.forced(states)[:, 0]
            if self.words is not None:
                seen = jax.vmap(functools.partial(_seen, words=self.words))(state, last)
                ends = (seen >= 0) & ~self.words.word.at[seen].get(mode="clip")
                seen = jnp.where(ends, nodes.nearer(states)[:, 0], seen)
                token = jnp.where(token >= 0, token, seen)
                last = jnp.concatenate([token[:, None], last[:, :-1]], axis=1)
            drafted.append(token)
            states = nodes.advance(states, jnp.maximum(token, 0)[:, None])
        tokens = jnp.stack(drafted, axis=1)
        valid = jnp.cumprod(tokens >= 0, axis=1).astype(bool)
        return Proposal(jnp.maximum(tokens, 0), valid, None, self.tree), state


def _read(tokens: Int32[Array, "L"], start: Int32[Array, ""], *, words: Words, columns: int) -> Read:
    """A prompt in pieces; those behind MOST per column are left out."""
    own = words.pieces.at[tokens[:columns]].get(mode="clip")
    real = (own >= 0) & (jnp.arange(columns) < start)[:, None]
    after = jnp.pad(own[:, 1:], [(0, 0), (0, 1)], constant_values=-1)
    behind = jnp.where(jnp.arange(columns) + 1 < start, jnp.roll(tokens, -1)[:columns], -1)
    after = jnp.where(after >= 0, after, behind[:, None])
    place = jnp.where(real, jnp.cumsum(real.reshape(-1)).reshape(real.shape) - 1, MOST * columns)
    blank = jnp.full(MOST * columns, -1, jnp.int32)
    return Read(blank.at[place].set(own, mode="drop"), blank.at[place].set(after, mode="drop"))


def _seen(read: Read, last: Int32[Array, "N"], *, words: Words) -> Int32[Array, ""]:
    """What follows the last tokens (latest first) in the prompt, -1 where they are not in it."""
    piece = jnp.where(read.piece >= 0, words.bare.at[read.piece].get(mode="clip"), -1)
    alike = [jnp.roll(piece, back) == words.bare.at[last[back]].get(mode="clip") for back in range(last.shape[0])]
    run = jnp.sum(jnp.cumprod(jnp.stack(alike).astype(jnp.int32), axis=0), axis=0)
    run = jnp.where(read.following >= 0, run, 0)
    return jnp.where(jnp.max(run) > 0, read.following[jnp.argmax(run)], -1)


def words_of(lm: Any, prompts: Iterable[np.ndarray]) -> Words | None:
    """The words of a model's vocabulary, in pieces where they stand in one of the prompts; None without a tokenizer."""
    if lm.tokenizer is None:
        return None
    spelling = spelling_of(lm)
    pieces = np.full((spelling.live.size, PIECES), -1, np.int32)
    pieces[:, 0] = np.arange(len(pieces))
    for token in sorted({int(each) for prompt in prompts for each in prompt}):
        word = lm.tokenizer.decode([token]) if spelling.live[token] else ""
        if word[:1] == " " and word.strip():
            own = lm.tokenizer.encode_inside(word[1:])[:PIECES]
            pieces[token, : len(own)] = own
    return Words(jnp.asarray(spelling.bare), jnp.asarray(pieces), jnp.asarray(spelling.word))


def drafting(policy: Speculation, grammars: Sequence[Any], lm: Any, prompts: Iterable[np.ndarray]) -> Speculation:
    """The policy, which drafts what some grammar leaves no choice of, and what the prompt goes on with, if it has no draft."""
    drafts = policy.search is None and isinstance(policy.drafter, Nothing)  # a search reads no proposals
    if not drafts or not any(grammar.drafts for grammar in grammars):
        return policy
    depth = ON_CPU if on_cpu(lm.params) else Forced.depth
    return dataclasses.replace(policy, drafter=Forced(policy.warp, words_of(lm, prompts), depth))
