"""Banned sequences against an oracle that compares the text's end with each of them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.core.guide import Context
from jaxdlm.guides.banned import MOST
from tests.guides import oracles
from tests.guides.test_repetition import behind
from tests.helpers import CHATML, byte_level

VOCAB = 11
LM = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=VOCAB), tokenizer=None, name="toy")
ZERO = np.zeros(VOCAB, np.float32)


def forbidden(guide, prompt: list[int], answer: list[int]) -> list[int]:
    return np.flatnonzero(np.isneginf(behind(guide, prompt, answer, ZERO))).tolist()


def test_by_hand():
    guide = jd.guides.banned([[7], [1, 2, 3], [2, 4], [3, 3, 1, 2, 6]], LM)
    assert forbidden(guide, [0], []) == [7]
    assert forbidden(guide, [0], [1, 2]) == [3, 4, 7]
    assert forbidden(guide, [1], [2]) == [3, 4, 7], "a sequence may begin in the prompt"
    assert forbidden(guide, [3, 3, 1], [2]) == [3, 4, 6, 7]
    assert forbidden(guide, [1, 2], [5]) == [7]
    assert forbidden(guide, [1, 2, 3], []) == [7], "what the prompt holds is not undone"


def some(rng) -> list[list[int]]:
    """Sequences of which many end alike; most tables of them are of one size."""
    return [[0, 1, 2, 1], *(rng.integers(0, 3, rng.integers(1, 5)).tolist() for _ in range(rng.integers(1, 6)))]


def test_it_is_the_oracle_on_random_sequences():
    rng = np.random.default_rng(0)
    for _ in range(15):
        sequences = some(rng)
        guide = jd.guides.banned(sequences, LM)
        for _ in range(4):
            prompt, answer = (rng.integers(0, 3, rng.integers(1, 8)).tolist() for _ in range(2))
            wanted = oracles.without(ZERO, prompt + answer, sequences)
            np.testing.assert_array_equal(behind(guide, prompt, answer, ZERO), wanted)


@pytest.mark.slow
def test_a_string_is_every_way_to_spell_it_and_a_control_token_its_id(tmp_path):
    from jaxdlm.text import Tokenizer

    literals = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer.from_folder(byte_level(tmp_path / "t", literals, CHATML, eos_token="<|endoftext|>"))
    size = tokenizer.backend.get_vocab_size()
    lm = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=size), tokenizer=tokenizer, name="toy")
    guide = jd.guides.banned(["<|im_end|>", " fox", [3, 4]], lm)
    one = tokenizer.backend.token_to_id(tokenizer.aliases["<|im_end|>"])
    fox = tokenizer.backend.encode(" fox", add_special_tokens=False).ids
    state = guide.init(Context(jnp.asarray(fox, jnp.int32), jnp.int32(len(fox) - 1), jnp.int32(9), (), size))
    out = np.asarray(guide.transform(jnp.zeros(size), state))
    assert set(np.flatnonzero(np.isneginf(out))) == {one, fox[-1]}


@pytest.mark.slow
def test_a_draft_of_another_width():
    guide = jd.guides.banned([[1, 2], [9]], LM)
    state = guide.advance(jnp.int32(0), jnp.int32(1))
    for width in (4, VOCAB + 5):
        out = np.asarray(guide.transform(jnp.zeros(width), state))
        assert np.flatnonzero(np.isneginf(out)).tolist() == [token for token in (2, 9) if token < width]
    assert int(guide.advance(state, jnp.int32(VOCAB + 3))) == 0


def test_other_words_of_a_like_size_are_the_same_program():
    first, second = jd.guides.banned([[1, 2, 3], [4]], LM), jd.guides.banned([[6, 5, 7], [8]], LM)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [leaf.shape for leaf in jax.tree.leaves(second)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "words=.*must be a list of strings"), ("Kate", "words='Kate': must be a list"), (None, "words=None"),
        ([[]], r"words\[0\] is an empty sequence"), (["x"], r"words\[0\] is a string, and toy has no"),
        ([[3], [VOCAB]], r"words\[1\]\[0\]=11: must be a whole number from 0 to 10"),
        ([["a"]], r"words\[0\]\[0\]='a'"), ([7], r"words\[0\]=7: must be a list"),
        ([[1] * (MOST + 1)], "words has 2049 ids in all: must be at most 2048"),
    ],
)  # fmt: skip
def test_what_cannot_be_banned_is_refused(words, message):
    with pytest.raises(jd.InputError, match=message) as caught:
        jd.guides.banned(words, LM)
    assert "\n" not in str(caught.value)
    with pytest.raises(jd.InputError, match="lm=7: must be a model"):
        jd.guides.banned([[1]], 7)


@pytest.mark.slow
def test_transformers_says_the_same():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").NoBadWordsLogitsProcessor
    rng = np.random.default_rng(1)
    for _ in range(20):
        sequences = some(rng)
        prompt, answer = (rng.integers(0, 3, rng.integers(1, 8)).tolist() for _ in range(2))
        theirs = process(sequences)(torch.tensor([prompt + answer]), torch.zeros(1, VOCAB))[0].numpy()
        np.testing.assert_array_equal(behind(jd.guides.banned(sequences, LM), prompt, answer, ZERO), theirs)
