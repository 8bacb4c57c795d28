"""Lines of JSON in, lines out: three shapes, one bad row alone, resumable jobs with the same bytes."""

import io
import json
import pathlib

import pytest

import jaxdlm as jd
from jaxdlm import cli
from jaxdlm.batch import decide_job as jobs
from jaxdlm.batch import rows
from jaxdlm.batch import self_check as check
from jaxdlm.batch.decisions import Lines, Readers, Row, understand
from jaxdlm.batch.rows import Raw, Refusal
from jaxdlm.decisions import calibrate, output
from tests.batch.jobs import results, write
from tests.decisions.toys import net

NAMES = ["Kate", "Omar", "Fay", "Alan"]
LM = jd.load("tiny")
SETTINGS = {"read": "text"}


def choice(*names):
    return [{"type": "choice", "name": "first", "instructions": "pick", "choices": [{"value": name} for name in names]}]


def row(index: int, **fields) -> dict:
    state = f"reverse : [ {NAMES[index % 4]} , {NAMES[(index + 1) % 4]} ]"
    asked = {"first": {"type": "choice", "criteria": {f"[ {NAMES[(index + 1) % 4]} , {NAMES[index % 4]} ]": None,
                                                      f"[ {NAMES[index % 4]} , {NAMES[index % 4]} ]": None}}}  # fmt: skip
    return {"id": f"row {index}", "prompt": state, "questions": asked} | fields


def raw(value, number: int = 0) -> Raw:
    return Raw(number, number + 1, value if isinstance(value, bytes) else json.dumps(value).encode())


def answered(value, lm=LM, **settings) -> dict:
    """The output line of one input line, as an object."""
    readers = Readers(lm, SETTINGS | settings)
    read, writer = understand(raw(value), readers, {}), Lines(readers.plain.named())
    if isinstance(read, Refusal):
        return json.loads(writer.refusal(read).data)
    from jaxdlm.batch.decisions import decided

    ((_, outcome),) = decided([read])
    return json.loads(writer.answer(read, outcome).data)


@pytest.mark.slow
def test_a_row_of_ours():
    found = answered(row(0))
    assert list(found) == ["id", "answers", "usage", "diagnostics", "status", "reader"]
    answer = found["answers"]["first"]
    assert answer["value"] == "[ Omar , Kate ]" and answer["probabilities"][0]["value"] == "[ Omar , Kate ]"
    assert sum(each["probability"] for each in answer["probabilities"]) == pytest.approx(1)
    direct = jd.decide(LM, [row(0)["prompt"]], row(0)["questions"], read="text")[0]["first"]
    assert [each["probability"] for each in answer["probabilities"]] == list(direct.probabilities.values())
    assert found["usage"] == {"forwards": direct.forwards, "tokens_read": direct.tokens_read}
    assert found["diagnostics"]["first"]["label_mass"] == direct.label_mass


def test_bodies_for_openai_and_typesafe_run_as_they_are():
    pick = "pick the first item"
    body = {"model": "m", "input": "sort : [ Kate , Omar ]", "questions": choice("[ Kate , Omar ]", "[ Omar , Kate ]"),
            "safety_identifier": "x", "cache_salt": "y", "joint": False}  # fmt: skip
    body["questions"][0]["instructions"] = pick
    found = answered({"custom_id": "a", "url": "/v1/decisions", "body": body})
    assert found["custom_id"] == "a" and found["error"] is None and found["response"]["status_code"] == 200
    (answer,) = found["response"]["body"]["answers"]
    assert list(answer) == ["name", "type", "choice", "confidence", "probabilities"]
    assert found["response"]["body"]["usage"]["output_tokens"] == 0
    chat = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "sort : [ Kate , Omar ]"}]}]
    (other,) = answered({"custom_id": "a", "body": body | {"input": chat}})["response"]["body"]["answers"]
    assert other == answer
    criteria = {"[ Kate , Omar ]": None, "[ Omar , Kate ]": None}
    asked = {"order": {"type": "choice", "instructions": pick, "criteria": criteria}}
    body = {"state": "sort : [ Kate , Omar ]", "questions": asked, "diagnostics": True, "joint": False}
    found = answered({"custom_id": "b", "url": "/v1/systemone", "body": body})["response"]["body"]
    assert found["answers"]["order"]["probabilities"] == {x["value"]: x["probability"] for x in answer["probabilities"]}
    assert set(found["diagnostics"]["order"]) == {"label_mass", "argmax_is_label"}


