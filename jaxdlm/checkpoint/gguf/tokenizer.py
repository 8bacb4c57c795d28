"""tokenizer.json, tokenizer_config.json and the chat template as a GGUF file's metadata have them.

Two kinds of vocabulary: byte-level BPE ("gpt2"), whose way to cut text into words the file names by a word (`pre`), and
SentencePiece's BPE ("llama"), whose merges follow from the scores of its pieces. The expressions are those of the released
tokenizer.json files; the words for them are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdlm import argument
from jaxdlm.checkpoint.gguf.metadata import Metadata
from jaxdlm.errors import ConfigUnsupported, did_you_mean

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
TYPES = range(7)  # 0: not said
NAMED = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",
    "mask_token": "mask",
    "cls_token": "cls",
}  # fmt: skip  ("seperator" is what the format calls it)
SPACE = "\u2581"
MOST_MERGES = 2**21
MOST_LETTERS = 64  # of a SentencePiece piece that is taken apart to find the merges that make it; theirs have up to 48

ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
LLAMA3 = ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENGLISH}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
)

Part = dict[str, Any]


def _bytes(*, splits: bool) -> Part:
    """The letters that stand for bytes; splits: with GPT-2's own expression before."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": splits}


def _words(expression: str) -> list[Part]:
    return [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
        _bytes(splits=False),
    ]


class Cut(NamedTuple):
    """How a byte-level vocabulary cuts a text into words; whole: a word of the vocabulary needs no merges; begins: with
    bos, where the file does not say."""

    parts: list[Part]
    whole: bool = False
    begins: bool = False
    normaliser: Part | None = None


GPT2_CUT = Cut([_bytes(splits=True)])
DIGITS_CUT = Cut([{"type": "Digits", "individual_digits": True}, _bytes(splits=True)])
LLAMA3_CUT = Cut(_words(LLAMA3), whole=True, begins=True)
CUTS: dict[str, Cut] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "gigachat", "mellum", "a.x-4.0"), GPT2_CUT),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS_CUT),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"), LLAMA3_CUT),
    **dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), Cut(_words(LLAMA3))),
    **dict.fromkeys(("qwen2", "megrez", "hunyuan", "kormo"), Cut(_words(QWEN2), normaliser={"type": "NFC"})),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2"), Cut(_words(QWEN2))),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), Cut(_words(BAILING))),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), Cut(_words(GPT4O))),
    "tekken": Cut(_words(TEKKEN), whole=True, begins=True),
}


def hub_tokenizer(metadata: Metadata) -> tuple[Part, Part, str | None] | None:
    """(tokenizer.json, tokenizer_config.json, chat template); None where the file says that it has no vocabulary.

    Raises HeaderInvalid for metadata that contradict each other and ConfigUnsupported for other kinds, naming the key.
    """
    model = metadata.text("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab"):
        return None
    if model not in ("gpt2", "llama"):
        raise ConfigUnsupported(
            f"{metadata.header.path}: tokenizer.ggml.model {model[:40]!r} is not supported (gpt2, llama)"
        )
    tokens, types = _vocabulary(metadata)
    names = _names(metadata, tokens)
    cut = _cut(metadata) if model == "gpt2" else None
    parts = _byte_level(metadata, tokens, cut) if cut else _sentencepiece(metadata, tokens, types)
    spec = {
        "version": "1.0",
        "added_tokens": _added(tokens, types, names.values()),
        **parts,
        "post_processor": _front(metadata, tokens, cut is None or cut.begins),
    }
    return spec, names, metadata.text("tokenizer.chat_template", None)


def _vocabulary(metadata: Metadata) -> tuple[list[str], Sequence[int]]:
    """The tokens in the order of their ids, and their types."""
    key = "tokenizer.ggml.tokens"
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(metadata.strings(key))]
    if not tokens:
        raise metadata.wrong(key, "is empty")
    if len(set(tokens)) < len(tokens):
        raise metadata.wrong(key, f"holds {argument.repeated(tokens)[:60]!r} twice")
    types = metadata.numbers("tokenizer.ggml.token_type", None)
    if types is None:
        return tokens, [NORMAL] * len(tokens)
    kinds = types.tolist()
    if len(kinds) != len(tokens):
        raise metadata.wrong("tokenizer.ggml.token_type", f"has {len(kinds)} types for {len(tokens)} tokens")
    wrong = next((kind for kind in kinds if kind not in TYPES), None)
    if wrong is not None:
        raise metadata.wrong("tokenizer.ggml.token_type", f"holds {wrong!r:.40}, which is no type of a token")
    return tokens, kinds


def _names(metadata: Metadata, tokens: Sequence[str]) -> Part:
    """Special tokens by the names that templates know them by."""
    named = {name: _token(metadata, tokens, key) for name, key in NAMED.items()}
    return {name: token for name, token in named.items() if token is not None}


def _token(metadata: Metadata, tokens: Sequence[str], word: str) -> str | None:
    key = f"tokenizer.ggml.{word}_token_id"
    number = metadata.integer(key, None)
    if number is None:
        return None
    if not 0 <= number < len(tokens):
        raise metadata.wrong(key, f"is {number}, but the vocabulary has {len(tokens)} tokens")
    return tokens[number]


