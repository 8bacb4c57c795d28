"""`jaxdlm eval --suite` end to end on folders in the published layouts, and what bad input is told."""

import json
import pathlib

import pytest

from jaxdlm import cli, registry
from jaxdlm.eval import plots, rows, tables
from jaxdlm.eval.suites import _text
from jaxdlm.eval.suites._base import Request
from jaxdlm.eval.suites._files import rows as rows_of
from tests.eval.suites import folders

PLAIN = ("--policies", "threshold,tau=0.9", "--timing", "none")


def evaluate(name, data, output, *more):
    return cli.main(["eval", "--suite", name, "--data", str(data), "--output", str(output), *more])


def refused(capsys, *arguments):
    """The one line of an error."""
    assert cli.main(["eval", *arguments]) == cli.BAD_INPUT
    (line,) = [each for each in capsys.readouterr().err.splitlines() if not each.startswith("#")]
    return line


@pytest.fixture
def no_grammar(monkeypatch):
    """Nothing of the extra is installed."""
    monkeypatch.setattr(_text.importlib.util, "find_spec", lambda name: None)


@pytest.mark.slow
def test_parallelbench_from_its_files_to_its_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_text, "missing", lambda metric: "no LanguageTool here")
    monkeypatch.setattr(plots, "there", lambda: False)  # charts are not what is tested, and take half of the time
    data, output = folders.parallelbench(tmp_path / "data"), tmp_path / "out"
    arguments = (*PLAIN, "--limit", "3", "--max-new", "16")
    assert evaluate("parallelbench", data, output, *arguments) == cli.OK
    said = capsys.readouterr().err
    for left_out in ("words_to_sentence/easy", "paraphrase_summarize/samsum"):
        assert f"left out: {left_out}: no LanguageTool here" in said
    meta, found = rows.read(output / "rows.jsonl")
    assert meta["mixture"].startswith("parallelbench ") and len(found) == 12 * 3 * 2
    assert {row["task"].split("/")[0] for row in found} == {"waiting_line", "puzzle"}
    written = json.loads((output / "summary.json").read_text())
    average = [line for line in written["tables"] if line["task"] == tables.AVERAGE]
    assert {line["label"] for line in average} == {"low_confidence", "threshold,tau=0.9"}
    assert all(line["n"] == 36 and line["forwards"] > 0 for line in average)
    assert set(written["best"][0]["best_at"]) == {"80", "75", "70"}
    text = (output / "tables.md").read_text()
    assert "## waiting_line/shuffle" in text and "best at 80 %" in text and "left out: words_to_sentence/hard" in text
    before = (output / "rows.jsonl").read_bytes()
    assert evaluate("parallelbench", data, output, *arguments) == cli.OK  # nothing is left to do
    assert (output / "rows.jsonl").read_bytes() == before


@pytest.mark.slow
def test_specbench_goes_on_from_what_was_answered(tmp_path):
    data, output = folders.specbench(tmp_path / "data"), tmp_path / "out"
    more = ("--model", "tiny-ar", "--policies", "lookup", "--timing", "2", "--max-new", "8")
    assert evaluate("specbench", data, output, *more) == cli.OK
    _, found = rows.read(output / "rows.jsonl")
    ids = sorted(row["id"] for row in found if row["policy"] == "lookup")
    assert ids == sorted(
        [f"{kind}-0" for kind in ("translation", "summarization", "qa", "math_reasoning", "rag")]
        + [f"multi_turn-{n}{turn}" for n in (0, 1) for turn in ("", "#2")]
    )
    first, second = (
        {row["id"]: row for row in found if row["policy"] == name} for name in ("autoregressive", "lookup")
    )
    assert {key: row["tokens"] for key, row in first.items()} == {key: row["tokens"] for key, row in second.items()}
    assert all(row["correct"] is None for row in found)
    written = json.loads((output / "summary.json").read_text())
    line = next(x for x in written["tables"] if (x["task"], x["policy"]) == ("multi_turn", "lookup"))
    mine = [row for row in found if row["policy"] == "lookup" and row["task"] == "multi_turn"]
    assert line["tpf"] == round(sum(r["n_tokens"] for r in mine) / sum(r["forwards"] for r in mine), 5)
    assert "accepted per forward" in (output / "tables.md").read_text()


