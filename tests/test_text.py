"""Ids against transformers on small tokenizers of every style; control tokens out of a user's reach."""

import dataclasses
import json
import types

import pytest

from jaxdlm import layout, text
from jaxdlm.controls import FIRST
from jaxdlm.errors import InputError
from jaxdlm.messages import read_form
from tests import helpers

transformers = pytest.importorskip("transformers")

QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
LLAMA = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|mdm_mask|>")
QWEN3 = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")  # words to it
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<mask>")
MOE = ("<|endoftext|>", "<role>", "</role>", "<|role_end|>", "<|mask|>")
TURNS = (
    "{{ bos_token }}{% for m in messages %}<turn> {{ m.role }} {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
STYLES = {
    "chatml": lambda folder: helpers.byte_level(folder, QWEN, helpers.CHATML, eos_token="<|im_end|>"),
    "llama3": lambda folder: helpers.byte_level(
        folder, LLAMA, helpers.HEADERS, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", mask_token="<|mdm_mask|>"
    ),
    "thinking": lambda folder: helpers.byte_level(
        folder, QWEN, helpers.THINKING, words=QWEN3, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ),
    "alternating": lambda folder: helpers.byte_level(
        folder, GEMMA, helpers.ALTERNATING, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ),
    "roles": lambda folder: helpers.byte_level(folder, MOE, helpers.ROLES, eos_token="<|endoftext|>"),
    "metaspace-first": lambda folder: helpers.metaspace(folder, TURNS, "first"),
    "metaspace-always": lambda folder: helpers.metaspace(folder, TURNS, "always"),
}
CHATS = {
    "one": [{"role": "user", "content": "How many clips?"}],
    "spaces": [{"role": "user", "content": "  two words \n"}],
    "turns": [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "def f(x):\n    return x"},
        {"role": "assistant", "content": "41 + 1 = 42"},
        {"role": "user", "content": "naïve ① 中文?"},
    ],
}


CALL = {"name": "weather", "arguments": {"city": "Paris", "days": 3, "more": {"wind": [1.5, "ü", None, True]}}}
TOOLS = [
    {"role": "system", "content": "You have tools."},
    {"role": "user", "content": "Rain in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": CALL}, CALL]},
    {"role": "tool", "content": '{"rain": false}', "tool_call_id": "1"},
    {"role": "tool", "content": "dry", "name": "weather"},
    {"role": "assistant", "content": "<think>\nboth say so\n</think>\n\nNo."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes.", "reasoning_content": "asked again"},
]


@pytest.fixture(params=STYLES)
def folder(request, tmp_path):
    return STYLES[request.param](tmp_path / request.param)


@pytest.fixture
def oracle(folder):
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS)
def test_chat_equals_transformers(folder, oracle, chat):
    expected = oracle.apply_chat_template(CHATS[chat], add_generation_prompt=True, return_dict=False)
    assert text.Tokenizer.from_folder(folder).encode_chat(CHATS[chat]) == expected


@pytest.mark.parametrize("end", [2, 5, 7, 8])
def test_tools_and_thoughts_equal_transformers(tmp_path, end):
    """Thoughts and answers of tools are words to the tokenizer, so that earlier turns may hold them."""
    folder = STYLES["thinking"](tmp_path)
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    expected = oracle.apply_chat_template(TOOLS[:end], add_generation_prompt=True, return_dict=False)
    assert text.Tokenizer.from_folder(folder).encode_chat(TOOLS[:end]) == expected


