"""Every option of `generate` and `batch` reaches what it is for, or is refused."""

import dataclasses
import pathlib
import re
import types

import pytest

from jaxdlm import InputError, cli
from jaxdlm.batch import ray, run
from jaxdlm.batch.cli import batch, join
from tests.batch.jobs import rows, write
from tests.conformance.toys import model
from tests.speculative.toys import model as causal
from tests.test_every_argument import with_words

# option -> (words, message or None, other usual words)
BATCH = {
    "input": (["OTHER"], None, []),
    "output": (["--output", "ELSEWHERE"], None, []),
    "schema": (["--schema", "openai"], None, []),
    "shard_rows": (["--shard-rows", "7"], None, []),
    "flush": (["--flush", "1"], None, []),
    "grace": (["--grace", "1"], None, []),
    "gate": (["--gate", "0.5"], None, []),
    "patience": (["--patience", "2"], "--patience 2 means nothing without --gate", []),
    "new_run": (["--new-run"], None, []),
    "quiet": (["--quiet"], None, []),
    "model": (["--model", "tiny-ar"], None, []),
    "policy": (["--policy", "random"], None, []),
    "cache": (["--cache", "prefix"], None, []),
    "max_new": (["--max-new", "9"], None, []),
    "block": (["--block", "3"], None, []),
    "seed": (["--seed", "5"], None, []),
    "raw": (["--raw"], None, []),
    "stop": (["--stop", "x"], None, []),
    "no_stop": (["--no-stop"], None, []),
    "choices": (["--choices", "a,b"], None, []),
    "regex": (["--regex", "a"], None, []),
    "json_schema": (["--json-schema", "SCHEMA"], None, []),
    "any_json": (["--any-json"], None, []),
    "lark": (["--lark", "SCHEMA"], None, []),
    "depth": (["--depth", "1"], None, []),
    "system": (["--system", "Be terse."], None, []),
    "tools": (["--tools", "TOOLS"], None, []),
    "chat_template_kwargs": (["--chat-template-kwargs", '{"a": 1}'], None, []),
    "slots": (["--slots", "3"], None, []),
    "rows_per_program": (["--rows-per-program", "3"], None, []),
    "order": (["--order", "input"], None, []),
    "window": (["--window", "5"], None, []),
    "mesh": (["--mesh", "data=2"], None, []),
    "worker": (["--worker"], None, []),
    "lease": (["--lease", "9"], None, []),
    "distributed": (["--distributed"], None, []),
    "coordinator": (["--coordinator", "a:1"], "--coordinator a:1 means nothing without --distributed", []),
    "hosts": (["--hosts", "2"], "--hosts 2 means nothing without --distributed", []),
    "host": (["--host", "1"], "--host 1 means nothing without --distributed", []),
    "traceback": ([], None, []),
}
TOGETHER = [
    (["--worker", "--distributed"], "exclude each other"),
    (["--worker", "--new-run"], "--new-run would remove"),
    (["--gate", "0.5", "--schema", "openai"], "leave one out"),
    (["--gate", "-1"], "--gate=-1"),
    (["--regex", "a", "--any-json"], "regex and json exclude each other"),
    (["--chat-template-kwargs", "{a"], "--chat-template-kwargs is no JSON"),
    (["--chat-template-kwargs", '{"messages": 1}'], "'messages' cannot be given there"),
    (["--tools", "SCHEMA"], "tools={}: must be a list"),
    (["--slots", "4", "--rows-per-program", "8"], "leave --slots out"),
    (["--policy", "autoregressive", "--model", "tiny-ar", "--block", "4"], "block=4: an autoregressive model"),
    (["--policy", "autoregressive", "--model", "tiny-ar", "--cache", "prefix"], "leave cache out"),
]


