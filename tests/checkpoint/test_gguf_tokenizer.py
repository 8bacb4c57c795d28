"""Tokenizers out of a GGUF file's metadata: against hand-cut texts, a slow oracle, and transformers' own reading."""

import numpy as np
import pytest

pytest.importorskip("gguf")

from jaxdlm._load import checkpoint_tokenizer
from jaxdlm.checkpoint import open_folder
from jaxdlm.checkpoint.gguf.tokenizer import CUTS
from jaxdlm.errors import InputError
from jaxdlm.text import Tokenizer
from tests.checkpoint import gguf_files as made

SPACE = "\u2581"


def tokenizer(tmp_path, architecture="qwen2", /, **keys) -> Tokenizer:
    """The tokenizer of a small model, and through the file's name; keys: of its metadata, None to leave one out."""
    vocab = {**made.VOCAB, **keys}
    rows = len(vocab["tokenizer.ggml.tokens"])
    _, metadata, tensors = made.model(architecture, vocab_size=rows)
    metadata |= keys
    path = made.write(
        tmp_path / "m.gguf", {key: value for key, value in metadata.items() if value is not None}, tensors
    )
    found = checkpoint_tokenizer(str(path))
    assert found is not None and found.size == rows == open_folder(path).config.tokens.tokenizer_size
    return found


def words(tokens: Tokenizer, text: str) -> list[str]:
    return [str(tokens.literal(token)) for token in tokens.encode(text)]


def test_bytes_words_digits_and_special_tokens(tmp_path):
    tokens = tokenizer(tmp_path)
    space = made.GREEK[0]
    assert words(tokens, "abcd ab a  12") == ["ab", "cd", space + "ab", space + "a", space, space, "1", "2"]
    assert words(tokens, "a<think>b") == ["a", "<think>", "b"]  # the user's, whole, and no control token
    assert tokens.decode(tokens.encode("a<think>b 12\n")) == "a<think>b 12\n"
    assert tokens.control == {0, 1, 2} and (tokens.eos, tokens.bos, tokens.pad) == ((0,), 1, None)
    assert tokens.encode_chat([{"role": "user", "content": "ab"}]) == [1, tokens.encode("ab")[0], 0]
    assert 0 not in tokens.encode("a<end>b".replace("e", "a").replace("n", "b"))  # spelled by letters
    with pytest.raises(InputError):
        tokens.encode_chat("ab")  # no list of messages


@pytest.mark.parametrize("bos", [True, False, None])
@pytest.mark.parametrize(
    ("pre", "default"), [("qwen2", False), ("llama-bpe", True), ("tekken", True), ("gpt-2", False)]
)
def test_the_beginning_of_a_text(pre, default, bos, tmp_path):
    tokens = tokenizer(tmp_path, **{"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": bos})
    wanted = [1] if (default if bos is None else bos) else []
    assert tokens.front == wanted and tokens.encode("ab")[: len(wanted)] == wanted


def test_the_end_of_a_text(tmp_path):
    tokens = tokenizer(tmp_path, **{"tokenizer.ggml.add_eos_token": True})
    assert tokens.encode("ab") == [10, 0] and tokens.front == []


def test_without_a_template_a_prompt_is_plain_text(tmp_path):
    tokens = tokenizer(tmp_path, **{"tokenizer.chat_template": None})
    assert tokens.encode_prompt("ab") == tokens.encode("ab")


def test_a_whole_word_needs_no_merges_where_its_kind_says_so(tmp_path):
    listed = [*made.VOCAB["tokenizer.ggml.tokens"], "abab"]
    keys = {"tokenizer.ggml.tokens": listed, "tokenizer.ggml.token_type": [*made.VOCAB["tokenizer.ggml.token_type"], 1]}
    assert words(tokenizer(tmp_path, **keys, **{"tokenizer.ggml.pre": "qwen2"}), "abab") == ["ab", "ab"]
    more = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}
    assert words(tokenizer(tmp_path, **keys, **more), "abab") == ["abab"]


# the same text, cut by hand by what each kind's expression says
CUT = {
    "gpt-2": ["I", "'ll", " pay", " 1234", " '", "EM", "  ", " now", "\n"],
    "smollm": ["I", "'ll", " pay", " ", "1", "2", "3", "4", " '", "EM", "  ", " now", "\n"],
    "qwen2": ["I", "'ll", " pay", " ", "1", "2", "3", "4", " '", "EM", "  ", " now", "\n"],
    "llama-bpe": ["I", "'ll", " pay", " ", "123", "4", " '", "EM", "  ", " now", "\n"],
    "bailingmoe": ["I", "'ll", " pay", " ", "1", "2", "3", "4", " '", "EM", "  ", " now", "\n"],
    "tekken": ["I", "'ll", " pay", " ", "1", "2", "3", "4", " '", "EM", "  ", " now", "\n"],
    "gpt-4o": ["I'll", " pay", " ", "123", "4", " '", "EM", "  ", " now", "\n"],
}