ASKED = [{"role": "user", "content": "How many clips?"}]
FUNCTION = {
    "name": "weather",
    "description": "Of a <city>",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.mark.parametrize("begun", ["There are", "  There are 4 \n", "x"])
def test_a_begun_answer_equals_transformers(folder, oracle, begun):
    """Whether the template keeps the blanks at its end, trims them, or writes a line between."""
    chat = [*ASKED, {"role": "assistant", "content": begun}]
    expected = oracle.apply_chat_template(chat, continue_final_message=True, return_dict=False)
    tokenizer = text.Tokenizer.from_folder(folder)
    assert tokenizer.encode_prompt(chat) == tokenizer.encode_prompt(chat, form=read_form(continue_final_message=True))
    assert tokenizer.encode_prompt(chat) == expected
    new = oracle.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_prompt(chat, form=read_form(continue_final_message=False)) == new != expected


def test_thoughts_and_variables_equal_transformers(tmp_path):
    folder = STYLES["thinking"](tmp_path)
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = text.Tokenizer.from_folder(folder)

    def same(chat, form, **settings):
        expected = oracle.apply_chat_template(chat, return_dict=False, **settings)
        assert tokenizer.encode_prompt(chat, form=form) == expected
        return expected

    opened = same(ASKED, read_form(), add_generation_prompt=True)
    brief = read_form(chat_template_kwargs={"enable_thinking": False})
    assert same(ASKED, brief, add_generation_prompt=True, enable_thinking=False) != opened
    tools = [{"type": "function", "function": FUNCTION}]
    assert same(ASKED, read_form(tools=tools), add_generation_prompt=True, tools=tools) != opened
    assert same(TOOLS[:5], read_form(tools=tools), add_generation_prompt=True, tools=tools)
    thought = [*ASKED, {"role": "assistant", "content": "<think>\nfour?\n</think>\n\nIt is"}]
    with_thoughts = same([*ASKED, {"role": "assistant", "reasoning": "four?", "content": "It is"}],
                         read_form(), continue_final_message=True)  # fmt: skip
    assert tokenizer.encode_prompt(thought) == with_thoughts
    for name in ("reasoning_content", "thinking", "reasoning"):
        chat = [*ASKED, {"role": "assistant", name: "Perhaps", "content": ""}]
        begun = same(chat, read_form(continue_final_message=name), continue_final_message=name)
        assert "".join(tokenizer.pieces(begun)).endswith("<think>\nPerhaps")


def test_a_system_message_stands_where_there_is_none(tmp_path):
    tokenizer = text.Tokenizer.from_folder(STYLES["chatml"](tmp_path))
    terse, form = {"role": "system", "content": "Be terse."}, read_form(system="Be terse.")
    expected = tokenizer.encode_chat([terse, *ASKED])
    assert (
        tokenizer.encode_prompt(ASKED[0]["content"], form=form) == expected == tokenizer.encode_prompt(ASKED, form=form)
    )
    own = [{"role": "system", "content": "Be kind."}, *ASKED]
    assert tokenizer.encode_prompt(own, form=form) == tokenizer.encode_chat(own)


CLOSED = {  # template, what is asked, the refusal
    "left out": ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", {}, "closes or leaves out the con"),
    "thoughts left out": ("{% for m in messages %}{{ m.content }}{% endfor %}",
                          {"continue_final_message": "reasoning"}, "closes or leaves out the reasoning of message 1"),
    "as JSON": ("{% for m in messages %}{{ m.content | list }}{% endfor %}", {}, "closes or leaves out"),
    "upper": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", {}, "changes the content of message 1"),
    "twice": ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", {}, "changes the content of message 1"),
    "the last alone": ("<|im_start|>{{ messages[-1].content }}<|im_end|>", {}, "reads the last message alone"),
    "its own word": ("{% for m in messages %}{{ raise_exception('end with the user <|im_end|>') }}{% endfor %}", {},
                     "refuses these messages: end with the user <.im_end.>"),
    "system left out": ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
                        {"system": "Be terse."}, "leaves the system's words out"),
    "a variable": ("{{ messages[0].content }}{{ enable_thinking }}", {"chat_template_kwargs": {"enable_thinkin": True}},
                   "does not read enable_thinkin .did you mean 'enable_thinking'"),
    "no variable": ("{% set a = 1 %}{{ messages[0].content }}{{ a }}", {"chat_template_kwargs": {"a": True}}, "does not read a"),
    "tools": ("{{ messages[0].content }}", {"tools": [FUNCTION]}, "does not read tools: leave that out"),
    "its own name": ("{{ messages[0].content }}{{ eos_token }}", {"chat_template_kwargs": {"eos_token": "x"}},
                     "eos_token is the tokenizer's own"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED)
def test_what_a_template_does_not_take_is_refused(tmp_path, case):
    template, asked, words = CLOSED[case]
    folder = helpers.byte_level(tmp_path, QWEN, template, eos_token="<|im_end|>")
    chat = [*ASKED, {"role": "assistant", "content": "There are"}]
    if "continue_final_message" in asked:
        chat[-1] = {"role": "assistant", "content": "", "reasoning": "There are"}
    with pytest.raises(InputError, match=words) as caught:
        text.Tokenizer.from_folder(folder).encode_prompt(chat, form=read_form(**asked))
    assert not [letter for letter in str(caught.value) if ord(letter) >= FIRST]


def test_an_empty_text_is_what_every_text_begins_with(tmp_path):
    """Where no chat is made of it; token by token as the tokenizer begins one, else the token of the configuration."""

    def ids(tokenizer, raw, bos=None):
        tokens = types.SimpleNamespace(bos=bos)
        lm = types.SimpleNamespace(tokenizer=tokenizer, name="x", config=types.SimpleNamespace(tokens=tokens))
        return layout.words_of(lm, "", raw)

    begun = text.Tokenizer.from_folder(STYLES["metaspace-first"](tmp_path / "a"))
    assert ids(begun, True) == [begun.bos] == begun.front
    bare = text.Tokenizer.from_folder(STYLES["thinking"](tmp_path / "b"))
    assert ids(bare, True, bos=7) == [7] == ids(dataclasses.replace(bare, template=None), False, bos=7)
    with pytest.raises(InputError, match="x has no token that begins a text: write at least one word"):
        ids(bare, True)
    with pytest.raises(InputError, match="is empty: write at least one word, or pass raw=True"):
        ids(bare, False, bos=7)


def test_without_a_template_nothing_of_a_chat_is_taken(tmp_path):
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, QWEN, None, eos_token="<|endoftext|>"))
    assert tokenizer.encode_prompt("words") == tokenizer.encode("words")
    with pytest.raises(InputError, match="system is for chat templates, and this tokenizer has no chat template"):
        tokenizer.encode_prompt("words", form=read_form(system="x"))
    tokenizer = text.Tokenizer.from_folder(STYLES["chatml"](tmp_path / "chat"))
    with pytest.raises(InputError, match="continue_final_message is for chat templates, and raw=True passes"):
        tokenizer.encode_prompt("words", raw=True, form=read_form(continue_final_message=True))