@pytest.mark.slow
def test_a_suite_that_runs_code_on_a_model(tmp_path):
    data, output = folders.mbpp(tmp_path / "data"), tmp_path / "out"
    arguments = (*PLAIN, "--run-code", "--shots", "0", "--max-new", "16", "--limit", "1")
    assert evaluate("mbpp", data, output, *arguments) == cli.OK
    assert [row["id"] for row in rows.read(output / "rows.jsonl")[1]] == ["mbpp-11"] * 2


@pytest.mark.parametrize("name", registry.suites())
def test_right_answers_of_every_suite_are_right(name, tmp_path, no_grammar, monkeypatch):
    """The stored answers pass; an answer beside the point does not; limit and shots are kept to."""
    suite = registry.suites()[name]
    data = folders.ALL[name](tmp_path / "data")
    monkeypatch.setattr("jaxdlm.eval.suites._code.passes", lambda source, tests: "return" in source)
    reading = suite.read(Request(data, limit=1))
    assert reading.tasks and all(len(task.items) == 1 for task in reading.tasks)
    for task in reading.tasks:
        (item,) = task.items
        assert item.messages[-1]["role"] == "user" and task.canvas >= 32
        json.dumps(item.payload)
        if task.grade is not None:
            assert task.grade(item.payload, item.answer).correct, item
            assert not task.grade(item.payload, "no").correct
    if suite.shots:
        assert len(reading.tasks[0].items[0].messages) == 2 * suite.shots + 1
        assert len(suite.read(Request(data, shots=0)).tasks[0].items[0].messages) == 1


def test_lists_are_generated_where_there_is_no_file_of_them(tmp_path, no_grammar):
    read = registry.suites()["parallelbench"].read
    stored = read(Request(folders.parallelbench(tmp_path / "a"), ("waiting_line",))).tasks
    data = folders.parallelbench(tmp_path / "b", lists=False)
    made = read(Request(data, ("waiting_line",)))
    assert [task.items for task in made.tasks] == [task.items for task in stored]
    assert len(made.notes) == 10 and "generated" in made.notes[0]
    (longer,) = read(Request(data, ("waiting_line_n11/copy",))).tasks
    assert longer.canvas == 96 and all(item.answer.count(",") == 10 for item in longer.items)


def test_prompts_are_those_of_the_files(tmp_path, no_grammar):
    read = registry.suites()["parallelbench"].read
    tasks = {task.name: task for task in read(Request(folders.parallelbench(tmp_path))).tasks}
    item = tasks["waiting_line/insert_index"].items[0]
    assert [m["role"] for m in item.messages] == ["user", "assistant", "user"]
    assert item.messages[2]["content"].startswith("insert_index this line: [")
    assert tasks["puzzle/sudoku_n4_12"].items[0].messages[0]["content"] == "Fill:\n1230\n3412\n2143\n4321\n"
    assert tasks["waiting_line/copy"].canvas == 32 and tasks["puzzle/latin_square_n4"].canvas == 64


