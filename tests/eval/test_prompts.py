"""The prompts for real models: the file that ships, and what a file of them may not hold."""

import json

import pytest

from jaxdlm.errors import InputError
from jaxdlm.eval import prompts

GOOD = {"id": "chat-1", "kind": "chat", "messages": [{"role": "user", "content": "Hello, who are you?"}]}
ANSWER, AGAIN = {"role": "assistant", "content": "I am here."}, {"role": "user", "content": "And who else?"}


def test_eight_of_each_of_ten_kinds_all_different():
    found = prompts.of_each()
    assert len(found) == 80 and len(prompts.KINDS) == 10
    assert [prompt.kind for prompt in found] == [kind for kind in prompts.KINDS for _ in range(8)]
    assert [prompt.id for prompt in found] == [f"{kind}-{i}" for kind in prompts.KINDS for i in range(1, 9)]
    asked = [prompt.messages[-1]["content"] for prompt in found]
    assert len(set(asked)) == 80 and all(20 < len(text) < 1500 and text == text.strip() for text in asked)
    for prompt in found:
        assert (len(prompt.messages) > 1) == (prompt.kind == "multi_turn")
    assert [prompt.id for prompt in prompts.of_each(2)][:4] == ["chat-1", "chat-2", "summary-1", "summary-2"]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"kind": "poem"}, r"line 2\.kind='poem': must be one of chat, summary"),
        ({"id": 7}, r"line 2\.id=7: must be a string"),
        ({"id": "chat-1"}, r"line 2\.id='chat-1' was there before"),
        ({"messages": None}, "line 2 has no messages"),
        ({"messages": "Hello"}, r"line 2\.messages='Hello': must be a list"),
        ({"messages": []}, "must end with the user's"),
        ({"messages": [*GOOD["messages"], ANSWER]}, "must end with the user's"),
        ({"messages": [AGAIN, AGAIN, AGAIN]}, "must take turns"),
        ({"messages": [{"role": "system", "content": "x"}]}, r"line 2\.messages\[0\]\.role='system'"),
        ({"messages": [{"role": "user"}]}, r"line 2\.messages\[0\] has no content"),
    ],
)
def test_a_line_that_is_none_is_named(change, named):
    with pytest.raises(InputError, match=named):
        prompts.read([json.dumps(GOOD), json.dumps({**GOOD, "id": "chat-2", **change})])


def test_turns_and_lines_are_read():
    (found,) = prompts.read([json.dumps({**GOOD, "messages": [*GOOD["messages"], ANSWER, AGAIN]})])
    assert found.messages[-1] == AGAIN and len(found.messages) == 3
    with pytest.raises(InputError, match="line 1 is not JSON"):
        prompts.read(["{"])