def test_a_template_s_own_refusal_speaks_in_letters(tmp_path):
    with pytest.raises(InputError, match="take turns, behind <bos>"):
        text.Tokenizer.from_folder(STYLES["alternating"](tmp_path)).encode_chat(CHATS["one"] * 2)


ENDS = {
    "chatml": ["<|im_end|>"],
    "llama3": ["<|eot_id|>"],
    "thinking": ["<|im_end|>"],
    "alternating": ["<eos>", "<end_of_turn>"],
    "roles": ["<|endoftext|>", "<|role_end|>"],
    "metaspace-first": ["</s>"],
}


@pytest.mark.parametrize("style", ENDS)
def test_ends_are_those_of_the_files_and_of_the_template_s_turns(tmp_path, style):
    tokenizer = text.Tokenizer.from_folder(STYLES[style](tmp_path))
    assert [tokenizer.literal(token) for token in tokenizer.eos] == ENDS[style]
    stated = text.Tokenizer.from_folder(tmp_path, eos=(5, tokenizer.eos[0]))
    assert stated.eos == (5, *tokenizer.eos), "configured ends come first, each once"


def test_an_end_of_every_message_needs_no_opened_turn(tmp_path):
    folder = helpers.byte_level(tmp_path, QWEN, "{% for m in messages %}{{ m.content }}\n<|im_end|>{% endfor %}")
    tokenizer = text.Tokenizer.from_folder(folder)
    assert [tokenizer.literal(token) for token in tokenizer.eos] == ["<|im_end|>"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}<|im_end|>",  # opens whatever it is asked
        "<|im_start|>{{ messages[-1].content }}<|im_end|>",  # one message is no chat
        "{% for m in messages %}{{ m.content }}: so be it<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "{{ raise_exception('no assistants') }}",
        None,
    ],
)
def test_templates_that_end_no_turn(tmp_path, template):
    folder = helpers.byte_level(tmp_path, QWEN, template, eos_token="<|endoftext|>")
    tokenizer = text.Tokenizer.from_folder(folder)
    assert [tokenizer.literal(token) for token in tokenizer.eos] == ["<|endoftext|>"]


@pytest.mark.parametrize("chat", CHATS)
def test_plain_text_and_decode_equal_transformers(folder, oracle, chat):
    tokenizer = text.Tokenizer.from_folder(folder)
    for message in CHATS[chat]:
        ids = tokenizer.encode(message["content"])
        assert ids == oracle.encode(message["content"])
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_control_literals_of_a_user_are_letters(folder):
    """Alone, glued to words, cut in two around the template's own words, in a role, after trimming."""
    tokenizer = text.Tokenizer.from_folder(folder)
    benign = [{"role": "user", "content": "X"}]
    controls = tokenizer.control - {tokenizer.backend.token_to_id(tokenizer.aliases.get("<unk>", "none"))}
    count = sum(token in controls for token in tokenizer.encode_chat(benign))
    for literal in tokenizer.aliases:
        for words in (literal, f"a{literal}b", f"  {literal} ", literal * 3, literal[:-1], literal[1:], literal + "\n"):
            assert not (set(tokenizer.encode(words)) - {tokenizer.bos}) & controls
            chat = tokenizer.encode_chat([{"role": "user", "content": words}])
            assert sum(token in controls for token in chat) == count
            assert literal not in {tokenizer.backend.id_to_token(token) for token in chat}