def test_scores_and_truths_in_every_shape():
    asked = [jd.Choice("c", ["True", True, False]), jd.Score("s", ["big", "small"]), jd.Predicate("p")]
    from jaxdlm.decisions.output import Decision, RowAnswers

    told = (
        Decision("choice", True, {"True": 0.1, True: 0.7, False: 0.2}, confidence=0.55),
        Decision("score", 1, {0: 0.25, 1: 0.75}, score=0.75, confidence=0.5),
        Decision("predicate", True, {True: 0.9, False: 0.1}, probability=0.9),
    )
    answers = RowAnswers(7, tuple(asked), told, "m", "r", "r")
    c, s, p = answers.to_row("openai")["answers"]
    assert c["choice"] is True and [each["value"] for each in c["probabilities"]] == ["True", True, False]
    assert s == {"name": "s", "type": "score", "confidence": 0.5, "score": 0.75, "probabilities": [
        {"value": 0, "label": "big", "probability": 0.25}, {"value": 1, "label": "small", "probability": 0.75}]}  # fmt: skip
    assert p == {"name": "p", "type": "predicate", "probability": 0.9}
    found = answers.to_row("typesafe")["answers"]
    assert found["s"] == {"type": "score", "score": 0.75, "confidence": 0.5, "legend": {"0": "big", "1": "small"},
                          "probabilities": {"0": 0.25, "1": 0.75}}  # fmt: skip
    assert found["p"] == {"type": "noul", "noul": 0.9}


def test_an_unnamed_question_has_no_name():
    body = {
        "input": "sort : [ Kate ]",
        "questions": [{k: v for k, v in choice("Kate", "Omar")[0].items() if k != "name"}],
    }
    (answer,) = answered({"custom_id": "a", "body": body})["response"]["body"]["answers"]
    assert answer["name"] is None


def wired(given) -> dict:
    return {"custom_id": "a", "body": {"input": given, "questions": choice("a", "b")}}


