"""Texts in pieces: what was sent is never taken back, and the pieces are the whole."""

import dataclasses

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.batch.rows import Request
from jaxdlm.serve.texts import Text, settled
from jaxdlm.stops import read_stops
from jaxdlm.text import Tokenizer
from tests import helpers


@pytest.mark.parametrize(
    ("text", "stops", "length"),
    [
        ("abc", (), 3),
        ("ab\ufffd", (), 2),  # a letter of which bytes are missing
        ("ab\ufffdc", (), 4),  # one that will stay broken
        ("one EN", ("END",), 4),
        ("one E", ("END", " ENOUGH"), 3),
        ("END", ("END",), 3),  # whole: it was cut already, had it been one
        ("", ("END",), 0),
        ("aa", ("aab",), 0),
    ],
)
def test_what_may_still_change_is_held_back(text, stops, length):
    assert settled(text, stops) == length


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = helpers.byte_level(tmp_path_factory.mktemp("bytes"), ("<eos>",), None, eos_token="<eos>")
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("stop", [True, ["fox"], ["lazy dog; x", "é"]])
def test_pieces_are_the_whole(tokenizer, size, stop):
    """Of bytes that no piece ends between, for blocks of any size, up to the first stop."""
    lm = dataclasses.replace(jd.load("tiny"), tokenizer=tokenizer)
    for words in ("The quick brown fox jumps over the lazy dog; é €😀 ok", "añb" * 7, "the lazy dog; the dog"):
        tokens = tokenizer.encode(words)
        request = Request(0, 0, 0, 0, np.array(tokens), len(tokens), 0, None, read_stops(lm, stop))
        text, pieces = Text(request, tokenizer), []
        for end in range(size, len(tokens), size):
            pieces.append(text.more(tokens[:end]))
        pieces.append(text.more(tokens, last=True))
        assert "".join(pieces) == request.stops.text(tokenizer, tokens)
        assert "\ufffd" not in "".join(pieces)


def test_without_a_tokenizer_there_are_no_words():
    request = Request(0, 0, 0, 0, np.array([1]), 1, 0, None, read_stops(jd.load("tiny"), False))
    assert Text(request, None).more([1], last=True) == ""