@pytest.mark.parametrize("pre", CUT)
def test_where_texts_are_cut(pre, tmp_path):
    tokens = tokenizer(tmp_path, **{"tokenizer.ggml.pre": pre})
    text = "I'll pay 1234 'EM   now\n"
    assert [text[a:b] for _, (a, b) in tokens.backend.pre_tokenizer.pre_tokenize_str(text)] == CUT[pre]


def test_every_word_for_a_cut_builds_a_tokenizer(tmp_path):
    for pre in CUTS:
        assert words(tokenizer(tmp_path, **{"tokenizer.ggml.pre": pre}), "ab cd")[-1] == "cd"


# ---------------------------------------------------------------------------------------------------------- SentencePiece


def pieces(prefix: bool) -> dict:
    """A vocabulary of pieces with scores: letters, some of their strings, bytes, a run of lines that the user defined."""
    letters = [SPACE, *"abcdé"]
    longer = ["ab", SPACE + "a", SPACE + "ab", "cd", "abc", "bcd", SPACE + SPACE, "dé", SPACE + "abcd", "ba"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    listed = ["<unk>", "<s>", "</s>", *bytes_, "\n\n", *letters, *longer]
    types = [2, 3, 3, *[6] * 256, 4, *[1] * (len(letters) + len(longer))]
    scores = [0.0] * 260 + [-100.0 - number for number in range(len(letters))]
    scores += [-float(number) for number in np.random.default_rng(3).permutation(len(longer))]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": None, "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": listed, "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix, "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }  # fmt: skip


def by_scores(text: str, vocab: dict) -> list[str]:
    """SentencePiece's rule, slowly: of all neighbours that make a piece, join the leftmost of the best score."""
    score = dict(zip(vocab["tokenizer.ggml.tokens"], vocab["tokenizer.ggml.scores"]))
    parts = list(text.replace(" ", SPACE))
    while True:
        joins = [(score[a + b], -at) for at, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in score]
        if not joins:
            break
        at = -max(joins)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    known = [[part] if part in score else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
    return [piece for group in known for piece in group]


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_joined_by_their_scores(prefix, tmp_path):
    vocab = pieces(prefix)
    tokens = tokenizer(tmp_path, "llama", **vocab)
    made_up = np.random.default_rng(0)
    for _ in range(200):
        text = "a" + "".join(made_up.choice(list("abcdé  zü"), made_up.integers(0, 12)))
        assert words(tokens, text) == ["<s>", *by_scores(" " * prefix + text, vocab)], text
        assert tokens.decode(tokens.encode(text)) == text


def test_pieces_that_the_user_defined_stay_whole(tmp_path):
    tokens = tokenizer(tmp_path, "llama", **pieces(False))
    assert words(tokens, "a\n\nb") == ["<s>", "a", "\n\n", "b"]
    assert words(tokens, "a\nb") == ["<s>", "a", "<0x0A>", "b"]
    assert tokens.encode_chat([{"role": "user", "content": "ab"}])[0] == 1 and tokens.eos == (2,)


def test_runs_of_spaces_that_the_user_defined_come_first(tmp_path):
    """As in Gemma's: stored with spaces, joined before any piece with a score."""
    vocab = pieces(False)
    listed, types = vocab["tokenizer.ggml.tokens"], vocab["tokenizer.ggml.token_type"]
    at = listed.index(SPACE * 2)
    listed[at], types[at] = "  ", 4
    tokens = tokenizer(tmp_path, "gemma3", **vocab)
    assert words(tokens, "a  a") == ["<s>", "a", SPACE * 2, "a"] and tokens.decode(tokens.encode("a  a")) == "a  a"


def test_pieces_without_scores_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no tokenizer\.ggml\.scores"):
        tokenizer(tmp_path, "llama", **pieces(True) | {"tokenizer.ggml.scores": None})
    with pytest.raises(InputError, match=r"tokenizer\.ggml\.scores has 1 scores for 276 tokens"):
        tokenizer(tmp_path, "llama", **pieces(True) | {"tokenizer.ggml.scores": [1.0]})


def test_more_merges_than_any_tokenizer_has_are_refused(tmp_path, monkeypatch):
    from jaxdlm.checkpoint.gguf import tokenizer as module

    monkeypatch.setattr(module, "MOST_MERGES", 3)
    with pytest.raises(InputError, match=r"tokenizer\.ggml\.tokens makes more than 3 merges"):
        tokenizer(tmp_path, "llama", **pieces(True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt-2", "qwen2", "llama-bpe", "tekken", "gpt-4o", "pieces"])
def test_transformers_reads_the_same_tokenizer(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    keys = pieces(True) if kind == "pieces" else {"tokenizer.ggml.pre": kind, "tokenizer.ggml.add_bos_token": False}
    ours = tokenizer(tmp_path, "llama", **keys)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("ab cd", "abcd 12ab", "a<think>b" if kind != "pieces" else "dé zü ba", "cd ab  a"):
        assert ours.encode(text) == theirs.encode(text), text
