"""Chats as they come in: what is joined, what is kept, and every refusal by the place it names."""

import json

import pytest

from jaxdlm import text
from jaxdlm.errors import InputError
from jaxdlm.messages import DEPTH, plain, read_form
from tests import helpers


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def test_text_parts_are_joined():
    assert plain([{"role": "user", "content": parts("Add ", "1 and ", "2")}]) == [
        {"role": "user", "content": "Add 1 and 2"}
    ]
    assert (
        plain([{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": None}]}])[0]["content"]
        == "x"
    )
    assert plain(({"role": "user", "content": "x"}, {"role": "user", "content": []}))[1]["content"] == ""


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content }}", "{% for x in messages[0].content %}{{ x }}{% endfor %}{{ messages }}"]
)
def test_a_template_reads_the_same_from_parts_and_from_a_string(tmp_path, template):
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, ("<|end|>",), template))
    whole = tokenizer.encode_chat([{"role": "user", "content": "What is it?"}])
    assert tokenizer.encode_chat([{"role": "user", "content": parts("What is", " it?")}]) == whole


def test_keys_keep_their_order_and_null_is_absent():
    call = {"id": "1", "function": {"name": "f", "arguments": {"b": 1, "a": [None, True, 1.5]}}}
    message = {"role": "assistant", "name": None, "tool_calls": [call], "content": None, "refusal": None}
    read = plain([{"role": "user", "content": "x", "name": "Ann"}, message])
    assert json.dumps(read) == json.dumps(
        [{"role": "user", "content": "x", "name": "Ann"}, {"role": "assistant", "tool_calls": [call], "content": ""}]
    )
    assert read[1]["tool_calls"][0] is not call, "a template may change what it is given"


def test_thoughts_go_by_each_of_their_names_and_nothing_is_no_call():
    """As servers hand messages out, and as templates read them."""
    message = {"role": "assistant", "content": "4", "reasoning": "2 + 2", "tool_calls": [], "annotations": []}
    assert plain([message]) == [
        {"role": "assistant", "content": "4", "thinking": "2 + 2", "reasoning": "2 + 2", "reasoning_content": "2 + 2"}
    ]