def test_bad_input_is_told_in_one_line(tmp_path, capsys, no_grammar):
    data, output = folders.parallelbench(tmp_path / "data"), ("--output", str(tmp_path / "out"))
    of = lambda name, *more, data=data: refused(capsys, "--suite", name, "--data", str(data), *output, *more)  # noqa: E731
    assert "parallelbench" in of("paralellbench")
    assert "--data DIR" in refused(capsys, "--suite", "gsm8k", *output)
    assert "without --suite" in refused(capsys, "--limit", "3", *output)
    assert "--limit" in of("parallelbench", "--limit", "0")
    assert "--n means nothing" in of("parallelbench", "--n", "3")
    assert "no folder" in of("gsm8k", data=tmp_path / "absent")
    assert "test.*" in of("gsm8k") and "question.*" in of("specbench")
    assert "--run-code" in of("mbpp") and "leave it out" in of("gsm8k", "--run-code")
    assert "did you mean" in of("parallelbench", "--tasks", "waiting_lines")
    assert "pip install" in of("parallelbench", "--tasks", "words_to_sentence/easy")
    assert "--shots means nothing" in of("parallelbench", "--shots", "1")
    assert "autoregressive" in of("specbench", data=folders.specbench(tmp_path / "spec"))
    (data / "waiting_line/copy.jsonl").write_text('{"input": {"list": "[]"}, "answer": "[]"}\n')
    assert "context" in of("parallelbench")
    (data / "waiting_line/copy.jsonl").write_text('{"answer": "[]"}\n')
    assert "copy.jsonl: line 1 has no input: add it" in of("parallelbench")
    (data / "waiting_line/shuffle.jsonl").unlink()
    (data / "first_last_names.yaml").unlink()
    assert "shuffle.jsonl is missing" in of("parallelbench", "--tasks", "shuffle")


def test_bad_files_of_the_others(tmp_path, capsys):
    output = ("--output", str(tmp_path / "out"))
    of = lambda name, *more: refused(capsys, "--suite", name, "--data", str(tmp_path / name), *output, *more)  # noqa: E731
    for name in ("gsm8k", "math", "mbpp", "specbench"):
        folders.ALL[name](tmp_path / name)
    assert "--shots 0" in of("mbpp", "--run-code", "--shots", "9") or "--shots 3" in of(
        "mbpp", "--run-code", "--shots", "9"
    )
    assert "has 7 rows" in of("gsm8k", "--shots", "9")
    (tmp_path / "gsm8k/train.jsonl").unlink()
    assert "--shots 0" in of("gsm8k")
    (tmp_path / "gsm8k/test.jsonl").write_text('{"question": "q", "answer": "none"}\n')
    assert "no ####" in of("gsm8k", "--shots", "0")
    (tmp_path / "specbench/question.jsonl").write_text('{"category": "poems", "turns": ["a"]}\n')
    assert "poems" in of("specbench", "--model", "tiny-ar")
    (tmp_path / "math/test/algebra/0.json").write_text("{")
    assert "0.json is no JSON" in of("math")


def test_files_of_every_kind_are_read(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist([{"question": "q", "answer": "#### 1"}])
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "whole.json").write_text('[{"question": "q", "answer": "#### 1"}]')
    schema = {"question": lambda value, name: value}
    for file in ("test-00000-of-00001.parquet", "whole.json"):
        assert rows_of(pathlib.Path(tmp_path / file), schema) == [{"question": "q", "answer": "#### 1"}]
    assert len(registry.suites()["gsm8k"].read(Request(tmp_path, shots=0)).tasks[0].items) == 1


def test_the_tables_follow_from_the_rows():
    row = lambda policy, task, right, forwards: {  # noqa: E731
        "policy": policy, "settings": {}, "cache": "none", "task": task, "correct": right, "strict": False, "columns": 16,
        "n_tokens": 8, "forwards": forwards, "batch": 4,
    }  # fmt: skip
    some = [row("slow", task, True, 8) for task in "ab" for _ in range(4)]
    some += [row("fast", task, right, 2) for task in "ab" for right in (True, True, True, task == "a")]
    made = tables.tables(some, ["a", "b"])
    lines = {(line["policy"], line["task"]): line for line in made["settings"]}
    assert lines["fast", "average"]["accuracy"] == 87.5 and lines["fast", "average"]["tpf"] == 4
    assert lines["fast", "average"]["tpf_window"] == 8 and lines["fast", "b"]["accuracy"] == 75
    best = {(line["policy"], line["task"]): line["best_at"] for line in made["methods"]}
    assert best["fast", "average"]["80"]["tpf"] == 4 and best["fast", "b"]["80"] is None
    graded = [{**each, "marks": {"score": 0.5, "grammar_score": 1.0}} for each in some]
    assert {line["accuracy"] for line in tables.tables(graded, ["a", "b"])["settings"]} == {50}