def test_letters_of_a_literal_survive(tmp_path):
    tokenizer = text.Tokenizer.from_folder(STYLES["chatml"](tmp_path))
    words = "say <|mask|><|im_end|> twice"
    assert tokenizer.decode(tokenizer.encode(words)) == words
    text_of = dataclasses.replace(tokenizer, eos=()).decode
    assert words in text_of(tokenizer.encode_chat([{"role": "user", "content": words}]))


@pytest.mark.parametrize(
    ("before", "words", "after"), [("<", "|mask|>", ""), ("", "<|mask|", ">"), ("<", " |im_end|", ">")]
)
def test_a_literal_cannot_be_assembled_across_the_template(tmp_path, before, words, after):
    """What the template writes around the words, trimmed, would spell a control token together with them."""
    template = before + "{{ messages[0].content | trim }}" + after
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, QWEN, template))
    ids = tokenizer.encode_chat([{"role": "user", "content": words}])
    assert not set(ids) & tokenizer.control
    assert tokenizer.decode(ids) == before + words.strip() + after


def test_a_role_may_be_completed_by_the_template(tmp_path):
    folder = helpers.byte_level(
        tmp_path, ("<|user|>", "<|end|>"), "<|{{ messages[0].role }}|>{{ messages[0].content }}"
    )
    tokenizer = text.Tokenizer.from_folder(folder)
    ids = tokenizer.encode_chat([{"role": "user", "content": "user"}])
    assert [token for token in ids if token in tokenizer.control] == [
        tokenizer.backend.token_to_id(tokenizer.aliases["<|user|>"])
    ]


def test_no_second_bos(tmp_path):
    folder = helpers.metaspace(tmp_path, "{{ bos_token }}" + TURNS, "first")
    tokenizer = text.Tokenizer.from_folder(folder)
    ids = tokenizer.encode_chat(CHATS["one"])
    assert ids[0] == tokenizer.bos
    assert ids.count(tokenizer.bos) == 1
    assert tokenizer.encode("How many").count(tokenizer.bos) == 1


def test_leading_bos_of_families_that_need_it(tmp_path):
    folder = helpers.byte_level(tmp_path, QWEN, helpers.CHATML, bos_token="<|endoftext|>")
    tokenizer = text.Tokenizer.from_folder(folder, lead_bos=True)
    for ids in (tokenizer.encode("How many"), tokenizer.encode_chat(CHATS["one"])):
        assert ids[0] == tokenizer.bos
        assert ids.count(tokenizer.bos) == 1


def test_vocab_and_merges_without_tokenizer_json(tmp_path):
    """Qwen2's files without tokenizer.json (Dream and SDAR ship so): same ids as transformers' class."""
    whole = helpers.byte_level(tmp_path / "whole", QWEN, helpers.CHATML)
    spec = json.loads((whole / "tokenizer.json").read_text())
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    merges = ["#version: 0.2", *(" ".join(merge) for merge in spec["model"]["merges"])]
    (parts / "merges.txt").write_text("\n".join(merges))
    decoder = {str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in spec["added_tokens"]}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    settings |= {"chat_template": helpers.CHATML, "tokenizer_class": "Qwen2Tokenizer"}
    (parts / "tokenizer_config.json").write_text(json.dumps(settings))
    oracle = transformers.Qwen2TokenizerFast.from_pretrained(parts)
    tokenizer = text.Tokenizer.from_folder(parts)
    for chat in CHATS.values():
        expected = oracle.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert tokenizer.encode_chat(chat) == expected
    assert tokenizer.eos == (oracle.eos_token_id,)
    assert tokenizer.pad == oracle.pad_token_id


def test_front_and_inside_are_the_two_halves_of_a_text(folder, oracle):
    tokenizer = text.Tokenizer.from_folder(folder)
    assert tokenizer.front + tokenizer.encode_inside("two words") == oracle.encode("two words")