USER, SAID = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
CALLING = {"role": "assistant", "content": "y", "tool_calls": [{"function": {"name": "f"}}]}
RESUMED = {  # messages, continue_final_message, the field, or the refusal
    "the assistant's": ([USER, SAID], None, "content"),
    "the model's": ([USER, {"role": "model", "content": "y"}], None, "content"),
    "the user's": ([USER], None, None),
    "a call": ([USER, CALLING], None, None),
    "nothing": ([USER, SAID | {"content": " "}], None, None),
    "an own message": ([USER, SAID], False, None),
    "stated": ([USER, SAID], True, "content"),
    "thoughts": ([USER, {"role": "assistant", "content": "", "thinking": "z"}], "thinking", "thinking"),
    "the user's, stated": ([USER], True, "message 0 is not the assistant's .user."),
    "a call, stated": ([USER, CALLING], True, "message 1 ends with tool_calls, and nothing goes on behind these"),
    "nothing, stated": ([USER, SAID | {"content": " "}], True, "message 1 has no words of content to go on with"),
    "no thoughts": ([USER, SAID], "thinking", "message 1 has no words of thinking"),
    "closed thoughts": (
        [USER, SAID | {"thinking": "z"}],
        "thinking",
        "message 1 has content, behind which its thinking",
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_an_answer_goes_on_with_the_last_words_of_the_assistant(name):
    messages, stated, expected = RESUMED[name]
    form = read_form(continue_final_message=stated)
    if expected is None or " " not in expected:
        assert form.resumed(form.chat(messages)) == expected
        return
    with pytest.raises(InputError, match=expected):
        form.resumed(form.chat(messages))


FORMS = {
    "system is empty": ({"system": " "}, "system is empty"),
    "system is a list": ({"system": ["x"]}, "system=.*: must be a string"),
    "system is private": ({"system": "\U00100001"}, r"private character U\+100001"),
    "tools are an object": ({"tools": {"name": "f"}}, "tools=.*: must be a list"),
    "a tool is a string": ({"tools": ["f"]}, r"tools\[0\]='f': must be an object"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, r"tools\[0\] is no function"),
    "a tool with a private key": ({"tools": [{"name": "f", "\U0010ffff": 1}]}, r"private character U\+10FFFF"),
    "a tool with a set": ({"tools": [{"name": "f", "parameters": {1}}]}, r"tools\[0\] holds of type set"),
    "variables are a list": ({"chat_template_kwargs": [1]}, "chat_template_kwargs=.*: must be an object"),
    "messages": ({"chat_template_kwargs": {"messages": []}}, "'messages' cannot be given there: they are the prompt"),
    "tools elsewhere": ({"chat_template_kwargs": {"tools": []}}, "'tools' cannot be given there: give them as tools"),
    "no name": ({"chat_template_kwargs": {"a b": 1}}, "'a b' cannot be given there"),
    "a private value": ({"chat_template_kwargs": {"a": ["\U00100005"]}}, r"private character U\+100005"),
    "deep": ({"chat_template_kwargs": {"a": [[[[]]] * 2] * 2, "b": {"c": object}}}, "chat_template_kwargs holds of type type"),
    "a field": ({"continue_final_message": "contents"}, "continue_final_message='contents': must be one of .*'content'"),
    "a number": ({"continue_final_message": 1}, "continue_final_message=1: must be true or false"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_what_is_no_form_is_refused_by_name(name):
    arguments, why = FORMS[name]
    with pytest.raises(InputError, match=why):
        read_form(**arguments)


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


BAD = {
    "a string": ("hello", "a chat is a list of .*, not str"),
    "one message": ({"role": "user", "content": "x"}, "a chat is a list of .*, not dict"),
    "strings": (["hello"], "message 0 is not .*'hello'"),
    "no role": ([{"content": "x"}], "message 0 is not {'role': ..., 'content': ...}"),
    "no content": ([{"role": "user"}], "message 0 is not"),
    "null": ([{"role": "user", "content": None}], "message 0 is not"),
    "no words": ([{"role": "user", "content": " \n"}, {"role": "user", "content": parts("")}], "the prompt is empty"),
    "no messages": ([], "the prompt is empty"),
    "role is a number": ([{"role": 1, "content": "x"}], "message 0: role is a number: write a string"),
    "object": ([{"role": "user", "content": {"<mask>": 1}}], "message 0: content is an object: write a string"),
    "number": ([{"role": "user", "content": 5}], "message 0: content is a number"),
    "truth value": ([{"role": "user", "content": True}], "message 0: content is a truth value"),
    "bytes": ([{"role": "user", "content": b"x"}], "message 0: content is of type bytes"),
    "part is a string": ([{"role": "user", "content": ["x"]}], "message 0: part 0 is a string"),
    "part is null": ([{"role": "user", "content": [None]}], "message 0: part 0 is null"),
    "image": (
        [{"role": "user", "content": [*parts("x"), {"type": "image_url", "image_url": {"url": "x"}}]}],
        "message 0: part 1 has type 'image_url', and this model reads text alone",
    ),
    "no type": ([{"role": "user", "content": [{"text": "x"}]}], "message 0: part 0 has type None"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], "message 0: part 0: text is null"),
    "text is an object": (
        [{"role": "user", "content": [{"type": "text", "text": {"<mask>": 1}}]}], "part 0: text is an object"
    ),
    "more than text": (
        [{"role": "user", "content": [{"type": "text", "text": "x", "citations": []}]}], "part 0 has 'citations' beside"
    ),
    "key is a number": ([{"role": "user", "content": "x", 1: "y"}], "message 0 is a number: write a string"),
    "other value": ([{"role": "user", "content": "x", "audio": {"id": 1}}], "message 0: audio is an object"),
    "weight": ([{"role": "user", "content": "x", "weight": 0}], "message 0: weight is a number"),
    "calls hold a set": ([{"role": "user", "content": "x", "tool_calls": [{1}]}], "tool_calls holds of type set"),
    "calls hold NaN": ([{"role": "user", "content": "x", "tool_calls": float("nan")}], "tool_calls holds a number"),
    "key of a call": ([{"role": "user", "content": "x", "tool_calls": [{1: 2}]}], "tool_calls: a key is a number"),
    "deep": ([{"role": "user", "content": "x", "tool_calls": deep(1000)}], f"nested more than {DEPTH} deep"),
    "private": ([{"role": "user", "content": "a\U00100001"}], r"private character U\+100001 at 1"),
    "private in a part": ([{"role": "user", "content": parts("\U0010fffd")}], r"private character U\+10FFFD at 0"),
    "private key": ([{"role": "user", "content": "x", "\U00100001": "y"}], r"private character U\+100001 at 0"),
    "private role": ([{"role": "\U00100001", "content": "x"}], r"private character U\+100001 at 0"),
    "private, deep": (
        [{"role": "user", "content": "x", "tool_calls": [{"a": {"\U00100001": 1}}]}], r"private character U\+100001"
    ),
    "surrogate": ([{"role": "user", "content": "x", "tool_calls": [{"a": "\ud800"}]}], "half of a surrogate pair"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_names_the_message_and_what_it_holds(name):
    messages, why = BAD[name]
    with pytest.raises(InputError, match=why) as caught:
        plain(messages)
    assert "\n" not in str(caught.value)
