"""Which ids are words: masks, ends and pads of the configuration, and what no file calls special."""

import json

import pytest

from jaxdlm import text
from jaxdlm.errors import InputError
from tests import helpers
from tests.test_text import QWEN, STYLES

transformers = pytest.importorskip("transformers")


def test_mask_that_no_file_calls_special(tmp_path):
    """The model's configuration knows the mask id; its literal in a text must not become it."""
    tokenizer = helpers.byte_level(tmp_path, QWEN[:3], helpers.CHATML, eos_token="<|im_end|>")
    spec = json.loads((tokenizer / "tokenizer.json").read_text())
    mask = max(entry["id"] for entry in spec["added_tokens"]) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    spec["added_tokens"].append({"id": mask, "content": "<|mdm_mask|>", **plain})
    (tokenizer / "tokenizer.json").write_text(json.dumps(spec))
    loaded = text.Tokenizer.from_folder(tokenizer, mask=mask)
    assert mask not in loaded.encode("a <|mdm_mask|> b")
    assert mask not in loaded.encode_chat([{"role": "user", "content": "a <|mdm_mask|> b"}])
    assert loaded.decode([mask, *loaded.encode("b")]) == "b"


def word(folder, letters):
    """The id of an ordinary word of a byte-level vocabulary."""
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][letters]


@pytest.mark.parametrize("letters, spelled", [("Ċ", "\n"), ("!", "!"), ("Ġthe", " the")])
def test_ends_and_pads_of_the_configuration_stay_words(tmp_path, letters, spelled):
    """An end that is a line break, a pad that is id 0: prompts and answers keep them, and the end ends."""
    folder = STYLES["chatml"](tmp_path)
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    token, words = word(folder, letters), f"one{spelled} two{spelled}{spelled} dogs"
    chat = [{"role": "user", "content": words}]
    expected = oracle.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    padded = text.Tokenizer.from_folder(folder, pad=token)
    assert padded.encode(words) == oracle.encode(words) and padded.encode_chat(chat) == expected
    assert padded.decode(padded.encode(words)) == words and padded.pad == token
    ended = text.Tokenizer.from_folder(folder, eos=(token,))
    assert ended.encode(words) == oracle.encode(words) and ended.encode_chat(chat) == expected
    assert ended.decode(ended.encode(words)) == "one"
    assert ended.words == padded.words, "nothing is renamed: pairs of models know each other"


@pytest.mark.parametrize("marked", [False, True])
def test_single_letters_are_words_even_where_the_tokenizer_calls_them_special(tmp_path, marked):
    """CLIP's pad is '!': every text would lose its exclamation marks, since bytes spell them no other way."""
    controls = QWEN + ("!", "\n") if marked else QWEN
    folder = helpers.byte_level(tmp_path, controls, helpers.CHATML, eos_token="<|im_end|>", pad_token="!")
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = text.Tokenizer.from_folder(folder)
    words = "So! Two!!\nlines"
    assert tokenizer.encode(words) == oracle.encode(words)
    assert tokenizer.decode(tokenizer.encode(words)) == words
    assert tokenizer.pad == oracle.pad_token_id


def test_a_mask_that_is_a_word_comes_from_no_text(tmp_path):
    """It cannot be spelled otherwise, so the prompt that spells it is refused; answers do not show it."""
    folder = STYLES["chatml"](tmp_path)
    mask = word(folder, "Ġthe")
    tokenizer = text.Tokenizer.from_folder(folder, mask=mask)
    assert mask not in tokenizer.encode("other words")
    for encode in (tokenizer.encode, tokenizer.encode_inside, tokenizer.encode_prompt):
        with pytest.raises(InputError, match=rf"the prompt spells 'Ġthe', .* mask token \(id {mask}\)"):
            encode("over the dog")
    assert tokenizer.decode([mask, *tokenizer.encode("dog")]) == "dog"


def test_a_mask_that_is_the_unknown_token_comes_from_no_text(tmp_path):
    folder = STYLES["metaspace-first"](tmp_path)
    known = text.Tokenizer.from_folder(folder)
    tokenizer = text.Tokenizer.from_folder(folder, mask=known.backend.token_to_id(known.aliases["<unk>"]))
    assert tokenizer.encode("How many") == known.encode("How many")
    with pytest.raises(InputError, match="the prompt spells '<unk>'"):
        tokenizer.encode_chat([{"role": "user", "content": "中"}])


def test_names_and_marks_of_every_file_count(tmp_path):
    """special_tokens_map.json where the settings list no tokens; what the settings list as special."""
    folder = helpers.byte_level(tmp_path, QWEN[:3], helpers.CHATML, words=("<|mask|>",))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": {"content": "!"}})
    )
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = text.Tokenizer.from_folder(folder)
    assert (tokenizer.eos, tokenizer.pad) == ((oracle.eos_token_id,), oracle.pad_token_id)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    mask = oracle.convert_tokens_to_ids("<|mask|>")
    assert mask in tokenizer.encode("a <|mask|>"), "an added word, as it is to transformers"
    listed = {str(mask): {"content": "<|mask|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": listed}))
    marked = text.Tokenizer.from_folder(folder)
    assert mask in marked.control and mask not in marked.encode("a <|mask|>")
    assert marked.pad is None
