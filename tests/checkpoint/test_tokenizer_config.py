"""tokenizer_config.json, chat_template.json and generation_config.json: what passes as it is, what is named."""

import json

import pytest

from jaxdlm.checkpoint.source import generation
from jaxdlm.checkpoint.tokenizer_config import SETTINGS, read_settings, read_template
from jaxdlm.errors import InputError
from jaxdlm.models.hub_config import GENERATION
from jaxdlm.text import Tokenizer
from tests import helpers

HOSTILE = (
    [], [1], [[]], [None], {}, {"x": 1}, {"x": {}}, {"7": {}}, {"7": {"content": 7}}, {"content": 5}, "x", "", True, 0, -1,
    0.5, 2**40, 10**3000, [{"name": "default"}], [{"template": "x"}], [{"name": 1, "template": "x"}], [10**10], [0],
    {"4000000": {"content": "x"}}, {"²": {"content": "x"}}, {"-1": {"content": "x"}}, {"7": {"content": "x", "special": "no"}},
)  # fmt: skip
REAL = {
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
    "eos_token": "</s>",
    "pad_token": None,
    "additional_special_tokens": ["<a>", {"content": "<b>"}],
    "extra_special_tokens": {"image_token": "<image>"},
    "added_tokens_decoder": {"7": {"content": "<s>", "special": True, "lstrip": False}},
    "chat_template": [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}],
    "model_max_length": 1e30,
    "tokenizer_class": "LlamaTokenizer",
}


def write(folder, name: str, values) -> None:
    (folder / name).write_text(json.dumps(values))


def test_files_of_releases_pass_as_they_are(tmp_path):
    assert read_settings(tmp_path) == {} and read_template(tmp_path) is None and generation(tmp_path) == {}
    write(tmp_path, "tokenizer_config.json", REAL)
    assert read_settings(tmp_path) == REAL
    write(tmp_path, "chat_template.json", {"chat_template": "hello"})
    assert read_template(tmp_path) == "hello"
    released = {"eos_token_id": [1, 106], "pad_token_id": -1, "temperature": 1, "max_new_tokens": 2048, "top_p": None}
    write(tmp_path, "generation_config.json", released)
    assert generation(tmp_path) == released


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_of_another_kind_is_one_line_that_names_it(tmp_path, key):
    """Or the tokenizer works."""
    helpers.word_level(tmp_path, ("Alan", "Fox"))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    refused = 0
    for value in HOSTILE:
        write(tmp_path, "tokenizer_config.json", settings | {key: value})
        try:
            tokenizer = Tokenizer.from_folder(tmp_path)
        except InputError as error:
            refused += 1
            assert f"tokenizer_config.json: {key}" in str(error), f"{value!r:.60}: {error}"
            assert "\n" not in str(error) and len(str(error)) < 600
        else:
            assert tokenizer.encode("Alan Fox")
    assert refused > len(HOSTILE) // 3


@pytest.mark.parametrize("key", GENERATION)
def test_a_field_of_generation_config_of_another_kind_is_named(tmp_path, key):
    for value in HOSTILE:
        write(tmp_path, "generation_config.json", {key: value})
        try:
            generation(tmp_path)
        except InputError as error:
            assert f"generation_config.json: {key}=" in str(error) and "\n" not in str(error)
        else:
            assert key.endswith("_token_id") and (isinstance(value, int) or value in ([], [1], [10**10], [0]))


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("generation_config.json", {"max_new_tokens": -5}, "max_new_tokens=-5: must be a whole number, at least 1"),
        ("generation_config.json", {"max_new_tokens": "abc"}, "max_new_tokens='abc': must be a whole number"),
        ("generation_config.json", {"block_length": 2**40}, "block_length=1099511627776: must be a whole number from 1"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template=5: must be a list"),
        ("tokenizer_config.json", {"chat_template": [{"template": "x"}]}, r"chat_template\[0\] has no name: add it"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<s>"}}}, "a key='x': must be an id from 0"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "<s>"}}, "added_tokens_decoder.7='<s>': must be an object"),
        ("tokenizer_config.json", {"jaxdlm_prompt_lengths": [1e10]}, r"jaxdlm_prompt_lengths\[0\]=10000000000.0: must be"),
        ("chat_template.json", {"chat_template": {}}, "chat_template={}: must be"),
    ],
)  # fmt: skip
def test_what_a_field_must_be(tmp_path, name, values, line):
    write(tmp_path, name, values)
    with pytest.raises(InputError, match=f"{name}: .*{line}"):
        read_settings(tmp_path), read_template(tmp_path), generation(tmp_path)
