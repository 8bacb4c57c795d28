"""Drafts under a grammar: what all texts go on with, values that stand in the prompt, and the way to an end behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import grammar
from jaxdlm.grammar.spelling import spelling_of
from jaxdlm.speculative.drafters import forced
from tests.conformance.spelling import spelling_model
from tests.grammar import toys

# a word of one token with a space in front, whose letters are spelled by two without
WORDS = forced.Words(
    bare=jnp.arange(12, dtype=jnp.int32).at[5].set(4),
    pieces=jnp.full((12, 4), -1, jnp.int32).at[:, 0].set(jnp.arange(12)).at[7, :2].set(jnp.array([1, 2])),
    word=jnp.ones(12, bool).at[9].set(False),
)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([1], 2),  # the first piece of 7: its second
        ([2, 1], 5),  # both: the token behind 7, as it stands there
        ([4], 9),  # 5 but for its space: what follows it
        ([9], 3),
        ([3], -1),  # the prompt's last token: nothing follows
        ([8], -1),  # not in the prompt
    ],
)
def test_what_follows_in_the_prompt(last, expected):
    read = forced._read(jnp.array([7, 5, 9, 3, 0, 0]), jnp.int32(4), words=WORDS, columns=6)
    padded = jnp.array([*last, 11, 11, 11][:3])
    assert int(jax.jit(lambda *args: forced._seen(*args, words=WORDS))(read, padded)) == expected


@pytest.mark.slow
def test_of_several_places_the_longest_match_counts_then_the_earliest():
    read = forced._read(jnp.array([1, 6, 8, 1, 2, 8, 6, 0]), jnp.int32(7), words=WORDS, columns=8)
    see = lambda *last: int(forced._seen(read, jnp.array(last), words=WORDS))  # noqa: E731
    assert see(1, 11, 11) == 6 and see(1, 8, 11) == 2 and see(8, 2, 11) == 6


def test_words_of_a_vocabulary():
    lm = toys.byte_level()
    known = {data: ids[0] for data, ids in spelling_of(lm).tokens[0].items()}
    spaced = next(data for data in known if data[:1] == b" " and data[1:] in known and data[1:].isalpha())
    words = forced.words_of(lm, [np.array([known[b"a"], known[spaced]])])
    assert words.bare[known[b"a"]] == known[b"a"] and words.bare[known[spaced]] == known[spaced[1:]]
    assert words.word[known[b"a"]] and words.word[known[spaced]] and not words.word[known[b'"']]
    pieces = [each for each in words.pieces[known[spaced]].tolist() if each >= 0]
    assert pieces == lm.tokenizer.encode_inside(spaced[1:].decode())[: len(pieces)] and pieces


@pytest.mark.slow
def test_drafts_change_no_token_and_save_forwards():
    """A schema with keys, and values that stand in the prompts."""
    lm = spelling_model("causal")
    schema = {
        "properties": {"name": {"enum": ["Paris, then", "Paris, not"]}, "n": {"type": "boolean"}},
        "required": ["name", "n"],
    }
    made = grammar.json_schema(schema, lm)
    prompts, fixed = ["ab Paris, then", "name: Paris, not then"], {"max_new": 40, "raw": True}
    drafted = jd.decode(lm, prompts, grammar=made, **fixed)
    alone = jd.decode(lm, prompts, jd.autoregressive(guide=jd.guides.grammar(made)), **fixed)
    np.testing.assert_array_equal(drafted.tokens, alone.tokens)
    assert all(made.accepts(row) for row in drafted.tokens)
    assert (drafted.forwards < alone.forwards).all()
