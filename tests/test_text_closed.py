"""Tokenizers of whole words, as those of the embedded models: what they read, what they refuse, how texts end."""

import pytest

from jaxdlm import controls, text
from jaxdlm.errors import InputError
from tests import helpers

WORDS = ("reverse", ":", "[", "]", ",", "Alan", "Fox", "Kate", "Gray", "def", "f", "(", "x", ")", "return", "+")


@pytest.fixture
def closed(tmp_path):
    examples = ["reverse : [ Alan Fox ]", "reverse : [ Kate ]", "reverse : [ 12 ]", "reverse : [ 3 ]"]
    return text.Tokenizer.from_folder(
        helpers.word_level(tmp_path, WORDS, jaxdlm_examples=examples, jaxdlm_prompt_lengths=[8, 16])
    )


@pytest.mark.parametrize(
    "words", ["reverse : [ Alan Fox , Kate Gray ]", "def f ( x ) :\n    return x + 1402", "[ 17 ]"]
)
def test_words_round_trip(closed, words):
    """decode(encode(text)) == text, where a line may start with the four-space indent word."""
    if "    " in words:
        ids = [
            closed.backend.token_to_id(word) for word in ("def", "f", "(", "x", ")", ":", "\n", "    ", "return", "x")
        ]
        ids += [closed.backend.token_to_id(word) for word in ("+", "1", "4", "0", "2")]
    else:
        ids = closed.encode(words)
    assert closed.decode(ids) == words


def test_unknown_word_is_named_with_prompts_that_work(closed):
    with pytest.raises(InputError, match=r"unknown word 'Zebra7'.*'reverse : \[ Alan Fox \]'.*'reverse : \[ 12 \]'"):
        closed.encode_chat([{"role": "user", "content": "reverse : [ Alan Zebra7 ]"}])
    with pytest.raises(InputError, match="unknown word '<mask>'"):
        closed.encode("reverse : <mask> ]")
    with pytest.raises(InputError, match="unknown word 'Zebra'"):
        closed.encode("reverse : [ Alan, Zebra, Fox ]".replace(", ", " , "))


def test_chat_is_padded_to_the_listed_lengths(closed):
    ids = closed.encode_chat([{"role": "user", "content": "reverse : [ 3 ]"}])
    assert len(ids) == 8
    assert ids[0] == closed.bos
    longer = closed.encode_chat([{"role": "user", "content": "reverse : [ 37 ]"}])
    assert len(longer) == 16
    assert longer[9:] == [closed.pad] * 7
    with pytest.raises(InputError, match="at most 16"):
        closed.encode_chat([{"role": "user", "content": "reverse : [ 37 ] " * 5}])


def test_decode_stops_at_end_of_text_and_drops_control_tokens(closed):
    ids = closed.encode("Alan Fox")
    eos = closed.eos[0]
    mask = closed.backend.token_to_id(closed.aliases["<mask>"])
    assert closed.decode([*ids[:1], mask, *ids[1:], eos, *ids]) == "Alan Fox"


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_prompts(closed, empty):
    with pytest.raises(InputError, match="prompt is empty"):
        closed.encode(empty)
    with pytest.raises(InputError, match="prompt is empty"):
        closed.encode_chat([{"role": "user", "content": empty}])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jaxdlm_prompt_lengths", [1e10]), ("jaxdlm_prompt_lengths", [10**10]), ("jaxdlm_prompt_lengths", [0]),
        ("jaxdlm_prompt_lengths", [True]), ("jaxdlm_prompt_lengths", 32), ("jaxdlm_prompt_lengths", "32"),
        ("jaxdlm_join", "letters"), ("jaxdlm_join", True), ("jaxdlm_join", []),
        ("jaxdlm_examples", "reverse"), ("jaxdlm_examples", [1]), ("jaxdlm_jion", "words"),
    ],
)  # fmt: skip
def test_odd_settings_of_our_own_are_named(tmp_path, setting, value):
    folder = helpers.word_level(tmp_path, WORDS, **{setting: value})
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {setting}.* must be"):
        text.Tokenizer.from_folder(folder)


def test_bad_prompts_name_the_place(closed, tmp_path):
    with pytest.raises(InputError, match=r"private character U\+100000 at 2"):
        closed.encode("a " + chr(controls.FIRST))
    with pytest.raises(InputError, match="surrogate"):
        closed.encode("Alan \ud800")
    with pytest.raises(InputError, match="message 0"):
        closed.encode_chat([{"content": "no role"}])
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json.*not valid JSON"):
        text.Tokenizer.from_folder(tmp_path)
    assert text.Tokenizer.from_folder(tmp_path / "none") is None