REFUSED = {
    "no questions": ({"id": 1, "prompt": "sort"}, "line 1 has no questions"),
    "no prompt": ({"id": 1, "questions": choice("a", "b")}, "line 1 has no prompt: give exactly one of"),
    "two prompts": (row(0, state="x"), "line 1 has prompt and state"),
    "unknown field": (row(0, ordres=2), "unknown field 'ordres' (did you mean 'orders'?)"),
    "image": (wired([{"role": "user", "content": [{"type": "input_image"}]}]), "is an image"),
    "tool call": (wired([{"type": "function_call"}]), "type 'function_call' is not read here"),
    "box": ({"custom_id": "a", "body": {"state": "x", "questions": {"d": {"type": "box"}}}}, "a box is a place in an image"),
    "another url": ({"custom_id": "a", "url": "/v1/embeddings", "body": {}}, "url '/v1/embeddings' asks no question"),
    "generation": (row(0, response_format={"type": "text"}), "unknown field 'response_format'"),
    "joint": (row(0, joint=True), "read='text' means nothing in a reply to several questions"),
    "joint no flag": (row(0, joint=1), "joint=1: must be true or false"),
    "own seed": (row(0, seed="x"), "line 1: seed='x': must be a whole number"),
    "own order": (row(0, order=[1, 1]), "order=[1, 1]: must have every column"),
    "own steps": (row(0, steps=4), "steps=4: tiny has no noise"),
    "own circle": (row(0, questions={"a": {"type": "noul", "instructions": "?", "depends_on": "a"}}), "break the circle"),
    "own law": (row(0, law="lottery"), "law='lottery'"),
    "no JSON": (b"{", "line 1 is not JSON"),
    "unknown word": (row(0, prompt="sort : [ Wladimir ]"), "unknown word 'Wladimir'"),
    "tokens no ids": ({"tokens": ["a"], "questions": choice("a", "b")}, "tokens[0]='a'"),
    "too long": (row(0, prompt="sort " * 100), "this model reads at most 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_is_its_own_error(case):
    value, message = REFUSED[case]
    found = answered(value)
    wire = isinstance(value, dict) and "custom_id" in value
    error = found["error"]["message"] if wire else found["error"]
    assert message in error and "\n" not in error and error.startswith(("line 1: ", "line 1 ", "line 1, "))
    assert (found["custom_id"], found["response"]) == ("a", None) if wire else found["status"] == "error"


def test_a_job_of_generations_says_who_answers_questions():
    refused = rows.read(raw(row(0)), LM, rows.Defaults(8, 0), {})
    assert "line 1 has questions, which jaxdlm decide answers" in refused.message


@pytest.mark.slow
def test_rows_may_have_their_own_settings():
    plain, other = answered(row(0)), answered(row(0, law="product", seed=3))
    assert plain["reader"] != other["reader"] and other["usage"]["forwards"] == 1


def test_a_prior_that_cannot_be_read_is_the_error_of_its_row():
    """The first row's question is in its text alone, so that there is nothing to ask without one."""
    readers = Readers(LM, SETTINGS | {"prior": 0.5})
    pick = row(1)
    pick["questions"]["first"]["instructions"] = "pick the first item"
    bad, good = (understand(raw(value, index), readers, {}) for index, value in enumerate((row(0), pick)))
    assert isinstance(bad, Refusal) and "question 'first': its prior is empty" in bad.message
    from jaxdlm.batch.decisions import decided

    ((_, outcome),) = decided([good])
    assert outcome.answers.status == "ok" and len(readers.plain.priors) == 1


def test_seeds_of_rows_make_no_readers():
    lm = net("uniform")
    readers = Readers(lm, {"draws": 2})
    option = lambda name, token: jd.Option(name, tokens=(token,))  # noqa: E731
    asked = {"a": jd.Choice("a", [option("x", 3), option("y", 4)])}
    told = [jd.decide(lm, [[5, 6]], asked, draws=2, seed=seed, ids=[4])[0]["a"].logits for seed in (0, 9)]
    rows = [readers.plain.prepare([5, 6], (asked["a"],), 4, "row", seed) for seed in (None, 9)]
    assert [each["a"].logits for each in readers.plain.answer(rows)] == told and told[0] != told[1]
    assert not readers._made


def lines_of(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_the_command_answers_a_file_and_stdin(tmp_path, capsys, monkeypatch):
    values = [row(index) for index in range(5)]
    source = write(tmp_path / "in.jsonl", [*values[:2], {"id": "bad"}, *values[2:]])
    assert cli.main(["decide", source, "--read", "text"]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [each["id"] for each in found] == ["row 0", "row 1", "bad", "row 2", "row 3", "row 4"]
    assert [each["status"] for each in found] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert printed.err == "jaxdlm: 1 of the rows could not be read; each has its error in its place\n"
    text = b"".join(json.dumps(value).encode() + b"\n\n" for value in values)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert cli.main(["decide", "-", "--read", "text"]) == cli.OK
    assert lines_of(capsys) == [each for each in found if each["status"] == "ok"]


def job(source: str, output: pathlib.Path, **more) -> jobs.DecideJob:
    return jobs.decide_job(source, str(output), LM, Readers(LM, SETTINGS), shard_rows=3, quiet=True, **more)


class Killed(BaseException):
    """Nothing that the job does afterwards reaches the store."""


@pytest.mark.slow
def test_a_job_has_the_same_bytes_after_kills(tmp_path):
    source = write(tmp_path / "in.jsonl", [*(row(index) for index in range(7)), {"id": "bad"}])
    assert job(source, tmp_path / "whole").run() == 0
    whole = results(tmp_path / "whole")
    assert [json.loads(line)["id"] for line in whole.splitlines()] == [*(f"row {i}" for i in range(7)), "bad"]
    for writes in range(1, 8, 2):
        part = job(source, tmp_path / str(writes), flush=1e-9)
        left = [writes]

        def put(name, data, old=part.store.put, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return old(name, data)

        part.store.put = put
        with pytest.raises(Killed):
            part.run()
        assert job(source, tmp_path / str(writes)).run() == 0
        assert results(tmp_path / str(writes)) == whole
    direct = [json.dumps(answered(row(index)), ensure_ascii=False).encode() for index in range(7)]
    assert whole.splitlines()[:7] == direct, "a job and a single row have the same bits"


def test_another_reader_is_another_job(tmp_path):
    source = write(tmp_path / "in.jsonl", [row(0)])
    assert job(source, tmp_path / "out").run() == 0
    other = jobs.decide_job(source, str(tmp_path / "out"), LM, Readers(LM, SETTINGS | {"temperature": 2.0}), quiet=True)
    with pytest.raises(jd.InputError, match="belongs to another job"):
        other.run()


@pytest.mark.slow
def test_a_calibration_by_the_command(tmp_path, capsys):
    values = [row(index, questions=choice("[ Kate , Omar ]", "[ Omar , Kate ]"), answers={"first": "[ Omar , Kate ]"})
              for index in range(4)]  # fmt: skip
    for value in values:
        value["questions"][0]["instructions"] = "pick the first item"
    source, file = write(tmp_path / "in.jsonl", values), str(tmp_path / "cal.json")
    assert cli.main(["decide", source, "--read", "text", "--calibrate", "--output", file]) == cli.OK
    (told,) = lines_of(capsys)
    assert told["n"] == 4 and told["nll_after"] <= told["nll_before"]
    assert cli.main(["decide", source, "--read", "text", "--calibration", file]) == cli.OK
    assert all(each["status"] == "ok" for each in lines_of(capsys))
    assert calibrate.read(file).text() == pathlib.Path(file).read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibrate"], "--calibrate writes a file: add --output"),
        (["--calibrate", "--output", "o", "--calibration", "c"], "exclude each other"),
        (["--balance"], "--balance means nothing without --calibrate"),
        (["--calibrate", "--output", "o", "--prior", "1"], "leave --prior and --temperature out"),
        (["--new-run"], "--new-run belongs to a job"),
        (["--shard-rows", "3"], "--shard-rows belongs to a job"),
        (["--prior", "much"], "--prior 'much': must be contextual"),
        (["--orders", "-1"], "orders='-1'"),
        (["--order", "2,x"], "order='2,x': must be"),
        (["--self-check", "--output", "o"], "--self-check prints what it measures"),
        (["--law", "lottery"], "'lottery' is not one of"),
        (["--template", "nothing"], "has no {state}"),
        (["--calibration", "none.json"], "calibration none.json cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in.jsonl", [row(0)])
    assert cli.main(["decide", source, *words]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err
    assert not list(tmp_path.glob("o*"))


@pytest.mark.slow
def test_a_self_check_measures_shapes_and_finds_no_other_bits(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [row(0), {"id": "bad"}, row(1)])
    assert cli.main(["decide", source, "--read", "text", "--batch", "2", "--self-check"]) == cli.OK
    (told,) = lines_of(capsys)
    assert (told["rows"], told["compared"], told["differing"], told["shapes"]) == (2, 4, 0, [1, 4])
    assert 0 <= told["largest"] < 1e-3 and told["reread"] == 0.0, "float32"
    assert cli.main(["decide", write(tmp_path / "none.jsonl", [{"id": 1}]), "--self-check"]) == cli.BAD_INPUT
    assert "none of the rows can be read" in capsys.readouterr().err


def test_a_self_check_counts_what_changes(monkeypatch, capsys, tmp_path):
    """Answers that know the rows beside them: a failure, and a bound for calls that are too close."""

    def answers(raws, readers):
        size = readers.settings["batch"]
        told = jd.Decision("choice", "a", {"a": 0.6, "b": 0.4}, logits=(-0.5, -0.9 - 0.01 * size - 0.001 * len(raws)))
        return {
            raw.row: output.RowAnswers(raw.row, (jd.Choice("q", ["a", "b"]),), (told,), "m", "r", "r") for raw in raws
        }

    lm = net("ar", "bfloat16")
    monkeypatch.setattr(check, "_answers", answers)
    monkeypatch.setattr(check, "understand", lambda *_: Row(*[None] * 8))
    told = check.self_check([raw(row(k), k) for k in range(3)], lm, {"batch": 4})
    assert (told["compared"], told["differing"], told["flips"]) == (6, 3, 0), "alone they are others"
    assert told["largest"] == pytest.approx(0.04) and told["reread"] == pytest.approx(0.08), "of shapes 1, 2, 8"


@pytest.mark.slow
def test_a_row_that_is_read_alone_is_read_alike():
    values = [row(index) for index in range(5)]
    readers = Readers(LM, SETTINGS)
    read = [understand(raw(value, index), readers, {}) for index, value in enumerate(values)]
    assert all(isinstance(each, Row) for each in read)
    from jaxdlm.batch.decisions import decided

    together = [outcome.answers.to_row() for _, outcome in decided(read)]
    assert together == [answered(value) for value in values]