@pytest.mark.slow
def test_every_option_of_batch_reaches_the_job_or_is_refused(tmp_path, monkeypatch, capsys):
    jobs = []

    def job(options, lm, policies, cache, mesh, index):
        run.make_engine(
            lm, policies, cache, max_new=options.max_new, block=options.block, mesh=mesh, slots=options.slots
        )
        jobs.append([*map(repr, dataclasses.astuple(options)), lm.name, repr(policies), repr(cache), mesh.shape, index])
        return types.SimpleNamespace(run=lambda: 0)

    models = {"tiny": model("same"), "tiny-ar": causal(0)}
    monkeypatch.setattr("jaxdlm.load", lambda name, mesh: dataclasses.replace(models[name], name=name))
    monkeypatch.setattr("jaxdlm.load", lambda name, mesh: dataclasses.replace(models[name], name=name))
    monkeypatch.setattr(run, "job", job)
    monkeypatch.setattr(
        "jaxdlm.batch.cli.join", lambda *given: (1, 2) if None not in given or not any(given) else 1 / 0
    )
    places = {"IN": write(tmp_path / "in.jsonl", rows(3)), "OTHER": write(tmp_path / "b.jsonl", rows(4))}
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "tools.json").write_text('[{"name": "f"}]')
    places["TOOLS"] = str(tmp_path / "tools.json")
    places["SCHEMA"] = str(tmp_path / "schema.json")
    places |= {"OUT": str(tmp_path / "out"), "ELSEWHERE": str(tmp_path / "elsewhere")}

    def started(*words):
        given = [places.get(word, word) for word in words]
        status = cli.main(["batch", *given])
        return status, "".join(line for line in capsys.readouterr().err.splitlines() if not line.startswith("# mesh "))

    usual = ["--output", "OUT", "--policy", "threshold"]
    assert started("IN", *usual)[0] == 0
    assert {parameter.name for parameter in batch.params} | {"traceback"} == set(BATCH), "a case for each"
    for name, (words, message, own) in BATCH.items():
        if name in ("traceback", "model"):
            continue  # of `jaxdlm` itself; below
        source = words if name == "input" else ["IN", *usual, *own, *words]
        status, line = started(*(source if name != "input" else [*words, *usual]))
        if message is None:
            assert (status, line) == (0, ""), f"{name}: {line}"
            assert jobs[-1] != jobs[0], f"{name} changes nothing"
        else:
            assert status == 2 and message in line, f"{name}: {line}"
    with pytest.raises(InputError, match="--hosts and --host go together"):
        join(None, 2, None)
    for words, message in TOGETHER:
        status, line = started("IN", "--output", "OUT", *words)
        assert status == 2 and message in line, (words, line)
    assert started("IN", "--output", "OUT", "--model", "tiny-ar", "--policy", "autoregressive")[0] == 0
    assert jobs[-1] != jobs[0]


GENERATE = {
    "prompts": ["OTHER"],
    "model": ["PROMPT", "--model", "tiny-ar"],
    "policy": ["PROMPT", "--policy", "random"],
    "cache": ["PROMPT", "--cache", "prefix"],
    "max_new": ["PROMPT", "--max-new", "9"],
    "block": ["PROMPT", "--block", "3"],
    "temperature": ["PROMPT", "--temperature", "1"],
    "seed": ["PROMPT", "--seed", "5"],
    "raw": ["PROMPT", "--raw"],
    "stop": ["PROMPT", "--stop", "x"],
    "no_stop": ["PROMPT", "--no-stop"],
    "choices": ["PROMPT", "--choices", "a,b"],
    "regex": ["PROMPT", "--regex", "a"],
    "json_schema": ["PROMPT", "--json-schema", "pyproject.toml"],
    "any_json": ["PROMPT", "--any-json"],
    "lark": ["PROMPT", "--lark", "pyproject.toml"],
    "depth": ["PROMPT", "--any-json", "--depth", "1"],
    "system": ["PROMPT", "--system", "x"],
    "tools": ["PROMPT", "--tools", "TOOLS"],
    "chat_template_kwargs": ["PROMPT", "--chat-template-kwargs", '{"a": 1}'],
    "prefill": ["PROMPT", "--prefill", "x"],
    "rows_per_program": ["PROMPT", "--rows-per-program", "3"],
    "as_json": ["PROMPT", "--json"],
    "watch": ["PROMPT", "--watch"],
    "html": ["PROMPT", "--html", "page.html"],
}


def test_every_option_of_generate_reaches_the_decode_or_what_shows_it(tmp_path, monkeypatch):
    calls, out = [], types.SimpleNamespace(status=["finished"])
    models = {name: dataclasses.replace(with_words(model("same")), name=name) for name in ("tiny", "tiny-ar")}
    monkeypatch.setattr("jaxdlm.load", lambda name: models[name])
    monkeypatch.setattr("jaxdlm.decode", lambda lm, *given, **named: calls.append((lm.name, given, named)) or out)
    monkeypatch.setattr(cli, "_followed", lambda as_json, lm, *given, **named: calls.append(given) or out)
    monkeypatch.setattr(cli, "_report", lambda lm, prompts, ids, out, seconds, *rest: calls.append(rest))
    assert {parameter.name for parameter in cli.generate.params} == set(GENERATE), "a case for each"
    seen = {}
    (tools := tmp_path / "tools.json").write_text('[{"name": "f"}]')
    for name, words in {"": ["PROMPT"], **GENERATE}.items():
        calls.clear()
        assert cli.main(["generate", *[str(tools) if word == "TOOLS" else word for word in words]]) == 0
        seen[name] = repr(calls)
        assert not name or seen[name] != seen[""], f"{name} changes nothing"


def test_every_field_of_a_job_is_read():
    """By the batch package, whose Python interface these two are."""
    text = "".join(path.read_text() for path in pathlib.Path(run.__file__).parent.glob("*.py"))
    for field in dataclasses.fields(run.Options):
        if field.name == "cache":
            continue  # a word; the cache itself is handed to the job beside its options
        assert re.search(rf"options\.{field.name}\b", text), field.name
    for field in dataclasses.fields(ray.Settings):
        assert re.search(rf"settings\.{field.name}\b", text), field.name
