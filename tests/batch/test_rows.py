"""Bad lines: one error row each, with the line and the fix, and every other row as if they were not there."""

import dataclasses
import gzip
import json
import math

import numpy as np
import pytest

from jaxdlm._load import LM, load
from jaxdlm.batch import openai
from jaxdlm.batch.rows import SHOWN, Defaults, Raw, Refusal, Request, randomness_key, read
from jaxdlm.batch.source import scan, source
from jaxdlm.errors import InputError
from jaxdlm.messages import read_form
from jaxdlm.models import Backbone
from jaxdlm.text import Tokenizer
from tests import helpers
from tests.batch.jobs import job, rows, write
from tests.batch.jobs import read as output
from tests.conformance.toy_models import END, MASK, VOCAB, model

DEFAULTS = Defaults(max_new=8, seed=3)
TOKENS = [3, 9, 4]


def parse(value, lm=None, defaults=DEFAULTS, duplicates=None):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read(Raw(4, 7, data), lm or model("same"), defaults, duplicates or {})


BAD = {
    "not JSON": (b"{nonsense", "is not JSON"),
    "torn": (b'{"id": 1, "tokens": [1, 2', "is not JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "is not UTF-8 at byte 8"),
    "deep": (b'{"a":' * 100_000, "is not JSON (nested too deep)"),
    "list": ([1, 2], "no object"),
    "number": (5, "no object"),
    "null": (b"null", "no object"),
    "no prompt": ({"id": 1}, "has no prompt: give exactly one of prompt, messages and tokens"),
    "two prompts": ({"prompt": "a", "tokens": [1]}, "prompt and tokens"),
    "empty": ({"tokens": []}, "empty"),
    "too long": ({"tokens": [1] * 200}, "more than the 128 positions"),
    "too long with its own max_new": ({"tokens": [1] * 100, "max_new": 29}, "more than the 128 positions"),
    "no id of the vocabulary": ({"tokens": [1, VOCAB]}, f"token id {VOCAB}"),
    "negative id": ({"tokens": [1, -1]}, "token id -1"),
    "parts without text": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no tokenizer"),
    "a key twice": (b'{"tokens": [3], "max_new": 4, "max_new": 5}', "the key 'max_new' stands there twice"),
    "a key twice, deep": (b'{"tokens": [3], "x": [{"a": 1, "b": {}, "a": 2}]}', "the key 'a' stands there twice"),
    "id is half a surrogate pair": (b'{"id": "a\\ud800", "tokens": [3]}', "id 'a\\ud800' holds half of a surrogate"),
    "custom id, too": (b'{"custom_id": "\\udfff", "body": {"prompt": [3]}}', "custom_id '\\udfff' holds half"),
    "huge id": ({"tokens": [10**30]}, "line 7"),
    "fractions": ({"tokens": [1.5]}, "whole numbers"),
    "truth": ({"tokens": [1, True]}, "truth value"),
    "nested": ({"tokens": [[1], [2, 3]]}, "line 7"),
    "words as tokens": ({"tokens": "abc"}, "no list"),
    "text without a tokenizer": ({"prompt": "a word"}, "no tokenizer"),
    "prompt is no string": ({"prompt": 5}, "no string"),
    "messages are strings": ({"messages": ["hello"]}, "role"),
    "id is a list": ({"id": [1], "tokens": TOKENS}, "neither a string nor a whole number"),
    "id is a truth value": ({"id": True, "tokens": TOKENS}, "neither a string"),
    "max_new is 0": ({"tokens": TOKENS, "max_new": 0}, "max_new=0: must be a whole number, at least 1"),
    "max_new is a fraction": ({"tokens": TOKENS, "max_new": 1.5}, "max_new=1.5: must be a whole number"),
    "seed is a word": ({"tokens": TOKENS, "seed": "x"}, "seed='x': must be a whole number"),
    "stop is no id": ({"tokens": TOKENS, "stop": [VOCAB]}, f"stop holds {VOCAB}"),
    "stop is an object": ({"tokens": TOKENS, "stop": {"a": 1}}, "stop="),
    "stop is text without a tokenizer": ({"tokens": TOKENS, "stop": "x"}, "no tokenizer"),
    "cold": ({"tokens": TOKENS, "temperature": -1}, "temperature=-1: must be a number from 0 to 1e+30"),
    "too hot": ({"tokens": TOKENS, "temperature": 1e31}, "temperature=1e+31: must be a number from 0 to 1e+30"),
    "infinitely hot": ({"tokens": TOKENS, "temperature": math.inf}, "temperature=inf"),
    "too hot by the OpenAI schema": (
        {"custom_id": "a", "body": {"prompt": TOKENS, "temperature": 10**39}}, "000: must be a number from 0"
    ),
    "temperature is no number": ({"tokens": TOKENS, "temperature": math.nan}, "temperature=nan"),
    "OpenAI without a body": ({"custom_id": "a"}, "needs custom_id"),
    "OpenAI with a number as id": ({"custom_id": 5, "body": {}}, "needs custom_id"),
    "OpenAI elsewhere": ({"custom_id": "a", "url": "/v1/embeddings", "body": {}}, "not served"),
    "OpenAI with tools": ({"custom_id": "a", "body": {"messages": [], "tools": [1]}}, "tools[0]=1: must be an object"),
    "OpenAI with a call": (
        {"custom_id": "a", "body": {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{x"}}]}]}},
        "message 0: tool_calls[0]: arguments is no object of JSON ('{x')"),
    "OpenAI with both": (
        {"custom_id": "a", "body": {"messages": [], "add_generation_prompt": True, "continue_final_message": True}},
        "body.add_generation_prompt True with continue_final_message True"),
    "OpenAI with neither": ({"custom_id": "a", "body": {"messages": [], "add_generation_prompt": False}}, "False with"),
    "OpenAI with its own template": ({"custom_id": "a", "body": {"messages": [], "chat_template": ""}}, "is not supported"),
    "variables of token ids": ({"tokens": TOKENS, "chat_template_kwargs": {"a": 1}}, "is token ids, which no chat template"),
    "tools that are none": ({"tokens": TOKENS, "tools": [{}]}, "tools[0] is no function"),
    "OpenAI as JSON": (
        {"custom_id": "a", "body": {"prompt": [3], "response_format": {"type": "xml"}}}, "response_format is not supported"),
    "OpenAI with two prompts": ({"custom_id": "a", "body": {"prompt": ["x", "y"]}}, "body.prompt holds 2 prompts"),
    "OpenAI with two prompts of ids": ({"custom_id": "a", "body": {"prompt": [[3], [4]]}}, "holds 2 prompts"),
    "OpenAI with an object": ({"custom_id": "a", "body": {"prompt": {"x": 1}}}, "prompt is no string"),
    "OpenAI chat without messages": (
        {"custom_id": "a", "url": openai.CHAT, "body": {"prompt": [3]}}, "/v1/chat/completions reads body.messages"),
    "OpenAI completion without a prompt": (
        {"custom_id": "a", "url": openai.COMPLETION, "body": {"messages": []}}, "/v1/completions reads body.prompt"),
    "OpenAI with two answers at best": (
        {"custom_id": "a", "body": {"prompt": [3], "best_of": 2}}, "body.best_of is not supported"),
    "more answers than there may be": ({"tokens": TOKENS, "n": 129}, "n=129: must be a whole number from 1 to 128"),
    "log-probabilities of a diffusion model": ({"tokens": TOKENS, "top_logprobs": 3}, "needs logprobs: true"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_in_one_line(name):
    value, message = BAD[name]
    found = parse(value)
    assert isinstance(found, Refusal)
    assert found.message.startswith("line 7")
    assert message in found.message
    assert "\n" not in found.message and "Traceback" not in found.message


def test_good_lines():
    assert parse({"tokens": TOKENS}).id == 4, "a row without an id goes by its number"
    own = parse({"id": "x", "tokens": [MASK, END, 0, 3], "max_new": 5, "seed": -1, "temperature": 0.25, "other": []})
    assert isinstance(own, Request)
    assert own.tokens.tolist() == [MASK, END, 0, 3], "ids are taken as they are"
    assert (own.max_new, own.seed, own.temperature) == (5, 2**31 - 1, 0.25)
    assert (parse({"tokens": TOKENS}).max_new, parse({"tokens": TOKENS}).seed) == (8, 3)
    assert parse({"tokens": TOKENS}).temperature is None
    assert parse({"tokens": TOKENS, "temperature": 1e-30}).temperature == 0.0, "as good as 0 runs as 0"
    body = {"model": "m", "prompt": TOKENS, "max_tokens": 5, "temperature": 1, "n": 1, "stop": None}
    openai_row = parse({"custom_id": "a", "method": "POST", "url": openai.COMPLETION, "body": body})
    assert (openai_row.id, openai_row.max_new, openai_row.temperature, openai_row.chat) == ("a", 5, 1.0, False)
    refused = parse({"tokens": TOKENS, "temperature": 1}, defaults=Defaults(8, 0, temperature=False))
    assert "no temperature" in refused.message
    assert "line 2 already" in parse({"id": 1, "tokens": TOKENS}, duplicates={4: 2}).message


def test_words_of_a_user_never_become_control_tokens():
    lm = load("tiny")
    prompt = lm.tokenizer.examples[0]
    same = parse({"prompt": prompt}, lm)
    assert parse({"messages": [{"role": "user", "content": prompt}]}, lm).tokens.tolist() == same.tokens.tolist()
    for literal in ("<mask>", "<eos>"):
        found = parse({"prompt": f"{prompt} {literal}"}, lm)
        assert isinstance(found, Refusal) or lm.config.tokens.mask not in found.tokens
    assert "is empty" in parse({"prompt": "  "}, lm).message
    assert "line 7: the prompt" in parse({"prompt": "xyzzy"}, lm).message


def test_randomness_keys():
    assert randomness_key(5) == 5 and randomness_key(-1) == 2**32 - 1
    keys = {randomness_key(f"row {i}") for i in range(1000)}
    assert len(keys) == 1000 and all(0 <= key < 2**32 for key in keys)
    assert randomness_key(2**40) == randomness_key(str(2**40))


def test_reading_a_file(tmp_path):
    """Blank lines and a byte order mark are no rows; gzip gives the same rows and the same fingerprint."""
    text = b'\xef\xbb\xbf{"id": 1}\n\n  \n{"id": "1"}\nno\n{"id": 1}\n{"id": 5, "to'
    (tmp_path / "in.jsonl").write_bytes(text)
    with gzip.open(tmp_path / "in.jsonl.gz", "wb") as file:
        file.write(text)
    index = scan(str(tmp_path / "in.jsonl"))
    assert index == scan(str(tmp_path / "in.jsonl.gz"))
    assert index.rows == 5
    assert index.duplicates == {3: 1}
    found = list(source(str(tmp_path / "in.jsonl")).rows(2))
    assert [(raw.row, raw.line, raw.last) for raw in found] == [(2, 5, False), (3, 6, False), (4, 7, True)]
    assert "cut off" in read(found[-1], model("same"), DEFAULTS, {}).message


@pytest.mark.parametrize("name", ["absent", "folder", "empty", "torn.gz", "no.gz", "no.parquet"])
def test_an_input_that_cannot_be_read(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "empty":
        path.write_text("\n\n")
    elif name == "torn.gz":
        path.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-12])
    elif name != "absent":
        path.write_bytes(b"plain words\n")
    with pytest.raises(InputError, match=r"input .*(cannot be read|is damaged|has no rows|needs pyarrow)"):
        scan(str(path))


@pytest.mark.slow
def test_parquet_rows_are_json_rows(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [{"id": f"row {i}", "tokens": [3, i + 1], "max_new": None if i else 5} for i in range(5)]
    parquet.write_table(arrow.Table.from_pylist(values), tmp_path / "in.parquet", row_group_size=2)
    found = [read(raw, model("same"), DEFAULTS, {}) for raw in source(str(tmp_path / "in.parquet")).rows(1)]
    lines = source(write(tmp_path / "in.jsonl", values)).rows(1)
    for ours, theirs in zip(found, [read(raw, model("same"), DEFAULTS, {}) for raw in lines], strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        assert (ours.id, ours.max_new) == (theirs.id, theirs.max_new)
    assert scan(str(tmp_path / "in.parquet")).rows == 5


def test_bad_lines_leave_the_others_alone(tmp_path):
    good = rows(9)
    clean = write(tmp_path / "clean.jsonl", good)
    assert job(clean, tmp_path / "clean").run() == 0
    bad = [value if isinstance(value, bytes) else json.dumps(value).encode() for value, _ in BAD.values()]
    lines = [json.dumps(row).encode() for row in good]
    mixed = [*bad[:7], *lines[:4], *bad[7:], lines[0], *lines[4:]]
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join([*mixed, bad[1]]))
    assert job(str(tmp_path / "mixed.jsonl"), tmp_path / "mixed").run() == 0
    found = output(tmp_path / "mixed")
    assert len(found) == len(mixed) + 1
    assert [row for row in found if row["status"] != "error"] == output(tmp_path / "clean")
    assert sum(row["status"] == "error" for row in found) == len(bad) + 2
    assert "cut off" in found[-1]["error"]
    marker = json.loads((tmp_path / "mixed" / "_SUCCESS").read_text())
    assert (marker["rows"], marker["errors"]) == (len(found), len(bad) + 2)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """The toy model with a chat template."""
    controls = ("<|im_start|>", "<|im_end|>", "<|mask|>")
    folder = helpers.byte_level(tmp_path_factory.mktemp("chat"), controls, helpers.CHATML)
    tokenizer, base = Tokenizer.from_folder(folder), model("same")
    config = dataclasses.replace(base.config, vocab_size=tokenizer.size)
    return LM(Backbone(config), base.params, tokenizer, "toy")


def test_content_in_parts_is_the_content(chatting):
    def row(content):
        return parse({"messages": [{"role": "user", "content": content}]}, chatting)

    whole = row("What is it?")
    assert (
        row([{"type": "text", "text": "What is"}, {"type": "text", "text": " it?"}]).tokens.tolist()
        == whole.tokens.tolist()
    )
    assert "line 7: the prompt: message 0: content is an object" in row({"<|mask|>": 1}).message
    assert "line 7: the prompt: message 0: part 0 has type 'image_url'" in row([{"type": "image_url"}]).message
    assert len(row({"type": "x" * 10**6}).message) <= SHOWN and len(row([{"type": "x" * 10**6}]).message) <= SHOWN


def test_completions_go_on_from_their_prompt_as_it_is(chatting):
    """No chat is made of them; a prompt of our own schema is one, unless the job says raw."""

    def row(body, **more):
        return parse(
            {"custom_id": "a", "body": {"max_tokens": 4, "response_format": {"type": "text"}, **body}} | more, chatting
        )

    plain, chat = (chatting.tokenizer.encode_prompt("Once", raw=raw) for raw in (True, False))
    assert plain != chat
    assert row({"prompt": "Once"}).tokens.tolist() == plain
    assert row({"prompt": ["Once"]}, url=openai.COMPLETION).tokens.tolist() == plain
    assert row({"prompt": [plain]}).tokens.tolist() == plain
    assert row({"messages": [{"role": "user", "content": "Once"}]}, url=openai.CHAT).tokens.tolist() == chat
    assert parse({"prompt": "Once"}, chatting).tokens.tolist() == chat
    assert parse({"prompt": "Once"}, chatting, Defaults(8, 3, raw=True)).tokens.tolist() == plain


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    """A model whose template shows functions and reads `enable_thinking`."""
    folder = helpers.byte_level(
        tmp_path_factory.mktemp("thinking"), ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), helpers.THINKING,
        eos_token="<|im_end|>",
    )  # fmt: skip
    lm = model("same")
    backbone = Backbone(dataclasses.replace(lm.config, vocab_size=400, max_position=512))
    return LM(backbone, lm.params, Tokenizer.from_folder(folder), "x")


def test_what_goes_with_a_chat_is_the_row_s_own_else_the_job_s(thinking):
    function, chat = {"name": "f", "parameters": {}}, [{"role": "user", "content": "a"}]
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1]}}}]}
    begun, brief = [*chat, {"role": "assistant", "content": "so"}], {"enable_thinking": False}

    def ids(value, **of_the_job):
        row = parse(value, thinking, Defaults(8, 3, chat=of_the_job))
        assert isinstance(row, Request), row.message
        return row.tokens.tolist()

    def shown(messages, **form):
        return thinking.tokenizer.encode_prompt(messages, form=read_form(**form))

    assert ids({"prompt": "a"}, system="s") == ids({"messages": chat, "system": "s"}) == shown(chat, system="s")
    assert ids({"messages": chat, "system": "own"}, system="s") == shown(chat, system="own") != shown(chat, system="s")
    assert ids({"messages": chat, "chat_template_kwargs": brief}) == shown(chat, chat_template_kwargs=brief)
    both = ids(
        {"prompt": "a", "chat_template_kwargs": brief}, chat_template_kwargs={"enable_thinking": True}, tools=[function]
    )
    assert both == shown(chat, chat_template_kwargs=brief, tools=[function])
    assert ids({"tokens": TOKENS}, system="s", tools=[function]) == TOKENS, "the job's words are for chats"
    assert ids({"messages": begun}) == shown(begun) != ids({"messages": begun, "continue_final_message": False})
    for body, same in (
        ({"messages": begun}, shown(begun)),
        ({"messages": begun, "continue_final_message": True, "add_generation_prompt": False}, shown(begun)),
        ({"messages": begun, "add_generation_prompt": True}, shown(begun, continue_final_message=False)),
        ({"messages": chat, "tools": [{"type": "function", "function": function}], "tool_choice": "auto"},
         shown(chat, tools=[{"type": "function", "function": function}])),
        ({"messages": chat, "tools": [], "chat_template_kwargs": brief}, shown(chat, chat_template_kwargs=brief)),
        ({"messages": [*chat, {**call, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": [1]}'}}]},
                       {"role": "tool", "content": "2", "tool_call_id": "1"}]},
         shown([*chat, call, {"role": "tool", "content": "2"}])),
    ):  # fmt: skip
        assert ids({"custom_id": "a", "body": body}) == same
    refused = parse({"messages": chat, "chat_template_kwargs": {"thinking": True}}, thinking)
    assert "line 7: the prompt: the chat template does not read thinking" in refused.message


@pytest.mark.parametrize("schema", ["native", "openai"])
def test_rows_whose_logits_break_fail_the_job_by_name(tmp_path, schema, capfd):
    """Also when nothing is left to do; the other rows are those of an undisturbed job."""
    lm, poison = model("same"), 45
    hurt = dataclasses.replace(lm, params={**lm.params, "embed": lm.params["embed"].at[poison].set(math.nan)})
    asked = [*rows(4), {"id": "hurt", "tokens": [3, poison, 9]}, *rows(6)[4:], {"id": 7, "tokens": [poison]}]
    source_ = write(tmp_path / "in.jsonl", asked)
    assert job(source_, tmp_path / "sound", schema=schema).run() == 0
    sound = output(tmp_path / "sound")
    assert capfd.readouterr().err == ""
    assert job(source_, tmp_path / "out", lm=hurt, schema=schema).run() == 1
    message = capfd.readouterr().err
    assert message.startswith("jaxdlm: 2 rows (id 'hurt', 7) ended with status \"nonfinite\": its logits")
    assert message.count("\n") == 1
    found = output(tmp_path / "out")
    assert [a == b for a, b in zip(found, sound)] == [True] * 4 + [False] + [True] * 2 + [False]
    if schema == "native":
        assert [row["status"] for row in found].count("nonfinite") == 2
    else:
        assert [row["error"] and row["error"]["code"] for row in found].count("nonfinite") == 2
        assert found[4]["response"] is None
    marker = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (marker["rows"], marker["errors"], marker["nonfinite"]) == (8, 2, 2)
    assert job(source_, tmp_path / "out", lm=hurt, schema=schema).run() == 1
    assert capfd.readouterr().err.startswith("jaxdlm: 2 rows ended with status")


def test_special_ids_in_a_prompt_stay(tmp_path):
    """The mask, the end of text and the pad in a prompt are text that is given: nothing there is written."""
    asked = [{"tokens": [3, MASK, 9, END, 0, 5]}, {"tokens": [MASK]}, {"tokens": TOKENS}]
    alone = [{"tokens": TOKENS}]
    assert job(write(tmp_path / "in.jsonl", asked), tmp_path / "out").run() == 0
    assert job(write(tmp_path / "one.jsonl", [{"tokens": [1]}, {"tokens": [1]}, *alone]), tmp_path / "one").run() == 0
    found = output(tmp_path / "out")
    assert all(row["status"] == "finished" and len(row["tokens"]) == 8 and MASK not in row["tokens"] for row in found)
    assert found[2] == output(tmp_path / "one")[2]


def test_openai_output(tmp_path):
    base = model("same")
    lm = LM(base.model, base.params, None, "toy")
    body = {"prompt": TOKENS, "max_tokens": 6}
    asked = [{"custom_id": "a", "body": body}, {"custom_id": "b", "body": {**body, "suffix": "x"}}]
    assert job(write(tmp_path / "in.jsonl", asked), tmp_path / "out", lm=lm, schema="openai").run() == 0
    good, bad = output(tmp_path / "out")
    assert set(good) == set(bad) == {"id", "custom_id", "response", "error"}
    assert good["custom_id"] == "a" and good["error"] is None and good["response"]["status_code"] == 200
    answer = good["response"]["body"]
    assert answer["object"] == "text_completion"
    assert answer["usage"]["total_tokens"] == 3 + answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert bad["response"] is None and "body.suffix" in bad["error"]["message"]
