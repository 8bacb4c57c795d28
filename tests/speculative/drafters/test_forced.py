"""Drafts under a grammar: what all texts go on with, values that stand in the prompt, and the way to an end behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import grammar
from jaxdlm.grammar.spelling import spelling_of
from jaxdlm.speculative.drafters import forced
from tests.conformance.spelling import greedy, spelling_model
from tests.grammar import toys

# a word of one token with a space in front, whose letters are spelled by two without
WORDS = forced.Words(
    bare=jnp.arange(12, dtype=jnp.int32).at[5].set(4),
    pieces=jnp.full((12, 4), -1, jnp.int32).at[:, 0].set(jnp.arange(12)).at[7, :2].set(jnp.array([1, 2])),
    word=jnp.ones(12, bool).at[9].set(False),
)


@jax.jit
def _following(prompt, length, last):
    return forced._seen(forced._read(prompt, length, words=WORDS, columns=8), last, words=WORDS)


def seen(prompt, length, last):
    """What follows the last tokens, latest first, in a prompt of so many."""
    return int(_following(jnp.array(prompt), jnp.int32(length), jnp.array([*last, 11, 11, 11][:3])))


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
    assert seen([7, 5, 9, 3, 0, 0, 0, 0], 4, last) == expected


def test_of_several_places_the_longest_match_counts_then_the_earliest():
    prompt = [1, 6, 8, 1, 2, 8, 6, 0]
    assert seen(prompt, 7, [1]) == 6 and seen(prompt, 7, [1, 8]) == 2 and seen(prompt, 7, [8, 2]) == 6


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
    out = jd.decode(lm, prompts, grammar=made, **fixed)

    def allowed(text):
        state = made.start
        for token in text:
            state = made.next[state, made.classes[token]]
        behind = made.next[state]
        return ((behind > 0) & (made.distance[behind] < 40 - len(text)))[made.classes]

    for prompt, row, forwards in zip(prompts, out.tokens, out.forwards, strict=True):
        text = greedy(lm, prompt, 40, allowed, lm.config.tokens.eos)
        assert row.tolist()[: len(text)] == text and made.accepts(row) and forwards < len(text)


@pytest.mark.parametrize("name", ["beam", "contrastive", "adadec", "transfer_q", "superposed", "pg_td"])
def test_a_search_is_given_no_drafts(name):
    """It would not read them; and its rounds ask the drafter for nothing but an empty proposal."""
    from jaxdlm._decode import prepare
    from jaxdlm.speculative.drafters.nothing import Nothing

    lm = jd.load("tiny-ar")
    words = {"regex": "\\[ (Alan|Kate) \\]", "max_new": 8}
    drafts = prepare(lm, ["copy : [ Kate ]"], "autoregressive", **words).parts[0].decoding.policy.drafter
    assert isinstance(drafts, forced.Forced)
    policy = prepare(lm, ["copy : [ Kate ]"], name, **words).parts[0].decoding.policy
    assert policy.search is not None and isinstance(policy.drafter, Nothing) and policy.guide is not None
