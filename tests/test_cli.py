"""The command line: parsing, the JSON contract, exit statuses and one-line errors. The model is a stub or `tiny`."""

import dataclasses
import io
import json
import pathlib
import subprocess
import sys

import pytest

import jaxdlm
from jaxdlm import cli, command
from jaxdlm.core.carry import Status
from jaxdlm.errors import InputError
from jaxdlm.policy_words import parse_policy

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
    assert parse_policy(words) == parsed
    assert all(type(value) is type(parsed[1][key]) for key, value in parse_policy(words)[1].items())


@pytest.mark.parametrize(
    "words", ["threshold,tau", "threshold,=1", "threshold,tau=", "threshold,tau=1,tau=2", "t,1a=2"]
)
def test_bad_policy_arguments(words):
    with pytest.raises(InputError, match="policy argument"):
        parse_policy(words)


def run(*arguments: str, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxdlm", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture(scope="module")
def prompts():
    done = run("examples")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
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


def test_a_prompt_of_several_lines_is_one_line_that_generate_reads_back(monkeypatch):
    odd = ["sudoku : 20\n34", '"quoted"', " a space in front", "plain"]
    lines = [cli._quoted(prompt) for prompt in odd]
    assert lines[3] == "plain" and not any("\n" in line for line in lines)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, '"not closed']) + "\n"))
    assert cli.read_prompts(["-"]) == [*odd, '"not closed']


