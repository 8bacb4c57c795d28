"""Parts of tokenizer.json that could end the process are refused by name; those that released tokenizers have are built."""

import base64
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxdlm import text
from jaxdlm.checkpoint import tokenizer_config
from jaxdlm.errors import InputError
from jaxdlm.tokenizer_checks import Backend, check
from tests import helpers


def spec(**parts):
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2, "bb": 3}, "unk_token": "[UNK]"}
    kinds = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    return {"version": "1.0", "added_tokens": [], "model": model} | dict.fromkeys(kinds) | parts


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def every(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def template(*single, **ids):
    known = {name: {"id": name, "ids": each, "tokens": [name] * len(each)} for name, each in ids.items()}
    pieces = [{"Sequence" if name == "A" else "SpecialToken": {"id": name, "type_id": 0}} for name in single]
    return {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": known}


def table(unit: int = 0, at: int = 256, entries: bytes = b"b\0") -> dict:
    """A table that makes b of a: a root, a node at `a` that has a leaf beside it, and one unit that may be changed."""
    units = np.zeros(256, np.uint32)
    units[ord("a")] = ord("a") | 1 << 8 | 1 << 10
    units[ord("a") ^ 1] = 1 << 31
    if at < 256:
        units[at] = unit
    return coded(len(units) * 4, units.tobytes() + entries)


def coded(size: int, rest: bytes) -> dict:
    data = size.to_bytes(4, "little") + rest
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


DOUBLES = [replace("a", "aa")] * 32
REFUSED = {
    "nothing replaced": ({"normalizer": replace("", "x")}, "normalizer replaces nothing"),
    "nothing replaced in answers": ({"decoder": replace("", "x")}, "decoder replaces nothing"),
    "a million of one": ({"normalizer": replace("a", "a" * 10**6)}, "1000000 letters of one"),
    "a million of any": ({"decoder": replace(".", "a" * 10**6, "Regex")}, "letters of one"),
    "doubled": ({"normalizer": every("normalizers", *DOUBLES)}, "4294967296 letters of one"),
    "doubled in answers": ({"decoder": every("decoders", *DOUBLES)}, "letters of one"),
    "in sequences": ({"normalizer": every("normalizers", *[every("normalizers", *DOUBLES[:8])] * 2)}, "letters of one"),
    "bytes as letters": ({"normalizer": every("normalizers", *[{"type": "ByteLevel"}] * 20)}, "letters of one"),
    "many parts": ({"normalizer": every("normalizers", *[{"type": "NFC"}] * 65)}, "more than 64 parts"),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "a" * 300}}, "adds more than 256 letters"),
    "a number": ({"normalizer": 5}, "normalizer must be an object"),
    "no table": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "damaged table"),
    "no base64": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "%"}}, "base64"),
    "a table of 8 GB": ({"normalizer": coded(2**32 - 1024, b"")}, "damaged table"),
    "a cut table": ({"normalizer": coded(2048, b"\0" * 1024)}, "damaged table"),
    "a step out of the table": ({"normalizer": table(1 << 20, ord("z"))}, "damaged table"),
    "a leaf that is none": ({"normalizer": table(0, ord("a") ^ 1)}, "damaged table"),
    "an entry behind the end": ({"normalizer": table(1 << 31 | 99, ord("a") ^ 1)}, "damaged table"),
    "half a letter": ({"normalizer": table(1 << 31 | 1, ord("a") ^ 1, "é\0".encode())}, "damaged table"),
    "long entries": ({"normalizer": table(entries=b"b" * 9999 + b"\0")}, "letters of one"),
    "pieces of nothing": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "without a letter"),
    "repeats": ({"pre_tokenizer": split("((a{999}){999}){999}")}, "repeats a pattern"),
    "an unknown token": ({"post_processor": template("Q", "A")}, "'Q', which special_tokens lacks"),
    "a text twice": ({"post_processor": template("A", "A")}, "holds a text 2 times"),
    "no text": ({"post_processor": template("Q", Q=[0])}, "holds a text 0 times"),
    "a thousand tokens": ({"post_processor": template("Q", "A", Q=[0] * 1000)}, "more than 256 tokens"),
    "in a sequence": (
        {"post_processor": every("processors", template("A"), template("A", "A"))}, r"processors\[1\] holds"),
    "stripped ends": ({"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 2}}, "strips letters"),
    "a list of numbers": ({"added_tokens": [5]}, "added_tokens must be a list of objects"),
    "no such part": ({"normalizer": {"type": "Mystery"}}, "does not parse"),
    "a pattern that is none": ({"normalizer": replace("(", "x", "Regex")}, "does not parse"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    parts, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        Backend(Tokenizer, spec(**parts))
    assert "\n" not in str(caught.value) and "tokenizer.json" in str(caught.value)
    assert len(str(caught.value)) < 400


RELEASED = {
    "Llama 2": spec(
        normalizer=every("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        decoder=every(
            "decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ),
    ),
    "XLNet": spec(
        normalizer=every(
            "normalizers", replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"},
            {"type": "Lowercase"}, table(entries=b"b\0" + b"c" * 33 + b"\0"), replace(" {2,}", " ", "Regex"),
        ),
    ),
    "Qwen": spec(normalizer={"type": "NFC"}, pre_tokenizer=split(tokenizer_config.QWEN_SPLIT)),
    "BERT": spec(post_processor=template("Q", "A", "Q", Q=[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_parts_of_released_tokenizers_are_built(name):
    assert Backend(Tokenizer, RELEASED[name]).encode("a", add_special_tokens=False).ids


def test_a_sound_table_does_what_it_says():
    backend = Backend(Tokenizer, spec(normalizer=table()))
    assert backend.encode("aa", add_special_tokens=False).ids == [3]


def test_damaged_tables_are_refused_or_harmless():
    """Whatever bytes of a table change: no panic."""
    rng = np.random.default_rng(0)
    sound = bytearray(base64.b64decode(table(entries="b\0é\0".encode())["precompiled_charsmap"]))
    letters = "".join(map(chr, range(1, 0x300)))
    refused = 0
    for _ in range(200):
        data = sound.copy()
        for at in rng.integers(4, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        try:
            backend = Backend(Tokenizer, spec(normalizer=coded(1024, bytes(data[4:]))))
        except InputError:
            refused += 1
            continue
        backend.encode(letters, add_special_tokens=False)
    assert 0 < refused < 200


def test_neither_padded_nor_cut():
    """A file may pad every text to 10^8 ids, or cut each to none."""
    pads = {"strategy": {"Fixed": 10**8}, "direction": "Right", "pad_to_multiple_of": None}
    pads |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    cuts = {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}
    assert len(Backend(Tokenizer, spec(padding=pads, truncation=cuts)).encode("a", add_special_tokens=True).ids) == 1


MODELS = {
    "WordLevel": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"},
    "WordPiece": {
        "type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
    "Unigram": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None},
    "BPE": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "[UNK]"},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_word_that_is_not_there_is_one_line(name):
    backend = Backend(Tokenizer, spec(model=MODELS[name]))
    with pytest.raises(InputError, match="fails on this text"):
        backend.encode("z", add_special_tokens=False)
    assert backend.encode("a", add_special_tokens=False).ids == [0]


# ------------------------------------------------------------------------------------- a vocabulary handed over as it is

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
LETTERS = ["a", "b", "c", "ab", "abc", "bc", "\u0120", "\u0120a", "<unk>", "<0x7A>", "aA"]


def bpe(merges, added=(), **model):
    vocab = {word: number for number, word in enumerate(LETTERS)}
    return spec(model={"type": "BPE", "vocab": vocab, "merges": merges, **model}, added_tokens=list(added))


PAIRS = [["a", "b"], ["b", "c"], ["ab", "c"], ["\u0120", "a"]]
ADDED = [
    {"id": 0, "content": "a", **PLAIN},  # a word of the vocabulary
    {"id": 40, "content": "<hole>", **PLAIN},  # behind ids that nothing has
    {"id": 12, "content": "User", **PLAIN | {"special": False, "normalized": True, "single_word": True}},
    {"id": 13, "content": "<end>", **PLAIN | {"lstrip": True, "rstrip": True}},
]
BPES = {
    "pairs": bpe(PAIRS),
    "strings": bpe(["#version: 0.2", *map(" ".join, PAIRS)]),
    "no merges": bpe([]),
    "settings": bpe(PAIRS, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=True, dropout=None),
    "affixes": bpe([], continuing_subword_prefix="", end_of_word_suffix="</w>", dropout=0.25),
    "added": bpe(PAIRS, ADDED) | {"normalizer": {"type": "Lowercase"}},
    "parts": bpe(PAIRS, ADDED[1:]) | {"pre_tokenizer": split("b"), "post_processor": template("x", "A", x=[13])},
}


@pytest.mark.parametrize("name", BPES)
def test_a_bpe_is_what_the_library_makes_of_the_file(name):
    whole = Tokenizer.from_str(json.dumps(BPES[name]))
    ours = Backend(Tokenizer, BPES[name])
    assert json.loads(ours.to_str()) == json.loads(whole.to_str())
    assert ours.get_vocab() == whole.get_vocab()
    if name != "affixes":  # drops merges by chance
        for words in ("abc", "ab<hole> c USER", "<end> a User", "zcba"):
            assert ours.encode(words, add_special_tokens=True).ids == whole.encode(words).ids


@pytest.mark.parametrize(
    "broken",
    [
        bpe(None), bpe("ab"), bpe([["a", "b"], "b c"]), bpe([["a", "b", "c"]]), bpe(["a"]), bpe([["a", "z"]]),
        bpe([[1, 2]]), bpe(PAIRS, unk_token=7), bpe(PAIRS, dropout=2.0), bpe(PAIRS, ["a"]), bpe(PAIRS, [{"id": 3}]),
        bpe(PAIRS, [{**ADDED[1], "id": -1}]), bpe(PAIRS, [{**ADDED[1], "id": True}]),
        bpe(PAIRS, [{**ADDED[1], "content": 7}]), bpe(PAIRS, [{**ADDED[1], "special": 1}]),
        bpe(PAIRS, [{"id": 3, "content": "b"}]), bpe(PAIRS) | {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        bpe(PAIRS) | {"model": {"type": "BPE", "vocab": [["a", 1]], "merges": []}},
        bpe(PAIRS) | {"model": {"type": "BPE"}}, bpe(PAIRS) | {"model": 7}, bpe(PAIRS) | {"model": None},
    ],
    ids=lambda broken: str(broken["model"])[-40:] + str(broken["added_tokens"])[:40],
)  # fmt: skip
def test_a_damaged_vocabulary_is_one_line(broken):
    for made in (lambda: Backend(Tokenizer, broken), lambda: text.build(broken, {}, None)):
        with pytest.raises(InputError, match=r"^tokenizer\.json") as caught:
            made()
        assert "\n" not in str(caught.value)


def test_an_id_behind_a_hole_is_the_library_s():
    """Which gives added tokens the next free ids, whatever the file says."""
    found = text.build(BPES["added"], {}, "<hole>{{ messages[0].content }}")
    assert found.control == {len(LETTERS), 13} and found.literal(len(LETTERS)) == "<hole>"
    assert found.encode_prompt("b") == [len(LETTERS), 1]


def test_a_panic_is_one_line(capfd):
    """A pattern that tries too often: the library says so in a panic, which is no Exception."""
    backend = Backend(Tokenizer, spec(normalizer=replace("(a+)+$", "x", "Regex")))
    with pytest.raises(InputError, match="fails on this text"):
        backend.encode("a" * 40 + "b", add_special_tokens=False)
    capfd.readouterr()


def test_interrupts_pass():
    class Interrupted:
        @staticmethod
        def from_str(_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Backend(Interrupted, spec())


def test_a_folder_is_refused_by_name(tmp_path):
    folder = helpers.byte_level(tmp_path, ("<|end|>",), helpers.CHATML)
    whole = json.loads((folder / "tokenizer.json").read_text())
    check(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole | {"decoder": replace("", "x")}))
    with pytest.raises(InputError, match="decoder replaces nothing"):
        text.Tokenizer.from_folder(folder)
