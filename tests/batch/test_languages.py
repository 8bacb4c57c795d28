"""Rows of a batch that ask for a language: in our own names, in vLLM's and in OpenAI's; each gets what `decode` gives."""

import json

import pytest

import jaxdlm as jd
from jaxdlm import cli, decode
from jaxdlm.batch.rows import randomness_key
from jaxdlm.errors import InputError
from jaxdlm.structured import asked_by
from tests.batch.jobs import job, read, write
from tests.marks import exhaustive

WORDS = r"\[ [A-Z][a-z]+( , [A-Z][a-z]+)* \]"
PROMPT = "reverse : [ Alan , Kate , Omar ]"
RUN = {"max_new": 16, "block": 16, "policy": "threshold"}


@pytest.mark.slow
def test_rows_belong_to_their_own_languages_and_are_those_of_decode(tmp_path):
    lm = jd.load("tiny")
    languages = [
        {"regex": WORDS}, {"structured_outputs": {"choice": ["[ Omar ]", "[ Kate , Omar ]"]}}, {},
        {"choices": ["[ Alan ]", "[ Omar , Kate ]"]}, {"regex": r"\[ [A-Z][a-z]+ \]"},
    ]  # fmt: skip
    rows = [{"id": f"row {i}", "prompt": PROMPT} | each for i, each in enumerate(languages)]
    assert job(write(tmp_path / "in.jsonl", rows), tmp_path / "out", lm=lm, **RUN).run() == 0
    asked = [{"regex": WORDS}, {"choices": ["[ Omar ]", "[ Kate , Omar ]"]}, {}, *languages[3:]]
    for row, own, got in zip(rows, asked, read(tmp_path / "out"), strict=True):
        key = [randomness_key(row["id"])]
        alone = decode(lm, [PROMPT], "threshold", max_new=16, block=16, ids=key, **own)
        assert (got["text"], got["tokens"]) == (alone.text[0], alone.tokens[0].tolist())


def test_a_bad_language_is_its_rows_error_and_one_of_the_job_refuses_the_job(tmp_path):
    lm = jd.load("tiny")
    rows = [
        {"id": 0, "prompt": PROMPT}, {"id": 1, "prompt": PROMPT, "regex": "(?=a)"},
        {"id": 2, "prompt": PROMPT, "regex": WORDS, "json": True},
        {"id": 3, "prompt": PROMPT, "structured_outputs": {"structural_tag": "x"}},
        {"id": 4, "prompt": PROMPT, "regex": WORDS, "stop": "Kate"},
    ]  # fmt: skip
    source = write(tmp_path / "in.jsonl", rows)
    job(source, tmp_path / "out", lm=lm, **RUN).run()
    answered, *errors = read(tmp_path / "out")
    assert answered["status"] == "eos" and all(row["status"] == "error" for row in errors)
    for line, (row, words) in enumerate(zip(errors, ["(?=", "regex and json", "structural_tag", "'Kate'"]), start=2):
        assert row["error"].startswith(f"line {line}") and words in row["error"]
    with pytest.raises(InputError, match="stop='Kate' may stand inside an answer"):
        job(source, tmp_path / "other", lm=lm, **RUN | {"language": ("regex", WORDS), "stop": ["Kate"]})
    with pytest.raises(InputError, match="needs at least"):
        job(source, tmp_path / "other", lm=lm, **RUN | {"language": ("regex", r"\[ ([A-Z][a-z]+ , ){40}\]")})


