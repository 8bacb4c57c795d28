"""Models without weights: a tokenizer and the ids that a grammar reads of a configuration."""

import functools
import json
import pathlib
import random
import tempfile
import types

from jaxdlm import text
from jaxdlm.models.config import TokenIds
from tests import helpers

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
SENTENCEPIECE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}  # fmt: skip
SEVEN = ("a", "b", "ab", "0", "1", "01", "<eos>")


def model(tokenizer, size=None, **ids):
    tokens = TokenIds(**{"eos": tokenizer.eos, "mask": tokenizer.mask, **ids})
    return types.SimpleNamespace(
        tokenizer=tokenizer, config=types.SimpleNamespace(vocab_size=size or tokenizer.size, tokens=tokens)
    )


def of_words(words, decoder=BYTES, size=None, settings=(), mask=None):
    """A model whose tokens are these words, control tokens in angle brackets, <eos> among them."""
    vocab = {word: index for index, word in enumerate(words)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": index, "content": word, **plain}
        for word, index in vocab.items()
        if word[0] == "<" and word[-1] == ">" and word[1] != "0" and len(word) > 2
    ]
    parts = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "padding", "truncation"))
    kind = {"type": "BPE", "vocab": vocab, "merges": []}
    spec = {"version": "1.0", **parts, "added_tokens": added, "decoder": decoder, "model": kind}
    ends = {"eos_token": "<eos>"} if "<eos>" in vocab else {}
    return model(text.build(spec, ends | dict(settings), None, mask=mask), size)


@functools.cache
def byte_level():
    """A byte-level BPE of 700 tokens, trained on JSON and prose; two control tokens and an end."""
    draw = random.Random(0)
    names = ["name", "age", "tags", "score", "city", "active", "email", "note"]
    rows = [json.dumps({key: draw.choice([17, "Paris", True, None, [1, 2.5], {"a": "é"}]) for key in names})
            for _ in range(60)]  # fmt: skip
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False, max_token_length=12)
    tokenizer.train_from_iterator([*rows, *helpers.CORPUS], trainer)
    tokenizer.add_special_tokens(helpers.special("<mask>", "<eos>", "<user>"))
    with tempfile.TemporaryDirectory() as folder:
        where = helpers.write(pathlib.Path(folder), tokenizer, {"eos_token": "<eos>", "mask_token": "<mask>"})
        made = text.Tokenizer.from_folder(where, mask=tokenizer.token_to_id("<mask>"))
    return model(made, made.size + 5)


def wander(grammar, draw, most=200):
    """Ids of a random text: a random live token at a time, towards the end once `most` is near."""
    state, ids = grammar.start, []
    by_class = {}
    for token, kind in enumerate(grammar.classes.tolist()):
        by_class.setdefault(kind, []).append(token)
    while True:
        row = grammar.next[state]
        open_ = [kind for kind in range(1, grammar.number_of_classes) if row[kind]]
        if len(ids) > most:
            least = min(grammar.distance[row[kind]] for kind in open_)
            open_ = [kind for kind in open_ if grammar.distance[row[kind]] == least]
        if grammar.accepting[state] and (len(ids) > most or draw.random() < 0.3):
            return ids
        kind = draw.choice(open_)
        ids.append(draw.choice(by_class[kind]))
        state = row[kind]