@pytest.mark.parametrize("name", ["tiny", "tiny-ar"])
def test_examples_are_of_learned_tasks(name, capsys):
    """The words of a prompt name its task; what never reached its gate is not offered."""
    assert cli.main(["examples", "--model", name, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    gates = json.loads((pathlib.Path(jaxdlm.__file__).parent / "assets" / name / "recipe.json").read_text())[
        "gate_passed"
    ]
    known = {x.prompt: x.task for task in gates for x in make_tasks(task)}
    assert len(rows) == 12 and len({row["id"] for row in rows}) == 12
    assert all(gates[known[row["prompt"]]] for row in rows)


def make_tasks(task):
    from jaxdlm.eval.task import make

    return make(task, 12, "test", 0)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_bad_prompt_does_not_harm_the_others(prompts, capsys):
    assert cli.main(["generate", prompts[0], "xyzzy plugh", prompts[1], "--json"]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert [json.loads(line)["id"] for line in printed.out.splitlines()] == [0, 2]
    assert "prompt 1: unknown word 'xyzzy'" in printed.err


def test_an_answer_whose_logits_broke_is_named_and_fails(prompts, capsys, monkeypatch):
    """Beside one that cannot be read, and one that is answered."""
    whole = jaxdlm.decode

    def second_breaks(*args, **settings):
        out = whole(*args, **settings)
        return dataclasses.replace(out, status=[out.status[0], Status.NONFINITE])

    monkeypatch.setattr(jaxdlm, "decode", second_breaks)
    assert cli.main(["generate", prompts[0], "xyzzy plugh", prompts[1], "--json"]) == cli.FAILED
    printed = capsys.readouterr()
    assert [json.loads(line)["status"] for line in printed.out.splitlines()][1] == "nonfinite"
    broken = [line for line in printed.err.splitlines() if "no whole answer" in line]
    assert len(broken) == 1 and broken[0].startswith("jaxdlm: prompt 2 ")


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
        "this policy looks at the whole canvas",
    ),
    "unknown cache": (["generate", "PROMPT", "--cache", "nnone"], "cache"),
    "block 0": (["generate", "PROMPT", "--block", "0"], "block"),
    "max-new 0": (["generate", "PROMPT", "--max-new", "0"], "max_new"),
    "max-new beyond the model": (["generate", "PROMPT", "--max-new", "100000"], "100000"),
    "seed no number": (["generate", "a", "--seed", "x"], "--seed"),
    "argument of nothing": (["generate", "a", "--policy", "threshold,tau=none"], "tau=None"),
    "temperature twice": (["generate", "a", "--policy", "threshold,temperature=1", "--temperature", "1"], "keep one"),
    "max-new beyond all numbers": (["generate", "PROMPT", "--max-new", "1" + "0" * 20], "max_new"),
    "seed beyond all numbers": (["generate", "PROMPT", "--seed", "1" + "0" * 20], "--seed"),
    "somebody's model": (["generate", "a", "--model", "~nobody-of-this-name/x"], "model='~nobody-of-this-name/x'"),
    "a model of 5,000 letters": (["generate", "a", "--model", "x" * 5000], "model='xxx"),
    "no model": (["generate", "a", "--model", ""], "model='': must be a path"),
    "no page": (["generate", "a", "--html", ""], "--html='': must be a path"),
    "block of an autoregressive model": (
        ["generate", "PROMPT", "--model", "tiny-ar", "--policy", "autoregressive", "--block", "4"],
        "block=4: an autoregressive model writes no blocks",
    ),
    "cache of an autoregressive model": (
        ["generate", "PROMPT", "--model", "tiny-ar", "--policy", "autoregressive", "--cache", "prefix"],
        "leave cache out",
    ),
    "too many slots": (["batch", "in", "--output", "o", "--slots", "100000000"], "--slots=100000000: must be"),
    "no output": (["batch", __file__, "--output", ""], "output='': must be a path"),
    "output of another host": (["batch", __file__, "--output", "file://host/x"], "file:///PATH"),
    "endless lease": (["batch", "in", "--output", "o", "--lease", "1e300"], "--lease=1e+300"),
    "a mesh of ²": (["batch", __file__, "--output", "/tmp", "--mesh", "data=²"], "--mesh 'data=²'"),
    "hosts without others": (
        ["batch", "in", "--output", "o", "--hosts", "2"],
        "--hosts 2 means nothing without --distributed",
    ),
    "eval without an output": (["eval", "--output", ""], "--output='': must be a path"),
    "no command": ([], "COMMAND"),
    "no prompt": (["generate"], "PROMPT"),
    "unwritable page": (
        ["generate", "PROMPT", "--html", "/nonexistent/page.html"],
        "cannot be written (no such folder)",
    ),
    "a folder as page": (["generate", "PROMPT", "--html", "/"], "cannot be written (it is a folder)"),
    "no page before the model": (["generate", "P", "--model", "/no", "--html", "/nonexistent/p"], "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, prompts, capsys):
    arguments, named = BAD[case]
    arguments = [prompts[0] if word == "PROMPT" else word for word in arguments]
    status = cli.main(arguments)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("#")]
    assert status == cli.BAD_INPUT
    assert len(lines) == 1, printed.err
    assert named in lines[0]
    assert "Traceback" not in printed.err


def test_a_failure_of_the_work_is_status_1(monkeypatch, capsys):
    def explode():
        raise RuntimeError("disk\non fire")

    monkeypatch.setattr(cli, "policy_rows", explode)
    assert cli.main(["policies"]) == command.FAILED
    assert capsys.readouterr().err.startswith("jaxdlm: RuntimeError: disk on fire")


NEEDED = {
    "generate": ["a"],
    "decide": ["in"],
    "batch": ["in", "--output", "o"],
    "warmup": ["in"],
    "eval": ["--output", "o"],
    "plan": ["--model", "m", "--topology", "t"],
    "serve": ["m"],
    "pull": ["m"],
}
EXTRA = [name for name in cli.COMMANDS if name not in ("generate", "models")]  # which take any number of words
USAGE = {
    **{f"{name}, unknown option": ([name, *NEEDED.get(name, []), "--jsom"], name, "option: --jsom") for name in cli.COMMANDS},
    **{f"{name}, a word too many": ([name, *NEEDED.get(name, []), "b"], name, "unexpected extra argument") for name in EXTRA},
    **{f"{name}, what it needs": ([name], name, "Missing") for name in NEEDED},
    "a value that is missing": (["generate", "a", "--policy"], "generate", "'--policy' requires an argument"),
    "no number": (["plan", *NEEDED["plan"], "--tokens", "many"], "plan", "'many' is not a valid float"),
    "no choice": (["batch", *NEEDED["batch"], "--order", "short"], "batch", "'short' is not one of 'longest', 'input'"),
    "close option": (["generate", "a", "--sed", "1"], "generate", "(did you mean '--seed'?)"),
    "unknown command": (["genrate", "a"], "", "No such COMMAND: genrate (did you mean 'generate'?)"),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line_that_names_the_help(case, capsys):
    arguments, name, named = USAGE[case]
    assert cli.main(arguments) == cli.BAD_INPUT
    printed = capsys.readouterr()
    where = f"jaxdlm {name}".strip()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"{where}: ") and printed.err.endswith(f"; see {where} --help\n")
    assert named in printed.err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_names_every_option(name, capsys):
    assert cli.main([name, "--help"]) == cli.OK
    shown = capsys.readouterr().out
    found = cli.root.get_command(None, name)
    assert all(option in shown for parameter in found.params for option in parameter.opts if option.startswith("-"))
    assert shown.startswith(f"Usage: jaxdlm {name} ")
    assert max(map(len, shown.splitlines())) <= 100


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == cli.OK
    shown = capsys.readouterr().out
    assert all(f"{name:9} {line}" in shown for name, (_, line) in cli.COMMANDS.items())
    assert cli.main(["--version"]) == cli.OK
    assert capsys.readouterr().out == f"jaxdlm {jaxdlm.__version__}\n"


LAZY = (
    "import sys; from jaxdlm.cli import main; main(sys.argv[1:]); print(*(n for n in sys.modules if n in {unwanted}))"
)


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_is_quick(name):
    """Without JAX or NumPy, and a command that is not asked for is not imported."""
    areas = {each: module.partition(":")[0] for each, (module, _) in cli.COMMANDS.items()}
    areas = {*areas.values()} - {"jaxdlm.cli", areas.get(name)}
    code = LAZY.format(unwanted=sorted({"jax", "numpy", "flax", "rich", *areas}))
    done = subprocess.run(
        [sys.executable, "-c", code, *name.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("Usage: jaxdlm"), done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_a_shell_completes_commands_and_options(monkeypatch, capsys):
    monkeypatch.setenv("_JAXDLM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "jaxdlm generate --max")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert cli.main([]) == 0
    assert capsys.readouterr().out == "plain,--max-new\n"


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["-5 + 3", "--seed", "-1"], ["-5 + 3"]),
        (["-5", "-", "--a b"], ["-5", "-", "--a b"]),
        (["a", "--", "--seed", "-x"], ["a", "--seed", "-x"]),
    ],
)
def test_prompts_that_begin_with_a_dash(words, read):
    found = cli.generate.make_context("generate", list(words)).params
    assert list(found["prompts"]) == read
    assert found["seed"] == (-1 if "-1" in words else 0)


def test_interruption_and_traceback(monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "policy_rows", stop)
    assert cli.main(["policies"]) == command.INTERRUPTED
    assert capsys.readouterr().err == "jaxdlm: interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        cli.main(["--traceback", "policies"])
    with pytest.raises(InputError, match="xyzzy"):
        cli.main(["--traceback", "examples", "--task", "xyzzy"])


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_failure():
    command = f'{sys.executable} -c \'from jaxdlm.cli import main; import sys; sys.exit(main(["policies", "--json"]))\''
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_policies_lists_every_recipe(capsys):
    from jaxdlm import policies

    assert cli.main(["policies", "--json"]) == cli.OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["method"] for row in rows} == set(policies.RECIPES)
    assert all(set(row) == set(cli.COLUMNS) for row in rows)
    assert cli.main(["policies"]) == cli.OK
    table = capsys.readouterr().out
    assert all(name in table for name in policies.RECIPES)