def test_the_language_of_a_job_is_part_of_it(tmp_path):
    lm, source = jd.load("tiny"), write(tmp_path / "in.jsonl", [{"id": 0, "prompt": PROMPT}])
    assert job(source, tmp_path / "out", lm=lm, **RUN, language=("choices", ["[ Omar ]", "[ Kate ]"])).run() == 0
    assert read(tmp_path / "out")[0]["text"] in ("[ Omar ]", "[ Kate ]")
    with pytest.raises(InputError, match=r"belongs to another job: language"):
        job(source, tmp_path / "out", lm=lm, **RUN, language=("choices", ["[ Omar ]"])).run()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ("json_object", True)),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}},
         ("json_schema", {"type": "null"})),
        ({"structured_outputs": {"json": {"type": "null"}}}, ("json_schema", {"type": "null"})),
        ({"structured_outputs": {"json_object": True}}, ("json_object", True)),
        ({"structured_outputs": {"regex": "a+", "choice": None}}, ("regex", "a+")),
        ({"structured_outputs": {"choice": ["a"]}}, ("choices", ["a"])),
        ({"lark": "start: x", "regex": None}, ("lark", "start: x")),
        ({"grammar": {"regex": "a+"}}, ("regex", "a+")),
    ],
)  # fmt: skip
def test_names_of_others(fields, wanted):
    assert asked_by(fields, "line 1") == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}}, {"response_format": "json"}, {"response_format": {"type": "json_schema"}},
        {"structured_outputs": {"grammar": "root ::= 'a'"}}, {"structured_outputs": {"regx": "a"}},
        {"structured_outputs": "a"}, {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
        {"regex": "a", "choices": ["b"]},
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_line(fields):
    with pytest.raises(InputError, match=r"^line 1"):
        asked_by(fields, "line 1")


def test_openai_bodies(tmp_path):
    lm = jd.load("tiny")
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16}
    rows = [
        {"custom_id": "a", "body": body | {"structured_outputs": {"choice": ["[ Omar ]", "[ Kate ]"]}}},
        {"custom_id": "b", "body": body | {"response_format": {"type": "text"}}},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    assert job(source, tmp_path / "out", lm=lm, **RUN, schema="openai").run() == 0
    first, second = (row["response"]["body"]["choices"][0] for row in read(tmp_path / "out"))
    assert first["message"]["content"] in ("[ Omar ]", "[ Kate ]") and first["finish_reason"] == "stop"
    assert second["message"]["content"] == "[ Omar , Kate , Alan ]"


def test_a_grammar_on_the_command_line(capsys, tmp_path):
    pytest.importorskip("lark")
    (rules := tmp_path / "rules.lark").write_text("start: x")
    run = ["generate", PROMPT, "--max-new", "16", "--lark", str(rules)]
    assert cli.main(run) == cli.BAD_INPUT
    assert "'x' used but not defined" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert cli.main([*run, "--regex", "a"]) == cli.BAD_INPUT
    assert cli.main([*run[:-1], str(tmp_path / "none")]) == cli.BAD_INPUT


def test_the_command_line(capsys, tmp_path):
    run = ["generate", PROMPT, "--max-new", "16", "--block", "16"]
    assert cli.main([*run, "--choices", "[ Omar ],[ Kate ]"]) == cli.OK
    assert capsys.readouterr().out.strip() in ("[ Omar ]", "[ Kate ]")
    assert cli.main([*run, "--regex", r"\[ [A-Z][a-z]+ \]"]) == cli.OK
    assert capsys.readouterr().out.count(" ") == 2
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"enum": ["Omar"], "color": 1}))
    assert cli.main([*run, "--json-schema", str(schema)]) == cli.BAD_INPUT
    assert "color" in capsys.readouterr().err
    assert cli.main([*run, "--regex", "a", "--any-json"]) == cli.BAD_INPUT
    assert "regex and json" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["autoregressive", exhaustive("lookup")])
def test_autoregressive_rows_belong_to_their_languages(policy, tmp_path):
    lm = jd.load("tiny-ar")
    languages = [{"regex": WORDS}, {"choices": ["[ Omar ]", "[ Kate , Omar ]"]}, {}, {"regex": r"\[ [A-Z][a-z]+ \]"}]
    rows = [{"id": f"row {i}", "prompt": PROMPT} | each for i, each in enumerate(languages)]
    source = write(tmp_path / "in.jsonl", rows)
    run = {"max_new": 16, "policy": policy, "slots": 2}
    assert job(source, tmp_path / "out", lm=lm, **run).run() == 0
    answers = read(tmp_path / "out")
    for own, got in zip(languages, answers, strict=True):
        alone = decode(lm, [PROMPT], "autoregressive", max_new=16, **own)
        assert (got["text"], got["tokens"]) == (alone.text[0], alone.tokens[0].tolist())
    texts = [answer["text"] for answer in answers]
    assert texts[1] in languages[1]["choices"] and texts[3].count(" ") == 2 and texts[0] == texts[2]