def _added(tokens: Sequence[str], types: Sequence[int], named: Iterable[str]) -> list[Part]:
    """The pieces matched whole in a text: control tokens, which are special, and tokens that the user defined.

    Runs of spaces among these come out of the merges, in a vocabulary where a space is a letter of its own.
    """
    named = set(named)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": token, **plain, "special": special}
        for number, (token, kind) in enumerate(zip(tokens, types))
        if (special := kind in (CONTROL, UNKNOWN) or token in named) or (kind == USER_DEFINED and " " not in token)
    ]


def _front(metadata: Metadata, tokens: Sequence[str], default: bool) -> Part | None:
    """The ids before and behind every text; SentencePiece's have a beginning unless the file says otherwise."""
    ends: list[list[str]] = []
    for word, absent in (("bos", default), ("eos", False)):
        wanted = metadata.flag(f"tokenizer.ggml.add_{word}_token", absent)
        token = _token(metadata, tokens, word)
        if wanted and token is None and f"tokenizer.ggml.add_{word}_token" in metadata.header.values:
            raise metadata.wrong(f"tokenizer.ggml.add_{word}_token", f"is true, but there is no {word}_token_id")
        ends.append([token] if wanted and token is not None else [])
    if not any(ends):
        return None
    before, behind = ([{"SpecialToken": {"id": token, "type_id": 0}} for token in end] for end in ends)
    known = {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for end in ends for token in end}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    single = [*before, first, *behind]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, second], "special_tokens": known}


# -------------------------------------------------------------------------------------------------------- the two kinds


def _model(vocab: Mapping[str, int], merges: list[list[str]], **settings: Any) -> Part:
    unset = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **unset, **flags, **settings, "vocab": vocab, "merges": merges}


def _cut(metadata: Metadata) -> Cut:
    key = "tokenizer.ggml.pre"
    word = metadata.text(key, "")
    if word not in CUTS:
        stated = f"{key} {word[:40]!r} is not supported{did_you_mean(word, CUTS)}" if word else f"has no {key}"
        raise ConfigUnsupported(
            f"{metadata.header.path}: {stated}, which says how text is cut into words: convert the model with a newer "
            f"converter, or load its Hub folder"
        )
    return CUTS[word]


def _byte_level(metadata: Metadata, tokens: Sequence[str], cut: Cut) -> Part:
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = []
    for merge in metadata.strings("tokenizer.ggml.merges"):
        pair = merge.split(" ")
        if len(pair) != 2 or not (pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab):
            raise metadata.wrong("tokenizer.ggml.merges", f"holds {merge[:60]!r}, which is no pair of the vocabulary")
        merges.append(pair)
    return {
        "normalizer": cut.normaliser,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut.parts},
        "decoder": _bytes(splits=True),
        "model": _model(vocab, merges, ignore_merges=cut.whole),
    }


def _sentencepiece(metadata: Metadata, tokens: Sequence[str], types: Sequence[int]) -> Part:
    """BPE over characters, a space written as its own letter; characters that are no piece become bytes."""
    spelled = [token.replace(" ", SPACE) if kind == USER_DEFINED else token for token, kind in zip(tokens, types)]
    vocab = {token: number for number, token in enumerate(spelled)}
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders: list[Part] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    prepend = {"type": "Prepend", "prepend": SPACE}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace] if prefix else [replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*decoders, strip] if prefix else decoders},
        "model": _model(
            vocab, _merges(metadata, spelled, types, vocab), unk_token=_token(metadata, tokens, "unknown"), fuse_unk=True,
            byte_fallback=BYTE in types,
        ),
    }  # fmt: skip


def _merges(
    metadata: Metadata, tokens: Sequence[str], types: Sequence[int], vocab: Mapping[str, int]
) -> list[list[str]]:
    """The pairs of pieces that make a piece, best score first; those that the user defined before all others."""
    scores = metadata.numbers("tokenizer.ggml.scores").tolist()
    if len(scores) != len(tokens):
        raise metadata.wrong("tokenizer.ggml.scores", f"has {len(scores)} scores for {len(tokens)} tokens")
    pieces = {number for number, kind in enumerate(types) if kind not in (UNKNOWN, CONTROL, BYTE)}
    rank = {number: (1, -scores[number]) if types[number] != USER_DEFINED else (0, 0.0) for number in pieces}
    merges: list[list[str]] = []
    for number in sorted(pieces, key=lambda number: (rank[number], number)):
        token = tokens[number]
        if len(token) <= MOST_LETTERS:
            halves = ([token[:at], token[at:]] for at in range(len(token) - 1, 0, -1))
            merges += [pair for pair in halves if vocab.get(pair[0]) in pieces and vocab.get(pair[1]) in pieces]
        if len(merges) > MOST_MERGES:
            raise metadata.wrong("tokenizer.ggml.tokens", f"makes more than {MOST_MERGES} merges")
    return merges
