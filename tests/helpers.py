"""Small tokenizers in the styles of released checkpoints, written as folders that transformers reads too."""

import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ROLES = (
    "{% for message in messages %}{% if message.role == 'user' %}<role>HUMAN</role>{{ message.content }}<|role_end|>"
    "{% else %}<role>{{ message.role | upper }}</role>{{ message.content }}<|role_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)
CORPUS = [
    "Natalia sold 48 clips to her friends in April, and then half as many in May. How many clips?",
    "The quick brown fox jumps over the lazy dog; the dog sleeps on a warm stone. <tags> and [brackets] | pipes",
    "def f(x):\n    return x + 1\n\nprint(f(41))  # user assistant system",
]


def write(folder: pathlib.Path, tokenizer: Tokenizer, settings: dict) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def special(*literals: str, **options) -> list[AddedToken]:
    return [AddedToken(literal, special=True, normalized=False, **options) for literal in literals]


def byte_level(folder: pathlib.Path, literals: tuple[str, ...], template: str, **settings) -> pathlib.Path:
    """Qwen, Llama-3 and LLaDA style: bytes, control tokens after the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(special(*literals))
    return write(folder, tokenizer, {"chat_template": template, **settings})


def metaspace(folder: pathlib.Path, template: str, scheme: str, **settings) -> pathlib.Path:
    """Llama-2 and Gemma style: control tokens inside the vocabulary, a space before the first word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "<s>", "</s>", "<mask>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([*special("<unk>", "<s>", "</s>", "<mask>"), *special("<turn>", rstrip=True)])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return write(folder, tokenizer, {"chat_template": template, **names, **settings})


def word_level(folder: pathlib.Path, words: tuple[str, ...], **settings) -> pathlib.Path:
    """The embedded models' style: a closed list of words, digits one by one, newline a word."""
    controls = ("<pad>", "<mask>", "<eos>", "<bos>", "<user>", "<asst>")
    vocabulary = [*controls, "\n", "    ", "<unk>", *"0123456789", *words]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.add_special_tokens(special(*controls))
    template = "<bos><user>{{ messages[-1].content }}<asst>"
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return write(folder, tokenizer, {"chat_template": template, "jaxdlm_join": "words", **names, **settings})
