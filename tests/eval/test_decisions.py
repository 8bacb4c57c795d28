"""Decisions on labelled rows: figures against arithmetic by hand, the file that ships, a run that goes on."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import cli
from jaxdlm.batch.source import source
from jaxdlm.decisions import metrics as measures
from jaxdlm.eval import decisions, plots
from tests.batch.jobs import write

ROOT = pathlib.Path(__file__).parents[2]


def test_the_rows_that_ship_are_those_of_their_script():
    spec = importlib.util.spec_from_file_location("labelled", ROOT / "benchmarks" / "labelled.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    shipped = [json.loads(line) for line in decisions.FILE.read_text(encoding="utf-8").splitlines()]
    assert shipped == made.rows() and len(shipped) == 200
    names = [next(iter(row["answers"])) for row in shipped]
    assert {name: names.count(name) for name in names} == dict.fromkeys(("urgency", "sentiment", "topic", "fact"), 50)
    assert len(decisions.read(None, 3).raws) == 12 and len(decisions.read(None, None).raws) == 200


def line(row, reader, question, p, right, **more):
    own = {"row": row, "id": row, "reader": reader, "question": question, "probabilities": p, "right": right}
    usual = {"kind": "row", "type": "choice", "status": "ok", "reads": 2, "label_mass": 0.5, "spread": 0.0, "flips": 0}
    return own | usual | {"seconds": 1.0} | more


def test_figures_by_hand():
    lines = [
        line(0, decisions.LISTED, "a", [0.8, 0.2], 1), line(1, decisions.LISTED, "a", [0.6, 0.4], 0),
        line(0, decisions.ORDERS, "a", [0.4, 0.6], 1), line(1, decisions.ORDERS, "a", [0.7, 0.3], 0),
        line(2, decisions.LISTED, "s", [0.2, 0.3, 0.5], 2, type="score"),
        line(3, decisions.LISTED, "s", [], 2, type="score", status="nonfinite", label_mass=None),
    ]  # fmt: skip
    made = decisions.summarise(lines)
    points = {(point["question"], point["reader"]): point for point in made["decisions"]}
    listed, orders = points["a", decisions.LISTED], points["a", decisions.ORDERS]
    assert (listed["accuracy"], orders["accuracy"], listed["n"], listed["reads"]) == (0.5, 1.0, 2, 2)
    assert listed["brier"] == pytest.approx((2 * 0.64 + 2 * 0.16) / 2) and "delta" not in listed
    assert listed["nll"] == pytest.approx(-np.log([0.2, 0.6]).mean())
    assert orders["delta"] == pytest.approx(1 / 4), "one row more is right, half a count in each cell"
    score = points["s", decisions.LISTED]
    assert (score["n"], score["unanswered"]) == (1, 1) and "distance" not in listed
    assert score["distance"] == pytest.approx(2 - 1.3) and score["ranked"] == pytest.approx(0.2**2 + 0.5**2)
    whole = points["all", decisions.LISTED]
    assert (whole["n"], whole["accuracy"], whole["unanswered"]) == (3, pytest.approx(2 / 3), 1)
    assert sum(each["n"] for each in made["reliability"][decisions.LISTED]) == 3


def test_what_is_covered():
    top, right = np.array([0.9, 0.8, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1, 1], bool)
    assert measures.covered(top, right) == 0.2, "equal probabilities are covered together"
    assert measures.covered(top, right, wrong=0.25) == 1.0 and measures.covered(top, ~right) == 0.0


WORDS = ("Kate", "Omar", "Fay")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    asked = [
        {
            "type": "choice",
            "name": "first",
            "instructions": "pick the first item",
            "choices": [{"value": x} for x in WORDS],
        }
    ]
    rows = [{"id": k, "prompt": f"[ {WORDS[k % 3]} , {WORDS[k % 2]} ]", "questions": asked, "answers": {"first": WORDS[k % 3]}}
            for k in range(4)]  # fmt: skip
    return write(tmp_path_factory.mktemp("labelled") / "rows.jsonl", rows)


@pytest.mark.slow
def test_a_run_is_that_of_decide_and_goes_on(file, tmp_path, capsys):
    words = ["eval", "--tasks", "decisions", "--labelled", file, "--output", str(tmp_path / "out"), "--batch", "4"]
    assert cli.main([*words, "--n", "2"]) == cli.OK
    first = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert cli.main(words) == cli.OK
    lines = [json.loads(each) for each in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [json.dumps(each, separators=(",", ":")) for each in lines[: len(first)]] == first and len(
        lines
    ) == 1 + 4 * 4
    raws = [json.loads(raw.value) for raw in source(file).rows()]
    answers = jd.decide(
        jd.load("tiny"),
        [raw["prompt"] for raw in raws],
        raws[0]["questions"],
        orders="cyclic",
        prior="contextual",
        batch=4,
    )
    own = {each["row"]: each["probabilities"] for each in lines[1:] if each["reader"] == decisions.PRIOR}
    assert [own[row] for row in range(4)] == [list(answer["first"].probabilities.values()) for answer in answers]
    before = {each["row"]: each["probabilities"] for each in lines[1:] if each["reader"] == decisions.ORDERS}
    assert [before[row] for row in range(4)] == [pytest.approx(np.exp(answer["first"].logits)) for answer in answers], (
        "without the prior"
    )
    made = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [point["n"] for point in made["decisions"]] == [4] * 4 and "Decisions of tiny" in (
        tmp_path / "out" / "report.html"
    ).read_text()
    assert (tmp_path / "out" / "reliability.svg").exists() == plots.there()
    other = write(tmp_path / "other.jsonl", raws[:2])
    assert (
        cli.main([*words[:4], other, *words[5:]]) == cli.BAD_INPUT
        and "choose another --output" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labelled", "x.jsonl"], "--labelled means nothing without --tasks decisions"),
        (["--tasks", "decisions"], "tiny has few words, and the labelled rows are English: give --labelled"),
        (["--tasks", "decisions", "--policies", "random"], "--policies means nothing with --tasks decisions"),
        (["--tasks", "decisions", "--timing", "1"], "--timing means nothing with --tasks decisions"),
        (["--tasks", "decisions", "--labelled", "none.jsonl"], "none.jsonl"),
        (["--tasks", "decisions,copy"], "decisions stands alone"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", "--output", "out", *words]) == cli.BAD_INPUT
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {}}, "line 1 is no labelled row"),
        ({"answers": {"last": "Kate"}}, "line 1: answers has 'last', which is no question of the row"),
        ({"answers": {"first": "Alan"}}, "line 1: the label 'Alan' of 'first' is none of its options"),
        ({"orders": 2}, "line 1 is no labelled row"),
        ({"prompt": "sort : [ Wladimir ]"}, "line 1, question 'first': unknown word 'Wladimir'"),
    ],
)
def test_rows_that_are_not_labelled(change, message, file):
    (raw, *_) = source(file).rows()
    from jaxdlm.batch.decisions import Readers, labelled

    with pytest.raises(jd.InputError, match=message):
        labelled(raw._replace(value=json.dumps(json.loads(raw.value) | change).encode()), Readers(jd.load("tiny"), {}))
