"""The command line: parsing, the JSON contract, exit statuses and one-line errors. The model is a stub or `tiny`."""

import json
import pathlib
import subprocess
import sys

import pytest

from jaxdlm import cli
from jaxdlm.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
FIELDS = {"id", "prompt", "text", "tokens", "forwards", "tokens_per_forward", "status", "seconds"}


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ("threshold", ("threshold", {})),
        ("threshold,tau=0.9", ("threshold", {"tau": 0.9})),
        (
            "prophet,steps=8,thresholds=(7.5, 5.0, 2.5),official=true",
            ("prophet", {"steps": 8, "thresholds": (7.5, 5.0, 2.5), "official": True}),
        ),
        ("ccd,mode=paper,depth=None,flag=FALSE", ("ccd", {"mode": "paper", "depth": None, "flag": False})),
        ("a, b = 1e-3 ,c=-2", ("a", {"b": 0.001, "c": -2})),
    ],
)
def test_policy_arguments_are_typed(words, parsed):
    assert cli.parse_policy(words) == parsed
    assert all(type(value) is type(parsed[1][key]) for key, value in cli.parse_policy(words)[1].items())


@pytest.mark.parametrize(
    "words", ["threshold,tau", "threshold,=1", "threshold,tau=", "threshold,tau=1,tau=2", "t,1a=2"]
)
def test_bad_policy_arguments(words):
    with pytest.raises(InputError, match="policy argument"):
        cli.parse_policy(words)


def run(*arguments: str, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxdlm", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture(scope="module")
def prompts():
    done = run("examples")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_examples_and_json(prompts, tmp_path):
    """Every line of `examples` is a prompt; prompts come from arguments and stdin; stdout holds only JSON."""
    page = tmp_path / "page.html"
    done = run("generate", prompts[0], "-", "--json", "--html", str(page), "--watch", input=prompts[1] + "\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == prompts[:2]
    assert [row["id"] for row in rows] == [0, 1]
    for row in rows:
        assert set(row) == FIELDS
        assert row["forwards"] >= 1
        assert row["tokens_per_forward"] > 0
        assert row["seconds"] > 0
        assert all(isinstance(token, int) for token in row["tokens"])
        assert isinstance(row["text"], str)
    assert "forwards" in done.stderr
    assert page.read_text().startswith("<!doctype html>")


def test_examples_of_a_task_are_held_out_and_repeatable(capsys):
    from jaxdlm.eval.task import TASKS

    name = next(iter(TASKS))
    arguments = ["examples", "--task", name, "--n", "3", "--json"]
    printed = []
    for _ in range(2):
        assert cli.main(arguments) == cli.OK
        printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert printed[0] == printed[1]
    assert [row["task"] for row in printed[0]] == [name] * 3
    assert all(row["prompt"] and row["answer"] for row in printed[0])
    assert cli.main(["examples", "--task", "nonsense"]) == cli.BAD_INPUT


def test_same_seed_same_answer(prompts, capsys):
    answers = []
    for seed in ("7", "7"):
        arguments = [
            "generate",
            prompts[0],
            "--policy",
            "low_confidence",
            "--temperature",
            "1",
            "--seed",
            seed,
            "--json",
        ]
        assert cli.main(arguments) == cli.OK
        answers.append(json.loads(capsys.readouterr().out)["tokens"])
    assert answers[0] == answers[1]


def test_a_bad_prompt_does_not_harm_the_others(prompts, capsys):
    assert cli.main(["generate", prompts[0], "xyzzy plugh", prompts[1], "--json"]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert [json.loads(line)["id"] for line in printed.out.splitlines()] == [0, 2]
    assert "prompt 1: unknown word 'xyzzy'" in printed.err


BAD = {
    "empty prompt": (["generate", ""], "empty"),
    "unknown word": (["generate", "xyzzy"], "xyzzy"),
    "unknown policy": (["generate", "a", "--policy", "treshold"], "did you mean 'threshold'"),
    "unknown argument": (["generate", "a", "--policy", "threshold,tua=1"], "tua"),
    "argument out of range": (["generate", "a", "--policy", "threshold,tau=-3"], "tau"),
    "unknown model": (["generate", "a", "--model", "tinny"], "did you mean 'tiny'"),
    "model without a tokenizer": (["generate", "a", "--model", "shape:llada-8b"], "random weights and no tokenizer"),
    "canvas policy with a block cache": (
        ["generate", "PROMPT", "--policy", "prophet", "--cache", "dual"],
        "this prophet",
    ),
    "unknown cache": (["generate", "PROMPT", "--cache", "nnone"], "cache"),
    "block 0": (["generate", "PROMPT", "--block", "0"], "block"),
    "max-new 0": (["generate", "PROMPT", "--max-new", "0"], "max_new"),
    "max-new beyond the model": (["generate", "PROMPT", "--max-new", "100000"], "100000"),
    "seed no number": (["generate", "a", "--seed", "x"], "--seed"),
    "no command": ([], "COMMAND"),
    "no prompt": (["generate"], "PROMPT"),
    "unwritable page": (["generate", "PROMPT", "--html", "/nonexistent/page.html"], "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, prompts, capsys):
    arguments, named = BAD[case]
    arguments = [prompts[0] if word == "PROMPT" else word for word in arguments]
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("#")]
    assert status == cli.BAD_INPUT
    assert len(lines) == 1, printed.err
    assert named in lines[0]
    assert "Traceback" not in printed.err


def test_a_failure_of_the_work_is_status_1(monkeypatch, capsys):
    def explode(args):
        raise RuntimeError("disk\non fire")

    monkeypatch.setattr(cli, "list_policies", explode)
    assert cli.main(["policies"]) == cli.FAILED
    assert capsys.readouterr().err.startswith("jaxdlm: RuntimeError: disk on fire")


def test_policies_lists_every_recipe(capsys):
    from jaxdlm import policies

    assert cli.main(["policies", "--json"]) == cli.OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["method"] for row in rows} == set(policies.RECIPES)
    assert all(set(row) == set(cli.COLUMNS) for row in rows)
    assert cli.main(["policies"]) == cli.OK
    table = capsys.readouterr().out
    assert all(name in table for name in policies.RECIPES)
